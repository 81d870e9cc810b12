"""`dpbench verify` of what others hand in: do they say where it comes from, and is it so?"""

import shutil
from pathlib import Path

import kept_run
import pytest
from tiny_suite import SUITE

from dpbench.gate.provenance import ASKED, contradictions_of
from dpbench.protocols.known import loaded
from dpbench.records.store import CELLS
from dpbench.running.options import Options

TEMPLATE = Path(__file__).resolve().parents[3] / "leaderboards" / "entries" / "TEMPLATE"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    entry = tmp_path_factory.mktemp("made") / "entry"
    kept_run.make_run(entry, board=False)
    (entry / "suite.toml").write_text(SUITE.replace("tiny", "test"))
    return entry


@pytest.fixture
def entry(made, tmp_path):
    entry = shutil.copytree(made, tmp_path / "entry")
    say(entry)
    return entry


def say(entry, **changes):
    commit = next(CELLS.all(entry)).environment.get("commit") or "0123abc"
    told = dict.fromkeys(ASKED, "said") | {"when": "2026-01-31", "commit": commit} | changes
    (entry / "provenance.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in told.items()))


def test_an_entry_that_says_all_is_verified_with_its_images(entry, dpbench):
    outcome = dpbench("verify", entry)
    assert outcome.status == 0, outcome
    assert "the figures of 8 images computed again" in outcome.out


def test_an_entry_without_images_is_taken_as_told_and_that_is_said(entry, dpbench):
    shutil.rmtree(entry / "reconstructions")
    shutil.rmtree(entry / "pictures")
    outcome = dpbench("verify", entry)
    assert outcome.status == 0
    assert "the images of 2 attacks are not in it" in outcome.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"who": " "}, "does not say who: names"),
        ({"when": "yesterday"}, "expected a day, 2026-01-31"),
        ({"colour": "red"}, "has keys that mean nothing here: colour"),
        ({"command": 'x" y'}, "TOML syntax error"),
    ],
)
def test_what_is_missing_or_wrong_is_found(entry, dpbench, changes, said):
    say(entry, **changes)
    outcome = dpbench("verify", entry)
    assert outcome.status == 1
    assert said in outcome.out


def test_what_the_records_do_not_bear_out_is_found(entry):
    records = [
        record.model_copy(update={"created": "2026-01-02T00:00:00+00:00", "environment": {"commit": "0123abcdef"}})
        for record in CELLS.all(entry)
    ]
    remarks = []
    say(entry, commit="99", when="2026-03-01")
    found = list(contradictions_of(entry, records, remarks))
    assert found == [
        "says that the run was on 2026-03-01, its records are of 2026-01-02 to 2026-01-02",
        "says commit '99', its records are of 0123abcdef",
    ]
    say(entry, commit="0123abc", when="2026-01-03")
    assert not list(contradictions_of(entry, records, remarks))
    edited = [record.model_copy(update={"environment": {"commit": "0123abcdef+"}}) for record in records]
    assert not list(contradictions_of(entry, edited, remarks))
    unknown = [record.model_copy(update={"environment": {}}) for record in records]
    assert not list(contradictions_of(entry, unknown, remarks))
    assert [line.partition(": ")[2][:9] for line in remarks] == ["records o", "no record"]


def test_the_suite_must_be_that_of_the_records(entry, dpbench):
    (entry / "suite.toml").write_text(SUITE)
    assert "lies beside the suite 'tiny', its records are of test" in dpbench("verify", entry).out
    (entry / "other.toml").write_text(SUITE)
    assert "lies beside 2 suites" in dpbench("verify", entry).out
    (entry / "other.toml").unlink()
    (entry / "suite.toml").write_text("nothing = 1")
    assert dpbench("verify", entry).status == 1


def test_the_template_asks_for_what_is_looked_for():
    text = (TEMPLATE / "provenance.toml").read_text(encoding="utf-8")
    assert [line.partition(" = ")[0] for line in text.splitlines() if " = " in line and line[0] != "#"] == list(ASKED)
    protocol, suite = loaded(str(TEMPLATE / "suite.toml"))
    assert protocol.plan(suite, Options(), lambda text: None).units
