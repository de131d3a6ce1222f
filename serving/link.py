"""What both clients know of their servers: addresses, token, certificates, and what a response or a failure means."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from monolith.errors import ConfigError, InputError, UnavailableError
from monolith.serving.asking import Question
from monolith.serving.errors import (
    BrokenAnswerError,
    BusyError,
    RefusedError,
    TimedOutError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)

RETRIED = {408, 502, 503, 504}

_REFUSALS = {401: UnauthorizedError, 403: UnauthorizedError, 413: TooLargeError}
_TIMEOUTS = {408, 504}
_TOKEN = re.compile(r"[!-~]+")
_T = TypeVar("_T")


def checked_urls(url: str | Sequence[str]) -> list[str]:
    """One URL or several. Raises ConfigError for none, and for one that is not http(s)://HOST[:PORT]."""
    urls: list[Any] = list(url) if isinstance(url, list | tuple) else [url]
    if not urls:
        raise ConfigError("a client needs a server: give http://HOST:PORT, or a list of such URLs")
    return [_checked_url(one) for one in urls]


def _checked_url(url: str) -> str:
    try:
        parts = httpx.URL(url)
        parts.host.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise ConfigError(f"server URL {url!r:.200} is not http://HOST:PORT: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or not 0 < (parts.port or 80) < 2**16:
        raise ConfigError(f"server URL {url!r:.200} is not http://HOST:PORT")
    return url.rstrip("/")


def headers_of(token: str | None) -> httpx.Headers:
    """What goes with every question. Raises ConfigError, without the token, for one that cannot be sent."""
    if token is None:
        return httpx.Headers()
    if not _TOKEN.fullmatch(token):
        raise ConfigError("the token is empty, or has a blank or a sign that no header takes: give the text alone")
    return httpx.Headers({"Authorization": f"Bearer {token}"})  # whose repr does not show it


def trust(ca_file: str | Path | None) -> ssl.SSLContext | bool:
    """Whose certificates are trusted: those that ``ca_file`` (PEM) signs, or the public ones."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"certificates {ca_file} cannot be read: {error}; give a PEM file") from error


def failure(error: Exception, where: str) -> UnavailableError:
    """A lost try as an error to be tried again. Raises what no other try would mend."""
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"{type(error).__name__}: {error}")
    if isinstance(error, httpx.TransportError):
        return UnreachableError(f"{type(error).__name__}: {error}")
    if isinstance(error, httpx.RequestError):  # an answer that is packed, and not soundly
        raise BrokenAnswerError(f"the answer of {where} cannot be read: {error}") from error
    raise InputError(f"{where} cannot be asked: {error}") from error


def answer_of(question: Question[_T], response: httpx.Response, where: str) -> _T | UnavailableError:
    """The answer, or the error after which another try is worth it. Raises RefusedError and BrokenAnswerError."""
    status = response.status_code
    if status in RETRIED:
        kind = TimedOutError if status in _TIMEOUTS else BusyError
        return kind(f"status {status}: {_error_text(response)}")
    if response.is_success:
        return question.read(response.content, where)
    text = f"{where} answered {status}: {_error_text(response)}"
    if not response.is_client_error:
        raise BrokenAnswerError(text)
    refusal = _REFUSALS.get(status, RefusedError)(text)
    refusal.status = status
    raise refusal


def given_up(last: UnavailableError, where: Sequence[str], path: str, tries: int) -> UnavailableError:
    """The error of a question that no server answered, of the kind of the last one."""
    return type(last)(f"{', '.join(url + path for url in where)} did not answer in {tries} tries, last: {last}")


def _error_text(response: httpx.Response) -> str:
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, object])["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, RecursionError):
        return response.text[:200]
