"""The trainer's own HTTP server: the live page, what it draws, and metrics. It only reads.

====================  ===========================================================================
``GET /``             the live page, one file without requests to anywhere else
``GET /status``       the newest status, as ``status.json``
``GET /curves``       the points of ``curves.jsonl`` as a JSON list; ``?after=MS``: newer ones only
``GET /health``       200 while the process lives and says something, else 503
``GET /metrics``      Prometheus
====================  ===========================================================================
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

import msgspec

from monolith.dashboard.metrics import CONTENT_TYPE, metrics_text
from monolith.errors import ConfigError
from monolith.training.curves import Curves
from monolith.training.status import Status

SILENT_S = 60.0  # without a status for this long, /health is 503
JSON = "application/json"
_Answer = tuple[int, str, bytes]  # status, content type, body


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else "there is no such port"


class Dashboard:
    """Serves one trainer's page from a thread of its own. An observer of statuses; a context manager."""

    def __init__(self, address: str, curves: Curves) -> None:
        """Listen at ``HOST:PORT``, or at ``PORT`` of this machine alone. Raises ConfigError where that cannot be."""
        host, _, port = address.rpartition(":")
        self._curves = curves
        self._status: Status | None = None
        self._heard = time.monotonic()
        try:
            self._server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), self._handler())
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(f"--dashboard {address}: {_said(error)}; give a free PORT, or HOST:PORT") from error
        self._server.daemon_threads = True
        self.url = f"http://{host or '127.0.0.1'}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="dashboard", daemon=True)

    def __call__(self, status: Status) -> None:
        """Show this status from now on."""
        self._status, self._heard = status, time.monotonic()

    def __enter__(self) -> Dashboard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Requests of a page that is open all day are not worth a line."""

        return Handler

    def answer(self, target: str) -> _Answer:
        """Status, content type and body of a GET."""
        asked = urlsplit(target)
        pages: dict[str, Callable[[], _Answer]] = {
            "/": self._page,
            "/status": self._newest,
            "/health": self._health,
            "/metrics": self._metrics,
        }
        if asked.path == "/curves":
            return self._points(parse_qs(asked.query).get("after", ["0"])[0])
        if asked.path in pages:
            return pages[asked.path]()
        return _error(404, f"there is no {asked.path}; there are {', '.join(sorted([*pages, '/curves']))}")

    def _page(self) -> _Answer:
        return 200, "text/html; charset=utf-8", files("monolith.dashboard").joinpath("page.html").read_bytes()

    def _newest(self) -> _Answer:
        return _error(503, "nothing is known yet") if self._status is None else _json(self._status)

    def _points(self, after: str) -> _Answer:
        if not after.lstrip("-").isdecimal():
            return _error(400, f"after={after[:40]!r} is no time in ms")
        return _json([point for point in list(self._curves.points) if point.time_ms > int(after)])

    def _health(self) -> _Answer:
        silent_s = time.monotonic() - self._heard
        if silent_s > SILENT_S:
            return _error(503, f"the trainer has said nothing for {silent_s:.0f} s")
        return _json({"healthy": True, "ended": self._status is not None and self._status.ended})

    def _metrics(self) -> _Answer:
        return 200, CONTENT_TYPE, b"" if self._status is None else metrics_text(self._status)


def _json(what: object) -> _Answer:
    return 200, JSON, msgspec.json.encode(what)


def _error(status: int, text: str) -> _Answer:
    return status, JSON, msgspec.json.encode({"error": text})
