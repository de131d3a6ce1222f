"""A client of ``monolith serve``, with time-outs and retries.

::

    with Client("http://localhost:8000") as client:
        client.lookup("user", [17, 42])                    # (2, dim) float32
        client.predict([{"user": 17, "movie": 50}])        # (1,) float32

Errors: InputError (the server understood and refused: unknown name, wrong type, too many rows), UnavailableError (no
answer in time, or not ready, after all retries), CorruptError (what came back is no answer).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import ConfigError, CorruptError, InputError, UnavailableError
from monolith.events import FeatureValue
from monolith.forks import in_child
from monolith.serving import body

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0
RETRIED = {408, 502, 503, 504}

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]


class Client:
    """Asks one server. Any thread may call it; connections are kept open."""

    def __init__(self, url: str, *, timeout_s: float = 2.0, retries: int = 3) -> None:
        """``timeout_s`` is for connecting and for each wait of a try; a question is tried ``1 + retries`` times.

        Raises ConfigError for a URL that is not http(s)://HOST[:PORT].
        """
        try:
            parts = httpx.URL(url)
            parts.host.encode("idna")  # as the resolver will
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise ConfigError(f"server URL {url!r:.200} is not http://HOST:PORT: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.host or not 0 < (parts.port or 80) < 2**16:
            raise ConfigError(f"server URL {url!r:.200} is not http://HOST:PORT")
        self._url = url.rstrip("/")
        self._retries = retries
        self._timeout_s = timeout_s
        self._connect()
        in_child(self._connect)  # on a parent's connection the answers of both would be mixed up

    def _connect(self) -> None:
        try:
            self._http = httpx.Client(base_url=self._url, timeout=self._timeout_s)
        except (httpx.InvalidURL, ImportError, ValueError) as error:  # of a proxy that the environment names
            raise ConfigError(f"no client of {self._url}: {error}; look at HTTP_PROXY and its kin") from error

    def lookup(self, name: str, values: Sequence[int] | Sequence[str] | Ids) -> Values:
        """(n, dim) rows of a table's ids, or of a feature's values; zeros for those without a row."""
        return self.lookup_versioned(name, values).values

    def lookup_versioned(self, name: str, values: Sequence[int] | Sequence[str] | Ids) -> body.LookupAnswer:
        """``lookup``, with the generation and sequence that the rows are of. Integers travel in binary."""
        ids = _as_array(values)
        if ids.ndim == 1 and np.can_cast(ids.dtype, np.int64, "safe") and ids.dtype != np.bool_:
            content, kind = body.encode_request(name, ids.astype(np.int64)), body.CONTENT_TYPE
            return body.decode_response(self._ask("POST", "/lookup", content, kind).content, self._url)
        answer = self._json("POST", "/lookup", {"name": name, "values": _as_list(values)})
        with self._understood("/lookup"):
            rows = np.array(answer["rows"], np.float32).reshape(-1, answer["dim"])
            return body.LookupAnswer(answer["generation"], answer["sequence"], rows)

    def predict(
        self, samples: Sequence[Mapping[str, FeatureValue]], event_time_ms: int | None = None
    ) -> npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]:
        """(n,) probabilities, one a sample, shown at ``event_time_ms`` (ms since the epoch; None: the server's now).

        Of a model with several tasks, or one that is not binary, task -> (n,): probabilities of binary tasks, numbers
        of the others.
        """
        time = {} if event_time_ms is None else {"event_time_ms": event_time_ms}
        answer = self._json("POST", "/predict", {"samples": samples, **time})
        with self._understood("/predict"):
            if "predictions" in answer:
                return {task: np.array(values, np.float32) for task, values in answer["predictions"].items()}
            return np.array(answer["probabilities"], np.float32)

    def version(self) -> dict[str, Any]:
        """What is served: model, generation, sequence, lineage, freshness, staleness."""
        return self._json("GET", "/version")

    def ready(self) -> bool:
        """Whether the server can answer questions now; asks once."""
        try:
            return self._http.get("/ready").status_code == 200
        except httpx.RequestError:
            return False

    def health(self) -> bool:
        """Whether the server's process answers; asks once."""
        try:
            return self._http.get("/health").status_code == 200
        except httpx.RequestError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _json(self, method: str, path: str, content: object | None = None) -> dict[str, Any]:
        try:
            encoded = None if content is None else msgspec.json.encode(content)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"the question for {self._url}{path} is no JSON: {error}") from error
        response = self._ask(method, path, encoded, "application/json")
        with self._understood(path):
            return msgspec.json.decode(response.content, type=dict[str, Any])

    @contextmanager
    def _understood(self, path: str) -> Iterator[None]:
        """What reads an answer that may be another server's."""
        try:
            yield
        except (
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:  # msgspec's are ValueErrors
            raise CorruptError(
                f"the answer of {self._url}{path} is not understood: {type(error).__name__}: {error}; "
                "is it monolith serve?"
            ) from error

    def _ask(self, method: str, path: str, content: bytes | None, kind: str) -> httpx.Response:
        """The first good response, trying again after a lost connection, a time-out or a 503."""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(_pause_s(attempt))
            try:
                response = self._http.request(method, path, content=content, headers={"Content-Type": kind})
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            except httpx.RequestError as error:  # an answer that is packed, and not soundly
                raise CorruptError(f"the answer of {self._url}{path} cannot be read: {error}") from error
            except RuntimeError as error:
                raise InputError(f"{self._url}{path} cannot be asked: {error}") from error
            if response.status_code not in RETRIED:
                return self._checked(response, path)
            trouble = f"status {response.status_code}: {_error_text(response)}"
        raise UnavailableError(f"{self._url}{path} did not answer in {self._retries + 1} tries, last: {trouble}")

    def _checked(self, response: httpx.Response, path: str) -> httpx.Response:
        if response.is_success:
            return response
        text = f"{self._url}{path} answered {response.status_code}: {_error_text(response)}"
        raise InputError(text) if response.is_client_error else CorruptError(text)


def _pause_s(attempt: int) -> float:
    """Doubling, and spread, so that clients which failed together do not come back together."""
    return random.uniform(0.5, 1.0) * min(FIRST_PAUSE_S * 2.0 ** (attempt - 1), MAX_PAUSE_S)


def _as_array(values: Sequence[int] | Sequence[str] | Ids) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of several lengths
        raise InputError(f"a look-up takes a list of values, not {values!r:.80}: {error}") from error


def _as_list(values: Sequence[int] | Sequence[str] | Ids) -> list[Any]:
    try:
        return list(values)
    except TypeError as error:
        raise InputError(f"a look-up takes a list of values, not {values!r:.80}") from error


def _error_text(response: httpx.Response) -> str:
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, Any])["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, RecursionError):
        return response.text[:200]
