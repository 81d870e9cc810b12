"""The server of `dpbench view`: this machine alone, reading alone."""

from __future__ import annotations

import http.server
import sys
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError, debug, reason
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.viewing.pages import Pages, Unfitting, Unfound, message

ADDRESS = "127.0.0.1"

LONGEST_TARGET = 4000
"""Characters of a request's target that are read."""

PROTECTED = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
FRAMED = "frame-ancestors 'none'"

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """Answers requests from this machine for pages of the runs in a folder.

    Args:
        root: the folder.
        port: 0 for any that is free.

    Raises:
        DpbenchError: no such folder, or the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False  # two servers on one port would take each other's requests

    def __init__(self, root: Path, port: int) -> None:
        if not root.is_dir():
            raise DpbenchError(f"{root} is no folder: expected one with run directories, as `dpbench run` writes them")
        self.pages = Pages(root)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise DpbenchError(f"port {port} of {ADDRESS}: {error.strerror}; choose another with --port") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that left before its answer was there is no error; anything else is a line."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            debug(error)
            print(f"dpbench: a page could not be sent: {clean(reason(error), ERROR_LIMIT)}", file=sys.stderr)

    @property
    def url(self) -> str:
        """Where it is to be seen."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine calls it. By another name came a page that wants to read what is here."""
        port = self.server_address[1]
        return {f"{name}:{port}" for name in (ADDRESS, "localhost")}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version = "dpbench"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:  # noqa: D102  named by http.server
        self._answer()

    def do_HEAD(self) -> None:  # noqa: D102
        self._answer()

    def _answer(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 and localhost alone")
            return
        if len(self.path) > LONGEST_TARGET:
            self._say(HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long")
            return
        try:
            target = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(target.query, max_num_fields=8, errors="surrogateescape"))
            kind, content = self.server.pages.answer(target.path, query)
        except Unfound as error:
            self._explain(HTTPStatus.NOT_FOUND, "Not found", str(error))
        except Unfitting as error:
            self._explain(HTTPStatus.BAD_REQUEST, "Nothing to compare", str(error))
        except ValueError:
            self._explain(HTTPStatus.BAD_REQUEST, "Not understood", "the address cannot be read")
        except Exception as error:  # a run that changes while it is read may raise anything
            debug(error)
            self._explain(HTTPStatus.INTERNAL_SERVER_ERROR, "This cannot be shown", reason(error))
        else:
            # a report brings its own policy, which names its scripts
            policy = FRAMED if target.path == "/report" else PROTECTED + FRAMED
            self._send(HTTPStatus.OK, kind, content, policy)

    def _explain(self, status: HTTPStatus, title: str, text: str) -> None:
        self._send(status, *message(title, text), PROTECTED + FRAMED)

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{clean(text, ERROR_LIMIT)}\n".encode(), PROTECTED + FRAMED)

    def _send(self, status: HTTPStatus, kind: str, content: bytes, policy: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", policy)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not printed: whoever started it looks at the pages."""
