"""A server's connections: how many there are, and how long each may take for a header, a body, and to read its answer.

uvicorn has no time-out but that of an idle connection, and no limit before a request's header is in; so its protocol is
extended here. Times are wall time of the event loop, looked at every now and then for all connections together, which
costs a request nothing. A client is told why where it can be: 503 when there are too many connections, 408 when it was
too slow, 431 for too long a header, 400 for what is no HTTP.

================  ===========================================================================================
while             a connection is closed
================  ===========================================================================================
``head``          ``head_timeout_s`` after it was made, or after a request's first byte, without a whole header
``body``          ``body_timeout_s`` after the header without a whole body, whether or not it is still wanted
``answer``        ``answer_timeout_s`` after an answer was written of which some still waits for the client
(idle)            ``keep_alive_s`` after an answer (uvicorn's own)
================  ===========================================================================================
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monolith.config.job import ServeConfig
from monolith.serving.metrics import ServerMetrics

MAX_HEAD_BYTES = 64 * 2**10
LINGER_S = 2.0  # for a client that was refused to read why: a socket that is closed with data unread takes that back
MAX_LINGERING = 100
RETRY_AFTER_S = 1

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

Phase = Literal["head", "body"]


class Connections:
    """All connections of one server, on its event loop's thread."""

    def __init__(self, settings: ServeConfig, metrics: ServerMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.unsent_bytes = 0  # of answers, when last looked at
        self._open: set[Connection] = set()
        self._look_s = min(1.0, settings.head_timeout_s / 4, settings.body_timeout_s / 4, settings.answer_timeout_s / 4)
        self._looking = False

    def protocol(self, **uvicorn: Any) -> Connection:
        """What uvicorn calls for a new connection."""
        return Connection(self, **uvicorn)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Look after a new connection. False if there are too many, of which some may linger for a moment."""
        room = len(self._open) < self.settings.max_connections
        if len(self._open) < self.settings.max_connections + MAX_LINGERING:
            self._open.add(connection)
        else:
            connection.transport.abort()
        if not self._looking:
            self._looking = True
            connection.loop.call_later(self._look_s, self._look, connection.loop)
        return room

    def discard(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._looking = False
        try:
            self.unsent_bytes = sum(connection.look(now) for connection in list(self._open))
        finally:  # whatever one connection does, the others are looked at again
            if self._open:
                self._looking = True
                loop.call_later(self._look_s, self._look, loop)


class _Outlet:
    """A transport that swallows what is written for a client that has gone.

    uvloop raises for that between a connection's end and the moment at which the protocol hears of the end.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """To the client, if there is one."""
        if not self.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """One connection, which knows what it waits for and until when."""

    def __init__(self, connections: Connections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._all = connections
        self._phase: Phase | None = None  # what is being read
        self._deadline = 0.0  # of the phase
        self._head_bytes = 0
        self._head_is_new = False
        self._heard = False  # a single byte
        self._unread_since: float | None = None  # an answer waits for the client
        self._closing_at: float | None = None  # it was told why, and may read that until then

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """As uvicorn does, if there is room."""
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Outlet(transport))
        self._begin("head")
        if not self._all.add(self):
            most = self._all.settings.max_connections
            self._refuse(503, f"the server has {most} connections, at most as many are allowed: come again", "full")

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn does."""
        self._all.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn does, within a header's limits."""
        if self._closing_at is not None:
            return
        if self._phase is None:
            self._begin("head")
        self._heard, self._head_is_new = True, False
        super().data_received(data)
        if self._phase != "head" or self._head_is_new:  # a new one's part of the data is not known
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and self._closing_at is None:
            self._refuse(431, f"the header is longer than {MAX_HEAD_BYTES} bytes", "long_head")

    # --- what the parser and the answer call ---

    def on_message_begin(self) -> None:
        """A header begins."""
        self._begin("head")
        self._head_is_new = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is all there; a body begins."""
        self._begin("body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is all there."""
        self._phase = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written, though not yet sent."""
        self._unread_since = None  # this answer's time begins when it is next looked at
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What came cannot be read; in JSON as all errors."""
        self._refuse(400, f"this is no HTTP request ({msg.rstrip('.')}): is the client one of HTTP/1.1?", "no_http")

    def shutdown(self) -> None:
        """The server ends: nobody waits for the rest of a request."""
        if self._phase is None:
            return super().shutdown()
        self._give_up()
        return self.transport.close()

    # --- time ---

    def look(self, now: float) -> int:
        """Close what takes too long. Returns how many bytes of answers wait for the client."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        if self._closing_at is not None:
            if now > self._closing_at:
                self.transport.abort()
        elif self._unread_since is not None and now - self._unread_since > self._all.settings.answer_timeout_s:
            self._all.metrics.closed("answer")
            self._give_up()
            self.transport.abort()
        elif self._phase is not None and now > self._deadline:
            self._expire(self._phase)
        return unsent

    def _begin(self, phase: Phase) -> None:
        settings = self._all.settings
        limit_s = settings.head_timeout_s if phase == "head" else settings.body_timeout_s
        self._phase, self._deadline, self._head_bytes = phase, self.loop.time() + limit_s, 0

    def _expire(self, phase: Phase) -> None:
        if self.flow.read_paused:  # it is the server that lets the client wait
            return self._begin(phase)
        if phase == "head" and self._answer_pending():
            self.cycle.keep_alive = False  # the client gets the answer that it waits for, and no other
            return self._begin(phase)
        settings = self._all.settings
        limit_s = settings.head_timeout_s if phase == "head" else settings.body_timeout_s
        return self._refuse(408, f"the request's {phase} was not there within {limit_s:g} s", phase)

    # --- ends ---

    def _refuse(self, status: int, text: str, reason: str) -> None:
        """Say why, unless an answer is on its way, and close."""
        self._all.metrics.closed(reason)
        silent = (
            (reason == "head" and not self._heard)
            or self._answer_pending()
            or self._answer_begun()
            or self.transport.is_closing()
        )
        self._give_up()
        if silent:
            return self.transport.close()
        body = msgspec.json.encode({"error": text})
        retry = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == 503 else ""
        self.transport.write(
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{retry}Connection: close\r\n\r\n".encode()
            + body
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._closing_at = self.loop.time() + LINGER_S
        return None

    def _answer_pending(self) -> bool:
        """While a header is read: the request before it has no whole answer yet."""
        return self._phase == "head" and self.cycle is not None and not self.cycle.response_complete

    def _answer_begun(self) -> bool:
        return self._phase == "body" and self.cycle is not None and self.cycle.response_started

    def _give_up(self) -> None:
        """Tell whoever works at an answer that nobody waits for it."""
        cycle = cast(Any, self.cycle)  # None before the first request
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
