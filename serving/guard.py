"""Who may ask a server: bearer tokens, and the certificate that the server shows.

With tokens set, every path but ``/health`` wants ``Authorization: Bearer TOKEN`` and answers 401 without. Tokens are
compared in constant time, and are in no message, no log and no metric.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from monolith.config.job import ServeConfig
from monolith.errors import ConfigError

OPEN_PATH = "/health"

_TOKEN = re.compile(r"[!-~]+")
_SCHEME = b"bearer "


class Tokens:
    """The tokens of a server; kept as digests, so that the time of a comparison tells neither content nor length."""

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]

    def __len__(self) -> int:
        return len(self._digests)

    def admit(self, authorization: bytes | None) -> bool:
        """Whether a request with that header may be answered."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = _digest(authorization[len(_SCHEME) :].strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)


class Guard:
    """An application behind tokens."""

    def __init__(self, app: ASGIApp, tokens: Tokens, refused: Callable[[], None]) -> None:
        """``refused`` is called for every request that is turned away."""
        self._app = app
        self._tokens = tokens
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and scope["path"] != OPEN_PATH:
            header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            if not self._tokens.admit(header):
                self._refused()
                return await _unauthorized(header is None)(scope, receive, send)
        return await self._app(scope, receive, send)


def load_tokens(settings: ServeConfig) -> Tokens:
    """The tokens that the settings name; none: everybody may ask. Raises ConfigError, without any token."""
    return Tokens([*_of_file(settings.token_file), *_of_variable(settings.token_variable)])


def check_tls(settings: ServeConfig) -> None:
    """Raise ConfigError unless certificate and key, where they are set, can be read and belong together."""
    if settings.tls_certificate is None:
        if settings.tls_key is not None:
            raise ConfigError("serve.tls_key is set without serve.tls_certificate: give both, or none for plain HTTP")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = f"serve.tls_certificate {settings.tls_certificate} and serve.tls_key {settings.tls_key}"
        raise ConfigError(f"{files} cannot be used: {error}; give PEM files that belong together") from error


def _of_file(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it has more than ASCII"
        raise ConfigError(f"serve.token_file {path} cannot be read: {reason}; write one token a line") from None
    tokens = [line.strip() for line in lines if line.strip()]
    return _checked(tokens, f"serve.token_file {path}")


def _of_variable(name: str | None) -> list[str]:
    if name is None:
        return []
    if name not in os.environ:
        raise ConfigError(f"serve.token_variable: there is no environment variable {name!r:.80}")
    return _checked([os.environ[name].strip()], f"serve.token_variable {name}")


def _checked(tokens: list[str], where: str) -> list[str]:
    if not tokens or not all(map(_TOKEN.fullmatch, tokens)):
        raise ConfigError(f"{where} has no token, or one with a blank or a sign that no header takes")
    return tokens


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _unauthorized(without: bool) -> Response:
    what = "without a token" if without else "with a token that is none of the server's"
    text = f"the request came {what}: send the header Authorization: Bearer TOKEN"
    headers = {"WWW-Authenticate": "Bearer"}
    return Response(msgspec.json.encode({"error": text}), 401, headers, media_type="application/json")
