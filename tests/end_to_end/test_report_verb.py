"""`dpbench report`: the page, the page as PDF, and what it refuses."""

import pypdf
import pytest
from reported_runs import write_run, write_sharing_run

from dpbench.report.page import write_page
from dpbench.viewing.reports import report_of_run


def test_the_verb_writes_a_page_and_prints_it(dpbench, tmp_path):
    run = write_sharing_run(tmp_path / "sharing")
    write_page(report_of_run(run), tmp_path / "expected.html")
    outcome = dpbench("report", run, "--output", tmp_path / "page.pdf")
    assert outcome.status == 0, outcome.err
    assert "written to" in outcome.out
    text = pypdf.PdfReader(tmp_path / "page.pdf").pages[0].extract_text()
    assert "test" in text
    outcome = dpbench("report", run)
    assert outcome.status == 0
    assert (run / "report.html").read_text() == (tmp_path / "expected.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--output", "page.txt"], "a report ends in .html or .pdf"),
        (["RUN", "--pdf"], "install one"),
        (["NOWHERE"], "is not a run directory"),
        (["EMPTY"], "holds no record yet"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_line(dpbench, tmp_path, monkeypatch, arguments, said):
    run = write_run(tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "empty" / "records").mkdir(parents=True)
    places = {"RUN": run, "NOWHERE": tmp_path, "EMPTY": tmp_path / "empty"}
    outcome = dpbench("report", *(places.get(one, one) for one in arguments))
    assert outcome.status == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
