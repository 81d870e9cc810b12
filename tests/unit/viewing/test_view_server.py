"""What the server of `dpbench view` says where a page does not reach the browser, or a file is gone meanwhile."""

import threading
import urllib.error
import urllib.request

import pytest

from dpbench.viewing.server import Server


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "reset")])
def test_a_browser_that_has_left_is_no_error(tmp_path, capsys, error):
    with Server(tmp_path, 0) as server:
        try:
            raise error
        except OSError:
            server.handle_error(None, None)
    assert capsys.readouterr().err == ""


def test_anything_else_is_one_line(tmp_path, capsys):
    with Server(tmp_path, 0) as server:
        try:
            raise RuntimeError("two\nlines")
        except RuntimeError:
            server.handle_error(None, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dpbench: a page could not be sent: RuntimeError: two lines")


def test_a_file_that_goes_while_it_is_read_is_a_page_that_says_so(tmp_path, monkeypatch):
    def gone(path, query):
        raise FileNotFoundError(2, "No such file or directory", "picture.png")

    with Server(tmp_path, 0) as server:
        monkeypatch.setattr(server.pages, "answer", gone)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine names
        with pytest.raises(urllib.error.HTTPError) as raised:
            straight.open(server.url, timeout=20)
        with raised.value as answer:
            assert (answer.code, "picture.png" in answer.read().decode()) == (500, True)
        server.shutdown()
        thread.join()
