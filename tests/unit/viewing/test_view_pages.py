"""`dpbench view`: what it shows of runs, and what it refuses to whom."""

import html
import http.client
import os
import re
import shutil
import threading
import urllib.parse

import pytest
from kept_run import make_run, make_sharing_run
from record_factory import make_record

from dpbench.errors import DpbenchError
from dpbench.records.progress import Progress
from dpbench.records.store import CELLS, picture_path
from dpbench.viewing.runs import find
from dpbench.viewing.server import Server


@pytest.fixture
def folder(tmp_path):
    """Two runs of cells, the second with less noise in its pictures' figures, and one of shared features."""
    make_run(tmp_path / "first")
    make_run(tmp_path / "deep" / "second")
    for record in list(CELLS.all(tmp_path / "deep" / "second")):
        better = {**record.fidelity, "ssim": [value - 0.3 for value in record.fidelity["ssim"]]}
        CELLS.write(tmp_path / "deep" / "second", record.model_copy(update={"fidelity": better}))
    make_sharing_run(tmp_path / "sharing")
    return tmp_path


@pytest.fixture
def ask(folder):
    """Asks a server of the folder: path and headers -> status, headers, text."""
    with Server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host, port = server.server_address[:2]

        def asked(path, *, method="GET", host_header=f"127.0.0.1:{port}", **query):
            connection = http.client.HTTPConnection(host, port, timeout=20)
            target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
            connection.putrequest(method, target, skip_host=True)
            if host_header is not None:
                connection.putheader("Host", host_header.format(port=port))
            connection.endheaders()
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, dict(answer.getheaders()), content.decode("utf-8", "replace")

        yield asked
        server.shutdown()
        thread.join()


def test_runs_are_listed_wherever_they_lie_below_the_folder(ask):
    status, _, text = ask("/")
    assert status == 200
    for name in ("first", "deep/second", "sharing"):
        assert f">{name}</a>" in text
    assert "2 records" in text
    assert "sharing</td>" in text


def test_a_run_itself_can_be_looked_at(folder):
    with Server(folder / "first", 0) as server:
        assert ">first</a>" in server.pages.answer("/", {})[1].decode()


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with Server(tmp_path, 0) as server:
        assert "No run here yet" in server.pages.answer("/", {})[1].decode()


def test_a_run_that_goes_on_is_followed(ask, folder):
    units = [record.id for record in CELLS.all(folder / "first")]
    Progress.begin(folder / "first", [*units, "another"])
    text = ask("/follow", run="first")[2]
    assert "going on: 2 of 3 cells" in text
    assert 'http-equiv="refresh"' in text
    assert 'value="2"' in text
    assert "2 measured, 0 failed" in text
    assert 'http-equiv="refresh"' not in ask("/follow", run="first", still="yes")[2]
    Progress.begin(folder / "first", units)
    text = ask("/follow", run="first")[2]
    assert "finished: 2 of 2 cells" in text
    assert 'http-equiv="refresh"' not in text


def test_a_run_that_has_been_quiet_for_long_may_have_been_stopped(folder):
    Progress.begin(folder / "first", ["another"])
    for path in (folder / "first").rglob("*"):
        os.utime(path, (1e9, 1e9))
    run = find(folder)["first"]
    assert run.state == "stopped, or stuck: 0 of 1 cells"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"units": [1], "started": ""}', "\xff"])
def test_a_damaged_progress_file_says_nothing(folder, text):
    (folder / "first" / "progress.json").write_bytes(text.encode("latin-1"))
    assert find(folder)["first"].state == "2 records"


def test_a_new_record_is_seen_at_the_next_look(ask, folder):
    before = ask("/report", run="first")[2]
    record = make_record(attack="gan", victims=4, failed="out of memory", reid_rank=None)
    CELLS.write(folder / "first", record)
    assert "2 measured, 1 failed" in ask("/follow", run="first")[2]
    assert "out of memory" in ask("/follow", run="first")[2]
    assert "out of memory" not in before
    assert "out of memory" in ask("/report", run="first")[2]


def test_a_report_is_that_of_the_run(ask):
    status, headers, text = ask("/report", run="first")
    assert status == 200
    assert "Can the images be recovered?" in text
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"  # its own names its scripts
    assert "Content-Security-Policy" in text


def test_two_runs_are_set_side_by_side(ask):
    status, _, text = ask("/compare", one="first", other="deep/second")
    assert status == 200
    assert text.count("Can the images") == 0
    assert '<span class="better">better (-0.30)</span>' in text

    assert text.count('alt="victim 1"') == 2


def test_runs_of_two_protocols_have_nothing_in_common(ask):
    status, _, text = ask("/compare", one="first", other="sharing")
    assert status == 400
    assert "there is nothing to compare" in text
    assert "All runs" in text


def test_pictures_of_records_are_shown_and_no_other_file(ask, folder):
    unit = next(iter(CELLS.all(folder / "first"))).id
    status, headers, _ = ask("/picture", run="first", unit=unit)
    assert (status, headers["Content-Type"]) == (200, "image/png")
    secret = folder / "secret.png"
    secret.write_bytes(picture_path(folder / "first", unit).read_bytes())
    for name in ("../../secret", "../secret", str(secret.with_suffix("")), "%2e%2e/secret", ""):
        assert ask("/picture", run="first", unit=name)[0] == 404
    picture_path(folder / "first", unit).unlink()
    (folder / "passwords").write_text("root")
    picture_path(folder / "first", unit).symlink_to(folder / "passwords")
    assert ask("/picture", run="first", unit=unit)[0] == 404


def test_pictures_elsewhere_are_not_shown_though_a_link_in_a_run_leads_there(ask, folder, tmp_path_factory):
    unit = next(iter(CELLS.all(folder / "first"))).id
    elsewhere = picture_path(folder / "first", unit).rename(tmp_path_factory.mktemp("home") / "me.png")
    picture_path(folder / "first", unit).symlink_to(elsewhere)
    assert ask("/picture", run="first", unit=unit)[0] == 404


ODD = ("a b&c=d#e", "50%2e", "<b>&quot;", "ünï 日本", "new\nline", "\udcff\udcfe", "-rf", "a'\"`")


def test_runs_may_have_any_name(ask, folder):
    for name in ODD:
        shutil.copytree(folder / "first", folder / name)
    text = ask("/")[2]
    addresses = re.findall(r'href="(/follow[^"]*)"', text)
    assert len(addresses) == len(ODD) + 3
    for address in addresses:
        status, _, followed = ask(html.unescape(address))
        assert status == 200
        assert "/picture?" in followed
    options = {html.unescape(value) for value in re.findall(r'<option[^>]* value="([^"]*)"', text)}
    assert len(options) == len(addresses)
    assert {ask("/follow", run=name)[0] for name in options} == {200}


@pytest.mark.parametrize("name", ["..", "../first", "/etc", "first/../first", "first/records", "nowhere", "first\0"])
def test_names_of_runs_become_no_paths(ask, name):
    for page in ("/follow", "/report", "/picture"):
        assert ask(page, run=name, unit="x")[0] == 404


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "//etc/passwd", "/%2e%2e/first", "/first/board.csv", "/favicon.ico"]
)
def test_files_are_not_served(ask, path):
    assert ask(path)[0] in (400, 404)


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example", "127.0.0.1", "127.0.0.1:1", "", None])
def test_other_names_of_this_machine_are_refused(ask, host):
    """A page of a stranger whose name was made to point here would else read what this machine holds."""
    status, _, text = ask("/", host_header=host)
    assert status == 421
    assert "first" not in text


def test_localhost_is_this_machine(ask):
    assert ask("/", host_header="localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(ask, method):
    assert ask("/", method=method)[0] == 501


def test_nothing_is_written(ask, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for page in ("/", "/follow", "/report"):
        ask(page, run="first")
    ask("/compare", one="first", other="deep/second")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_it_listens_on_this_machine_alone(folder):
    with Server(folder, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(DpbenchError, match="choose another with --port"):
            Server(folder, server.server_address[1])


def test_what_a_stranger_wrote_stays_text(ask, folder):
    wrong = "<script>alert(1)</script>"
    CELLS.write(folder / "first", make_record(attack="gan", defense=wrong, victims=4, failed=wrong))
    for page in ("/follow", "/report"):
        text = ask(page, run="first")[2]
        assert wrong not in text
        assert "&lt;script&gt;" in text


def test_a_damaged_record_is_named_and_the_others_are_shown(ask, folder):
    (folder / "first" / "records" / "broken.json").write_text("{")
    status, _, text = ask("/follow", run="first")
    assert status == 200
    assert "broken.json" in text
    assert "2 measured, 0 failed" in text
    status, _, text = ask("/report", run="first")
    assert status == 500
    assert "broken.json" in text
    assert "All runs" in text


def test_no_folder_is_one_clear_line(dpbench, tmp_path):
    outcome = dpbench("view", tmp_path / "nowhere")
    assert outcome.status == 2
    assert "is no folder: expected one with run directories" in " ".join(outcome.err.split())
