"""A replica over HTTP: Starlette on uvicorn.

====================  =============================================================================================
``POST /lookup``      ``{"name": "user", "values": [17, 42]}`` or ``{"lookups": {"user": [17], "tag": ["new"]}}``
``POST /predict``     ``{"samples": [{"user": 17, "movie": 50}]}``, or for candidates that share features
                      ``{"shared": {"user": 17}, "candidates": {"movie": [50, 51]}}``
``GET /health``       200 while the process lives
``GET /ready``        200 when it can answer, else 503 with the reason
``GET /version``      what is served, how fresh and how stale it is
``GET /metrics``      Prometheus
``GET /openapi.json`` all of this as an OpenAPI document, and ``GET /docs`` as a page for people
====================  =============================================================================================

Services send ``application/x-monolith`` bodies to the first two (`body`, `together`, `scoring`).

An error is JSON ``{"error": "what was wrong, what is allowed"}``: 400 for a body, a name or a value that is not
understood, 401 without a bearer token where the server wants one, 413 for too many of them, 415 for another content
type or encoding, 503 when not ready or with too much to do, 500 for damaged data.

The event loop itself does what takes microseconds: look-ups of some ids in memory. All else goes to ``workers``.
"""

from __future__ import annotations

import gc
import logging
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from monolith.config.job import ServeConfig
from monolith.echo import clipped
from monolith.errors import ConfigError, InputError, MonolithError, UnavailableError
from monolith.secrets import masked
from monolith.serving import docs_page, metrics, openapi
from monolith.serving.allowance import Allowance, Share
from monolith.serving.answers import BINARY, JSON, Answer, Answers, Work, as_json
from monolith.serving.connections import MAX_LINGERING, RETRY_AFTER_S, Connections
from monolith.serving.errors import RefusedError
from monolith.serving.guard import Guard, check_tls, load_tokens
from monolith.serving.pieces import finished
from monolith.serving.replica import Age, Mode, Replica
from monolith.serving.workers import Workers

log = logging.getLogger(__name__)

PATHS = "POST /lookup and /predict, GET /health, /ready, /version, /metrics, /openapi.json and /docs"
SPARE_FILES = 64  # besides connections: the store, logs, libraries
TURN_S = 0.0005  # see ``_no_long_pauses``
BYTES_PER_ROW = 1024  # of a request's body, at most: ``max_rows`` times this is the longest body that is read


class _RefusedError(Exception):
    """A request that gets a status of its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ReplicaServer:
    """The endpoints over one replica."""

    def __init__(self, replica: Replica, *, mode: Mode = "memory", settings: ServeConfig | None = None) -> None:
        self._replica = replica
        self._settings = settings or ServeConfig()
        self._metrics = metrics.ServerMetrics(replica)
        self.connections = Connections(self._settings, self._metrics)
        self._workers = Workers(self._settings.threads, self._settings.max_waiting)
        self._allowance = Allowance(self._settings.max_request_bytes, lambda: self.connections.unsent_bytes)
        self._answers = Answers(replica, self._settings)
        self._in_threads = mode == "direct"  # memory answers in microseconds, a store may make its caller wait
        self._metrics.watch("connections", "Open connections", lambda: len(self.connections))
        self._metrics.watch(
            "requests_inside", "Requests that threads answer, or that wait", lambda: self._workers.inside
        )
        app = Starlette(
            routes=[
                Route("/lookup", self._counted("lookup", self._lookup), methods=["POST"]),
                Route("/predict", self._counted("predict", self._predict), methods=["POST"]),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/version", self._version),
                Route("/metrics", self._metrics_text),
                Route("/openapi.json", self._openapi),
                Route("/docs", self._docs),
            ],
            exception_handlers={HTTPException: _no_such_path, MonolithError: _failed},
        )
        tokens = load_tokens(self._settings)
        self._document = openapi.document(tokens=len(tokens) > 0)
        self.app: ASGIApp = Guard(app, tokens, self._metrics.unauthorized) if len(tokens) else app

    # --- questions ---

    async def _lookup(self, request: Request, share: Share) -> Answer:
        kind = _content_type(request, BINARY, JSON)
        return await self._run(self._answers.lookup(kind, await self._read(request, share), share), request)

    async def _predict(self, request: Request, share: Share) -> Answer:
        kind = _content_type(request, JSON, BINARY)
        return await self._run(self._answers.predict(kind, await self._read(request, share), share), request)

    async def _run(self, work: Work, request: Request) -> Answer:
        if work.small and not self._in_threads:
            return finished(work.pieces)

        async def abandoned() -> None:
            if await request.is_disconnected():
                raise ClientDisconnect

        return await self._workers.run(work.pieces, abandoned)

    async def _read(self, request: Request, share: Share) -> bytes:
        """The body, as long as it is not longer than any good request's."""
        longest = self._settings.max_rows * BYTES_PER_ROW
        refused = _RefusedError(413, f"the body is longer than {longest} bytes: ask in several requests")
        if _announced(request) > longest:  # before a client sends what nobody is going to read
            raise refused
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > longest:
                raise refused
            share.grow(len(part))
            parts.append(part)
        return b"".join(parts)

    def _counted(
        self, endpoint: str, answer: Callable[[Request, Share], Awaitable[Answer]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """``answer`` with its errors as JSON, its time and its outcome counted."""

        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            try:
                with Share(self._allowance) as share:
                    answered = await answer(request, share)
            except ClientDisconnect:
                self._metrics.abandoned(endpoint)
                return Response(status_code=499)  # which nobody reads
            except (_RefusedError, MonolithError) as error:
                answered = Answer(_error(error))
            seconds = time.perf_counter() - started
            self._metrics.answered(endpoint, answered.response.status_code, seconds, answered.rows)
            return answered.response

        return handle

    # --- about the replica ---

    async def _health(self, _: Request) -> Response:
        return as_json({"status": "alive"})

    async def _ready(self, _: Request) -> Response:
        status = await run_in_threadpool(self._replica.status)
        about = {"stale_ms": status.stale_ms, "age": asdict(status.age)}
        if not status.ready:
            return as_json({"error": f"no model yet: {status.trouble or 'it is being loaded'}"}, 503)
        if too_old := _too_old(status.age, self._settings.max_age_s):
            return as_json({"error": too_old, **about}, 503)
        return as_json({"status": "ready", **about})

    async def _version(self, _: Request) -> Response:
        status = await run_in_threadpool(self._replica.status)
        if status.version is None:
            raise UnavailableError(f"no model yet: {status.trouble or 'it is being loaded'}")
        about = {key: value for key, value in asdict(status).items() if key != "version"}
        card = await run_in_threadpool(self._replica.card)
        return as_json(
            {"model": card.model, "payload": card.payload, **msgspec.structs.asdict(status.version), **about}
        )

    async def _metrics_text(self, _: Request) -> Response:
        text = await run_in_threadpool(self._metrics.text)
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _openapi(self, _: Request) -> Response:
        return as_json(self._document)

    async def _docs(self, _: Request) -> Response:
        return Response(docs_page.page(self._document), media_type="text/html", headers=docs_page.HEADERS)


def serve(
    url: str,
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    mode: Mode = "memory",
    settings: ServeConfig | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve the store at ``url`` until SIGINT or SIGTERM.

    Answers from the first moment, with 503 until a model is there. ``on_listening`` is told the address; ``port=0``
    picks a free one. Raises ConfigError for a bad URL, a store of another model, a port that is taken, and more
    connections than the process may have files.
    """
    settings = settings or ServeConfig()
    _make_room_for(settings.max_connections)
    with bind(host, port) as listener, Replica.open(url, model, mode, timeout_s=None) as replica:
        server = make_server(replica, mode=mode, settings=settings)  # before anybody is told: it reads files
        address = _address(listener, "http" if settings.tls_certificate is None else "https")
        log.info("listening address=%s store=%s mode=%s", address, masked(url).partition("?")[0], mode)
        listener.listen()  # so that whoever is told the address can connect at once
        if on_listening is not None:
            on_listening(address)
        with _signals_only_end_the_server(), _no_long_pauses():
            server.run(sockets=[listener])


def _make_room_for(connections: int) -> None:
    """Raise the process's soft limit of open files where that is too low."""
    wanted = connections + MAX_LINGERING + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"serve.max_connections is {connections}, which takes {wanted} open files, the process may have {hard}: "
            "raise its limit (ulimit -n), or lower the setting"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _no_long_pauses() -> Iterator[None]:
    """Of the event loop: not for the GIL, and not for the garbage of others.

    The loop lets the GIL go with every system call, and waits Python's 5 ms for it where a worker computes. A
    collection goes through all objects, and those that were imported will never be garbage.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


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


def make_server(replica: Replica, *, mode: Mode = "memory", settings: ServeConfig | None = None) -> uvicorn.Server:
    """A uvicorn server for ``replica``; ``run(sockets=[...])`` starts it, ``should_exit = True`` ends it."""
    settings = settings or ServeConfig()
    check_tls(settings)
    server = ReplicaServer(replica, mode=mode, settings=settings)
    config = uvicorn.Config(
        server.app,
        http=cast(Any, server.connections.protocol),  # a class, or what makes one
        ws="none",
        log_level="error",  # its warnings are of what clients do, which is counted instead
        access_log=False,
        lifespan="off",
        timeout_keep_alive=settings.keep_alive_s,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return uvicorn.Server(config)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port``. Raises ConfigError, naming both, where that cannot be."""
    if not 0 <= port <= 65_535:  # getaddrinfo would wrap it to another one
        raise ConfigError(f"cannot listen on {host}:{port}: a port is 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the second for a name that no host can have
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


def _address(listener: socket.socket, scheme: str = "http") -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _announced(request: Request) -> float:
    """The length of the body, in bytes, as the header has it; 0 where none does."""
    text = request.headers.get("content-length", "")
    return float(text) if text.isdecimal() else 0.0


def _content_type(request: Request, *allowed: str) -> str:
    """The request's content type; none counts as JSON. Raises _RefusedError for another one, and for a packed body."""
    headers = dict(request.scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        raise _RefusedError(
            415, f"content encoding {encoding.decode('latin-1')!r:.80}: send the body as it is, without one"
        )
    kind: str = headers.get(b"content-type", JSON.encode()).partition(b";")[0].strip().lower().decode("latin-1")
    if kind in allowed:
        return kind
    raise _RefusedError(415, f"content type {kind!r:.80}, allowed are {' and '.join(allowed)}")


def _too_old(age: Age, max_age_s: float | None) -> str | None:
    """Why a replica that could answer should not be asked, None if it may be."""
    if max_age_s is None or (age.trainer_ms is not None and age.trainer_ms <= 1e3 * max_age_s):
        return None
    heard = "never" if age.trainer_ms is None else f"{age.trainer_ms / 1e3:.1f} s ago"
    return (
        f"the trainer was last heard of {heard}, serve.max_age_s allows {max_age_s:g} s: see that it runs and reaches "
        f"the store. Questions are answered still"
    )


def _failed(_: Request, error: Exception) -> Response:
    return _error(error)


def _no_such_path(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    what = f"{request.method} {request.url.path}"
    return as_json({"error": f"{what:.200}: {cast(HTTPException, error).detail}; the paths are {PATHS}"}, status)


def _error(error: Exception) -> Response:
    if isinstance(error, _RefusedError):
        status = error.status
    elif isinstance(error, InputError):
        status = error.status if isinstance(error, RefusedError) else 400
    else:
        status = 503 if isinstance(error, UnavailableError) else 500
    if status == 500:
        log.error("request failed: %s", clipped(str(error)))
    response = as_json({"error": clipped(str(error))}, status)
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
