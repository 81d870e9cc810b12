"""`dpbench view` where something breaks: a page that says why, and no traceback for a browser that left."""

import http.client
import threading

import pytest

from dpbench.viewing.server import Server


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("error", [KeyError("gone"), OSError(5, "Input/output error"), RuntimeError("odd")])
def test_whatever_raises_is_a_page(server, monkeypatch, error, capfd):
    def answer(path, query):
        raise error

    monkeypatch.setattr(server.pages, "answer", answer)
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request("GET", "/")
    found = connection.getresponse()
    text = found.read().decode()
    connection.close()
    assert found.status == 500
    assert "This cannot be shown" in text
    assert type(error).__name__ in text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("error", "told"), [(BrokenPipeError(), False), (TimeoutError(), False), (ValueError(), True)])
def test_a_browser_that_left_is_nothing_to_tell(server, error, told, capsys):
    try:
        raise error
    except Exception:
        server.handle_error(None, ("127.0.0.1", 1))
    assert bool(capsys.readouterr().err) is told
