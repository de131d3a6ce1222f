"""A replica: the serving end in a process of the user's, with no server in between.

::

    replica = Replica.open("redis://localhost:6379/0", model="demo")
    replica.lookup("user", [17, 42])                             # (2, dim) float32
    replica.predict([{"user": 17, "movie": 50}]).probabilities   # (1,)

``memory`` mode holds the whole model and follows the store: look-ups take microseconds, no lock, and go on while the
store is away. ``direct`` mode holds nothing and reads the store for every question. In both, one answer comes from one
version: all tables and the dense weights as of one delta.

A replica that was opened before a fork is the child's own one there: with the first question it loads the model anew
(which that question waits for) and follows by itself. Cheaper is to open it after the fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from monolith.card import ModelCard
from monolith.errors import ConfigError, MonolithError, UnavailableError
from monolith.events import FeatureValue
from monolith.serving.candidates import Candidates
from monolith.serving.direct import Direct
from monolith.serving.follower import Follower, Freshness, Loaded
from monolith.serving.inference import Gather, Ids, Inference, Prediction, Rows, Together, Values
from monolith.serving.ledger import Version
from monolith.serving.pieces import Pieces, finished
from monolith.serving.store import Store, open_store

_LOOK_AGAIN_S = 0.05  # in direct mode, which follows nothing
_END_OF_TIME_MS = 2**62  # of watermarks: beyond, or below zero, stand words and not times

Mode = Literal["memory", "direct"]
Samples = Sequence[Mapping[str, FeatureValue]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Age:
    """How old things are by this machine's clock, in ms; None where nothing is known."""

    published_ms: float | None = None  # since the trainer handed over the version that is served
    event_ms: float | None = None  # since the event time up to which that version has seen all
    trainer_ms: float | None = None  # since the trainer was last heard of: it published, or said that it lives


def _age(version: Version | None, alive_ms: int) -> Age:
    now_ms = time.time_ns() / 1e6

    def since(time_ms: int) -> float | None:
        return max(0.0, now_ms - time_ms) if 0 < time_ms < _END_OF_TIME_MS else None

    if version is None or not version.sequence:
        return Age(trainer_ms=since(alive_ms))
    heard_ms = max(version.published_ms, alive_ms)
    return Age(since(version.published_ms), since(version.watermark_ms), since(heard_ms))


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How a replica is doing."""

    ready: bool  # it can answer
    version: Version | None  # None: nothing loaded yet
    stale_ms: float  # how long the store has not answered, 0 while it does; answers are at most this much behind
    trouble: str | None  # why the last contact with the store failed
    age: Age  # of what is served, and of the last sign of the trainer's life
    freshness: Freshness | None  # None in direct mode, and before the first delta
    applied: int  # deltas
    images: int  # loads of the whole image; more than one: there was a gap, or a new run


class _Source(Protocol):
    """Where answers come from."""

    def ask(self, question: Callable[[Inference, Gather], _T]) -> _T: ...

    def answer(self, question: Callable[[Inference, Gather], Pieces[_T]]) -> Pieces[_T]: ...


class _Memory:
    """Answers from what a follower has loaded."""

    def __init__(self, follower: Follower, url: str) -> None:
        self._follower = follower
        self._url = url

    def ask(self, question: Callable[[Inference, Gather], _T]) -> _T:
        loaded = self._follower.loaded or self._revived()
        return question(loaded.inference, loaded.memory.gather)

    def answer(self, question: Callable[[Inference, Gather], Pieces[_T]]) -> Pieces[_T]:
        return self.ask(question)

    def _revived(self) -> Loaded:
        self._follower.revive()
        if self._follower.loaded is None:
            raise UnavailableError(
                f"the replica of {self._url} has no model yet: {self._follower.trouble or 'it is being loaded'}"
            )
        return self._follower.loaded


class Replica:
    """One model, ready to be asked. Any thread may call it."""

    def __init__(self, store: Store, mode: Mode = "memory") -> None:
        """Begins to follow at once; ``wait_until_ready`` tells when it can answer. Closes ``store`` in the end."""
        if mode not in ("memory", "direct"):
            raise ConfigError(f"mode {mode!r} is none of a replica's: memory, direct")
        self._store = store
        self._follower = Follower(store) if mode == "memory" else None
        self._source: _Source = _Memory(self._follower, store.url) if self._follower else Direct(store)
        if self._follower:
            self._follower.start()

    @classmethod
    def open(
        cls, url: str, model: str | None = None, mode: Mode = "memory", *, timeout_s: float | None = 30.0
    ) -> Replica:
        """A replica of the store at ``url`` that can answer.

        Raises ConfigError for a bad URL and for a store of another model, and UnavailableError if it cannot answer
        within ``timeout_s``; with None it returns after one look at the store, whether it can or not.
        """
        store = open_store(url, model, create=False)
        _refuse_another_model(store)
        replica = cls(store, mode)
        if timeout_s is not None and not replica.wait_until_ready(timeout_s):
            trouble = replica.status().trouble
            replica.close()
            raise UnavailableError(f"no model could be loaded within {timeout_s} s: {trouble or 'it is still coming'}")
        return replica

    def lookup(self, name: str, values: Sequence[FeatureValue] | Ids) -> Values:
        """(n, dim) rows of a table's ids or of a feature's values; those without a row read as in training.

        Raises InputError for an unknown name or a value of the wrong type, UnavailableError before anything is loaded.
        """
        return self.read(name, values).values

    def read(self, name: str, values: Sequence[FeatureValue] | Ids) -> Rows:
        """``lookup``, with the version that the rows are of."""
        return self._source.ask(lambda inference, gather: inference.lookup(name, values, gather))

    def lookup_together(self, questions: Mapping[str, Sequence[FeatureValue] | Ids]) -> Together:
        """``lookup`` of several tables or features, all of one version, with which values have rows of their own.

        Raises as ``lookup`` does.
        """
        return self._source.ask(lambda inference, gather: inference.lookup_together(questions, gather))

    def predict(self, samples: Samples, event_time_ms: int | None = None) -> Prediction:
        """One prediction a task and sample, a mapping of feature values as events hold them, and their version.

        ``event_time_ms`` is when they are shown (ms since the epoch; None: now), for features made of the event time.

        Raises InputError for an unknown feature, a value of the wrong type, or a model without a graph.
        """
        return finished(self.predicting(lambda: [samples], event_time_ms))

    def predicting(
        self, samples: Callable[[], Iterable[Samples]], event_time_ms: int | None = None
    ) -> Pieces[Prediction]:
        """``predict`` in pieces, for a server that has others to answer in between; still of one version.

        ``samples`` hands them out some at a time, from the first one again at every call.
        """
        return self._source.answer(lambda inference, gather: inference.predict(samples(), gather, event_time_ms))

    def predict_candidates(
        self,
        shared: Mapping[str, FeatureValue],
        columns: Mapping[str, Sequence[FeatureValue]],
        event_time_ms: int | None = None,
    ) -> Prediction:
        """``predict`` of many samples that differ in some features only, with the same bits and less to do.

        ``shared`` has one value a feature, ``columns`` one a candidate; features of neither count as missing. Raises as
        ``predict`` does, and InputError for a feature that is in both and columns of several lengths.
        """
        return finished(self.predicting_candidates(Candidates(shared, columns), event_time_ms))

    def predicting_candidates(self, candidates: Candidates, event_time_ms: int | None = None) -> Pieces[Prediction]:
        """``predict_candidates`` in pieces."""
        return self._source.answer(
            lambda inference, gather: inference.predict_candidates(candidates, gather, event_time_ms)
        )

    def card(self) -> ModelCard:
        """The card of the model that answers now."""
        return self._source.ask(lambda inference, _: inference.card)

    def version(self) -> Version:
        """What an answer would be of now."""
        if self._follower is None:
            return self._store.version()
        return self._source.ask(lambda _, gather: gather((), False).version)

    def status(self) -> ReplicaStatus:
        """How it is doing; never raises."""
        if self._follower is None:
            return self._direct_status()
        follower = self._follower
        try:
            version: Version | None = self.version()
        except MonolithError:  # nothing is loaded yet: `trouble` says why
            version = None
        return ReplicaStatus(
            ready=version is not None,
            version=version,
            stale_ms=follower.stale_ms(),
            trouble=follower.trouble,
            age=_age(version, follower.alive_ms),
            freshness=follower.freshness(),
            applied=follower.applied,
            images=follower.images,
        )

    def _direct_status(self) -> ReplicaStatus:
        try:
            look = self._store.look()
        except MonolithError as error:  # a damaged store, a user whom it refuses: it cannot answer, and says why
            return ReplicaStatus(False, None, 0.0, str(error), Age(), None, 0, 0)
        ready = bool(look.version.sequence) and look.fault is None
        return ReplicaStatus(ready, look.version, 0.0, look.fault, _age(look.version, look.alive_ms), None, 0, 0)

    def freshness(self) -> Freshness | None:
        """Quantiles of ingestion-to-readable; None before the first delta, and in direct mode."""
        return self._follower.freshness() if self._follower else None

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Whether it can answer, waiting up to ``timeout_s`` for that."""
        return self.wait_for(1, timeout_s)

    def wait_for(self, sequence: int, timeout_s: float) -> bool:
        """Wait until answers are of ``sequence`` or later; False if they are not by then."""
        if self._follower is not None:
            return self._follower.wait_for(sequence, timeout_s)
        deadline = time.monotonic() + timeout_s
        while (self.status().version or Version()).sequence < sequence:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True

    def close(self) -> None:
        """Stop following and let the store go."""
        if self._follower is not None:
            self._follower.stop()
        self._store.close()

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _refuse_another_model(store: Store) -> None:
    """Close the store and raise ConfigError if it says that it will never answer; all else may pass with time."""
    try:
        store.model()
    except ConfigError:
        store.close()
        raise
    except MonolithError:
        return
