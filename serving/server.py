"""A replica over HTTP: Starlette on uvicorn.

====================  =============================================================================================
``POST /lookup``      ``{"name": "user", "values": [17, 42]}`` or, for services, a body of ``application/x-monolith``
``POST /predict``     ``{"samples": [{"user": 17, "movie": 50}]}``
``GET /health``       200 while the process lives
``GET /ready``        200 when it can answer, else 503 with the reason
``GET /version``      what is served, how fresh and how stale it is
``GET /metrics``      Prometheus
====================  =============================================================================================

An error is JSON ``{"error": "what was wrong, what is allowed"}``: 400 for a body, a name or a value that is not
understood, 413 for too many of them, 415 for another content type, 503 when not ready, 500 for damaged data.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monolith.errors import ConfigError, InputError, MonolithError, UnavailableError
from monolith.serving import body, metrics
from monolith.serving.ledger import Version
from monolith.serving.questions import LookupQuestion, PredictQuestion, decode_question
from monolith.serving.replica import Mode, Replica, Samples

log = logging.getLogger(__name__)

JSON = "application/json"
BYTES_PER_ROW = 1024  # of a request's body, at most: ``max_rows`` times this is the longest body that is read

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    max_rows: int = 10_000  # ids of a look-up, samples of a prediction


class _RefusedError(Exception):
    """A request that gets a status of its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response and how many rows it took."""

    response: Response
    rows: int = 0


class ReplicaServer:
    """The endpoints over one replica."""

    def __init__(self, replica: Replica, *, mode: Mode = "memory", limits: Limits | None = None) -> None:
        self._replica = replica
        self._limits = limits or Limits()
        self._metrics = metrics.ServerMetrics(replica)
        self._in_threads = mode == "direct"  # memory answers in microseconds, a store may make its caller wait
        self.app = Starlette(
            routes=[
                Route("/lookup", self._counted("lookup", self._lookup), methods=["POST"]),
                Route("/predict", self._counted("predict", self._predict), methods=["POST"]),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/version", self._version),
                Route("/metrics", self._metrics_text),
            ]
        )

    # --- questions ---

    async def _lookup(self, request: Request) -> _Answer:
        kind = _content_type(request, body.CONTENT_TYPE, JSON)
        data = await self._read(request)
        if kind == body.CONTENT_TYPE:
            name, ids = body.decode_request(data)
            self._check_rows(len(ids))
            rows = await self._run(lambda: self._replica.read(name, ids))
            answer = body.LookupAnswer(rows.version.generation, rows.version.sequence, rows.values)
            return _Answer(Response(body.encode_response(answer), media_type=body.CONTENT_TYPE), len(ids))
        question = decode_question(data, LookupQuestion)
        self._check_rows(len(question.values))
        rows = await self._run(lambda: self._replica.read(question.name, question.values))
        result = {"name": question.name, "dim": rows.values.shape[1], "rows": rows.values.tolist()}
        return _Answer(_json(result | _version_fields(rows.version)), len(question.values))

    async def _predict(self, request: Request) -> _Answer:
        _content_type(request, JSON)
        question = decode_question(await self._read(request), PredictQuestion)
        self._check_rows(len(question.samples))
        prediction = await self._run(lambda: self._replica.predict(cast(Samples, question.samples)))
        result = {"probabilities": prediction.probabilities.tolist()}
        return _Answer(_json(result | _version_fields(prediction.version)), len(question.samples))

    async def _run(self, question: Callable[[], T]) -> T:
        return await run_in_threadpool(question) if self._in_threads else question()

    async def _read(self, request: Request) -> bytes:
        """The body, as long as it is not longer than any good request's."""
        longest = self._limits.max_rows * BYTES_PER_ROW
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > longest:
                raise _RefusedError(413, f"the body is longer than {longest} bytes: ask in several requests")
            parts.append(part)
        return b"".join(parts)

    def _check_rows(self, rows: int) -> None:
        if rows > self._limits.max_rows:
            raise _RefusedError(
                413, f"{rows} rows in one request, at most {self._limits.max_rows} are allowed: split it"
            )

    def _counted(
        self, endpoint: str, answer: Callable[[Request], Awaitable[_Answer]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """``answer`` with its errors as JSON, its time and its outcome counted."""

        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            try:
                answered = await answer(request)
            except (_RefusedError, MonolithError) as error:
                answered = _Answer(_error(error))
            seconds = time.perf_counter() - started
            self._metrics.answered(endpoint, answered.response.status_code, seconds, answered.rows)
            return answered.response

        return handle

    # --- about the replica ---

    async def _health(self, _: Request) -> Response:
        return _json({"status": "alive"})

    async def _ready(self, _: Request) -> Response:
        status = await run_in_threadpool(self._replica.status)
        if status.ready:
            return _json({"status": "ready", "stale_ms": status.stale_ms})
        return _json({"error": f"no model yet: {status.trouble or 'it is being loaded'}"}, 503)

    async def _version(self, _: Request) -> Response:
        status = await run_in_threadpool(self._replica.status)
        if status.version is None:
            return _json({"error": f"no model yet: {status.trouble or 'it is being loaded'}"}, 503)
        about = {key: value for key, value in asdict(status).items() if key != "version"}
        card = await run_in_threadpool(self._replica.card)
        return _json({"model": card.model, "payload": card.payload, **msgspec.structs.asdict(status.version), **about})

    async def _metrics_text(self, _: Request) -> Response:
        text = await run_in_threadpool(self._metrics.text)
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


def serve(
    url: str,
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    mode: Mode = "memory",
    limits: Limits | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve the store at ``url`` until SIGINT or SIGTERM.

    Answers from the first moment, with 503 until a model is there. ``on_listening`` is told the address; ``port=0``
    picks a free one. Raises ConfigError for a bad URL, a store of another model and a port that is taken.
    """
    with bind(host, port) as listener, Replica.open(url, model, mode, timeout_s=None) as replica:
        address = _address(listener)
        log.info("listening address=%s store=%s mode=%s", address, url.partition("?")[0], mode)
        listener.listen()  # so that whoever is told the address can connect at once
        if on_listening is not None:
            on_listening(address)
        with _signals_only_end_the_server():
            make_server(replica, mode=mode, limits=limits).run(sockets=[listener])


@contextmanager
def _signals_only_end_the_server() -> Iterator[None]:
    """Keep the signal from the process: uvicorn raises it again after its end, before anything could be closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_server(replica: Replica, *, mode: Mode = "memory", limits: Limits | None = None) -> uvicorn.Server:
    """A uvicorn server for ``replica``; ``run(sockets=[...])`` starts it, ``should_exit = True`` ends it."""
    app = ReplicaServer(replica, mode=mode, limits=limits).app
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port``. Raises ConfigError, naming both, where that cannot be."""
    if not 0 <= port <= 65_535:  # getaddrinfo would wrap it to another one
        raise ConfigError(f"cannot listen on {host}:{port}: a port is 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error}; name an address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; choose another port, or 0 for a free one"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _content_type(request: Request, *allowed: str) -> str:
    """The request's content type; none counts as JSON."""
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind in allowed:
        return kind
    raise _RefusedError(415, f"content type {kind!r}, allowed are {' and '.join(allowed)}")


def _version_fields(version: Version) -> dict[str, Any]:
    return {"generation": version.generation, "sequence": version.sequence}


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=JSON)


def _error(error: Exception) -> Response:
    if isinstance(error, _RefusedError):
        status = error.status
    elif isinstance(error, InputError):
        status = 400
    else:
        status = 503 if isinstance(error, UnavailableError) else 500
    if status == 500:
        log.error("request failed: %s", error)
    return _json({"error": str(error)}, status)
