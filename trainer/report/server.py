"""Serves the live page on this machine.

Every address starts with a random token. Requests with another Host or Origin are refused, so that a page of
another site cannot read runs, even if its name resolves to this machine. Only the page's own files are
served.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trainer.errors import ConfigError, OptlabError
from trainer.report.page import read_resource
from trainer.report.watched_runs import WatchedRuns

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MAX_CURVES = 200
LOCAL = ("127.0.0.1", "localhost")

MakeReport = Callable[[], str]


class LiveServer(ThreadingHTTPServer):
    """A server of the live page.

    Args:
        runs: the runs.
        make_report: returns the report of the finished runs as HTML.
        host: the address to listen on.
        port: 0 = any free port.

    Raises:
        ConfigError: the system does not allow that address.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, runs: WatchedRuns, make_report: MakeReport, host: str, port: int) -> None:
        self.runs, self.make_report = runs, make_report
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error}", fix="choose another --port, or leave it out"
            ) from error
        names = LOCAL if host in LOCAL else (host, *LOCAL)
        self.hosts = {f"{name}:{self.server_port}" for name in names}
        self.address = f"http://{host}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a browser closed a connection."""


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version, sys_version = "optlab", ""

    def do_GET(self) -> None:
        """Answer a request."""
        address = urlsplit(self.path)
        token, _, name = address.path.removeprefix("/").partition("/")
        if not self._is_own_request():
            self._send(403, b"another host or origin", "text/plain")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._send(404, b"not found", "text/plain")
        elif name in _FILES:
            resource, kind = _FILES[name]
            self._send(200, resource().encode(), kind)
        elif name == "runs":
            self.server.runs.update()
            self._send_json(self.server.runs.overview(_integers(address.query, "since")[0]))
        elif name == "curves":
            ids, since = _integers(address.query, "ids"), _integers(address.query, "since")
            wanted = dict(zip(ids[:_MAX_CURVES], since, strict=False))
            self._send_json(self.server.runs.curves(wanted))
        elif name == "report":
            self._send_report()
        else:
            self._send(404, b"not found", "text/plain")

    def _is_own_request(self) -> bool:
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host not in self.server.hosts:
            return False
        site = self.headers.get("Sec-Fetch-Site", "none")
        return origin in (None, f"http://{host}") and site in ("none", "same-origin")

    def _send_report(self) -> None:
        """Send the report, whose policy is in the page itself."""
        try:
            page = self.server.make_report()
        except OptlabError as error:
            self._send(404, str(error).encode(), "text/plain; charset=utf-8")
        else:
            self._send(200, page.encode(), "text/html; charset=utf-8", policy="frame-ancestors 'none'")

    def _send_json(self, content: Any) -> None:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        self._send(200, text.encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str, *, policy: str = _POLICY) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print no line per request."""


def _integers(query: str, name: str) -> Sequence[int]:
    texts = parse_qs(query).get(name, ["0"])[0].split(",")
    return [int(text) if text.isdecimal() and len(text) < 16 else 0 for text in texts]


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


_FILES: dict[str, tuple[Callable[[], str], str]] = {
    "": (lambda: read_resource("live.html"), "text/html; charset=utf-8"),
    "live.js": (lambda: read_resource("live.js"), "text/javascript; charset=utf-8"),
    "page.css": (lambda: read_resource("page.css"), "text/css; charset=utf-8"),
    "plotly.js": (_plotly, "text/javascript; charset=utf-8"),
}
