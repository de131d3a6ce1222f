"""A client of ``monolith serve``, with time-outs, retries and several servers; `AsyncClient` is the same for asyncio.

::

    with Client(["http://a:8000", "http://b:8000"], token="...") as client:
        client.lookup("user", [17, 42])                                   # (2, dim) float32
        client.lookup_together({"user": [17], "tag": ["new"]})            # of one version, with what was found
        client.predict([{"user": 17, "movie": 50}])                       # (1,) float32
        client.predict_candidates({"user": 17}, {"movie": [50, 51, 52]})  # (3,) float32

Errors are those of `monolith.serving.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from monolith.errors import ConfigError, UnavailableError
from monolith.events import FeatureValue
from monolith.forks import in_child
from monolith.serving import asking, link
from monolith.serving.asking import LookupValues, Question, Scores
from monolith.serving.body import LookupAnswer
from monolith.serving.failover import Servers
from monolith.serving.together import TogetherAnswer

_T = TypeVar("_T")


class Client:
    """Asks the servers of one model, in turns. Any thread may call it; connections are kept open."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_s: float = 2.0,
        retries: int = 3,
        token: str | None = None,
        ca_file: str | Path | None = None,
    ) -> None:
        """``timeout_s`` is for connecting and for each wait of a try; a question is tried ``1 + retries`` times, and on
        each of several servers at least once.

        ``token`` is the server's bearer token; ``ca_file`` (PEM) says whose certificates are trusted (None: the public
        ones). Raises ConfigError for a URL that is not http(s)://HOST[:PORT], a token or a file that cannot be.
        """
        self._urls = link.checked_urls(url)
        self._servers = Servers(len(self._urls))
        self._retries = retries
        self._timeout_s = timeout_s
        self._headers = link.headers_of(token)
        self._trust = link.trust(ca_file)
        self._connect()
        in_child(self._connect)  # on a parent's connection the answers of both would be mixed up

    def _connect(self) -> None:
        try:
            self._http = httpx.Client(timeout=self._timeout_s, headers=self._headers, verify=self._trust)
        except (httpx.InvalidURL, ImportError, ValueError) as error:  # of a proxy that the environment names
            raise ConfigError(f"no client of {self._urls}: {error}; look at HTTP_PROXY and its kin") from error

    def lookup(self, name: str, values: LookupValues) -> npt.NDArray[np.float32]:
        """(n, dim) rows of a table's ids, or of a feature's values; zeros for those without a row."""
        return self.lookup_versioned(name, values).values

    def lookup_versioned(self, name: str, values: LookupValues) -> LookupAnswer:
        """``lookup``, with the generation and sequence that the rows are of. Integers travel in binary."""
        return self._ask(asking.lookup(name, values))

    def lookup_together(self, questions: Mapping[str, LookupValues]) -> TogetherAnswer:
        """Rows of several tables or features, all of one version, with which values have rows of their own."""
        return self._ask(asking.lookup_together(questions))

    def predict(self, samples: Sequence[Mapping[str, FeatureValue]], event_time_ms: int | None = None) -> Scores:
        """(n,) probabilities, one a sample, shown at ``event_time_ms`` (ms since the epoch; None: the server's now).

        Of a model with several tasks, or one that is not binary, task -> (n,): probabilities of binary tasks, numbers
        of the others.
        """
        return self._ask(asking.predict(samples, event_time_ms))

    def predict_candidates(
        self,
        shared: Mapping[str, FeatureValue],
        columns: Mapping[str, Sequence[FeatureValue] | npt.NDArray[Any]],
        event_time_ms: int | None = None,
    ) -> Scores:
        """``predict`` of candidates that differ in some features only.

        ``columns`` has one value a candidate, ``shared`` the features that all have alike. Features of neither count as
        missing.
        """
        return self._ask(asking.predict_candidates(shared, columns, event_time_ms))

    def version(self) -> dict[str, Any]:
        """What is served: model, generation, sequence, lineage, freshness, staleness."""
        return self._ask(asking.version())

    def ready(self) -> bool:
        """Whether a server can answer questions now; asks each once, until one can."""
        return self._any_is_well("/ready")

    def health(self) -> bool:
        """Whether a server's process answers; asks each once, until one does."""
        return self._any_is_well("/health")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _any_is_well(self, path: str) -> bool:
        for url in self._urls:
            try:
                if self._http.get(url + path).status_code == 200:
                    return True
            except httpx.RequestError:
                continue
        return False

    def _ask(self, question: Question[_T]) -> _T:
        """The first good answer, trying again after a lost connection, a time-out or a 503."""
        last, tries = UnavailableError("never asked"), 0
        for one in self._servers.tries(self._retries):
            if one.pause_s:
                time.sleep(one.pause_s)
            tries += 1
            answer = self._try(question, self._urls[one.server])
            if not isinstance(answer, UnavailableError):
                self._servers.answered(one.server)
                return answer
            self._servers.failed(one.server)
            last = answer
        raise link.given_up(last, self._urls, question.path, tries)

    def _try(self, question: Question[_T], url: str) -> _T | UnavailableError:
        where = url + question.path
        try:
            kind = {"Content-Type": question.kind}
            response = self._http.request(question.method, where, content=question.content, headers=kind)
        except (httpx.RequestError, RuntimeError) as error:
            return link.failure(error, where)
        return link.answer_of(question, response, where)
