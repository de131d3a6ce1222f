"""How well the model predicts a binary label, scored before it trains on each sample: per window, and since the start.

Log-loss, normalised entropy and calibration are about the *unthinned* stream: a negative of a slice of which a share r
was kept counts 1/r times. AUC and within-user AUC count every sample once. A label that weighs w counts w times in the
former and once in the latter; one that weighs nothing does not count at all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.batch import NO_GROUP, Batch
from monolith.training.ranking import AucState, Counts, Floats, StreamingAUC, auc, gauc

STATE_VERSION = 2  # read as well: 1, whose labels all weigh 1

_SMALLEST = 2.0**-25  # half the step of float32 below 1: a probability of exactly 0 or 1 costs ln of this, not infinity


class Scores(msgspec.Struct, frozen=True):
    """Metrics over some samples; NaN where they do not exist (AUC of one class, GAUC without users)."""

    samples: int
    positives: int
    auc: float
    gauc: float  # within user, weighted by impressions; since the start: within user and window
    logloss: float
    normalised_entropy: float  # logloss over that of always predicting the mean label
    calibration: float  # predicted positives over observed ones


class _Chunk(NamedTuple):
    """Samples in order of arrival, as columns."""

    probabilities: Floats
    labels: Floats
    weights: Floats  # above 0
    rates: Floats
    users: Counts  # NO_GROUP where the sample has none

    def part(self, start: int, stop: int) -> _Chunk:
        return self.where(slice(start, stop))

    def where(self, rows: slice | npt.NDArray[np.bool_]) -> _Chunk:
        return _Chunk(*(column[rows] for column in self))  # type: ignore[arg-type]

    def within_user(self) -> tuple[float, int]:
        """GAUC, and over how many samples."""
        known = self.users != NO_GROUP
        return gauc(self.users[known], self.probabilities[known], self.labels[known])


class _Sums(msgspec.Struct):
    """What log-loss and calibration need, added up in float64."""

    samples: int = 0
    positives: int = 0
    weight: float = 0.0
    loss: float = 0.0
    predicted: float = 0.0
    observed: float = 0.0

    def add(self, chunk: _Chunk) -> None:
        hits = chunk.labels > 0
        weights = chunk.weights * np.where(hits, 1.0, 1.0 / chunk.rates.astype(np.float64))
        p = chunk.probabilities.astype(np.float64)
        of_label = np.where(hits, p, 1.0 - p)
        self.samples += len(p)
        self.positives += int(np.count_nonzero(hits))
        self.weight += float(weights.sum())
        self.loss -= float((weights * np.log(np.maximum(of_label, _SMALLEST))).sum())
        self.predicted += float((weights * p).sum())
        self.observed += float(weights[hits].sum())

    def scores(self, area: float, within_user: float) -> Scores:
        logloss = self.loss / self.weight if self.weight else math.nan
        return Scores(
            samples=self.samples,
            positives=self.positives,
            auc=area,
            gauc=within_user,
            logloss=logloss,
            normalised_entropy=logloss / _entropy(self.observed, self.weight),
            calibration=self.predicted / self.observed if self.observed else math.nan,
        )


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    total: _Sums
    area: AucState
    user_weighted: float
    user_impressions: int
    last: Scores | None
    probabilities: bytes  # the open window: float32, little-endian like the rest
    labels: bytes  # float32
    rates: bytes  # float32
    users: bytes  # int64
    weights: bytes | None = None  # float32


class StreamMetrics:
    """Metrics over windows of exactly ``window`` samples, and since the start, in bounded memory.

    A window's numbers are exact. Since the start, AUC is within 1e-4 of exact, and within-user AUC compares a user's
    samples inside a window only. Users are told apart by the batch's groups. A function of the sequence of
    updates: reading, saving and restoring change nothing. Not thread safe.
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise InputError(f"the metrics window is {window} samples: set window_samples to at least 1")
        self.window = window
        self.last: Scores | None = None  # the newest full window
        self._sums = _Sums()
        self._area = StreamingAUC()
        self._user_weighted = 0.0
        self._user_impressions = 0
        self._open: list[_Chunk] = []
        self._open_samples = 0

    def update(self, batch: Batch, probabilities: Floats, task: int = 0) -> list[Scores]:
        """Take in a batch, scored (n,) before it was trained on; returns the windows that it fills, oldest first.

        ``task`` is the column of the batch's labels.
        """
        if len(batch) != len(probabilities):
            raise InputError(f"{len(batch)} samples have {len(probabilities)} probabilities: give one for each")
        weights = weights_of(batch, task)
        chunk = _Chunk(np.array(probabilities, np.float32), batch.labels[:, task], weights, batch.rates, batch.groups)
        if not weights.all():
            chunk = chunk.where(weights > 0)
        closed, start, end = [], 0, len(chunk.labels)
        while start < end:
            stop = min(end, start + max(0, self.window - self._open_samples))
            self._take(chunk.part(start, stop))
            start = stop
            if self._open_samples >= self.window:
                closed.append(self._close())
        return closed

    @property
    def total(self) -> Scores:
        """Scores since the start, the open window included (a few ms)."""
        within, impressions = self._window().within_user()
        weighted = self._user_weighted + (within * impressions if impressions else 0.0)
        impressions += self._user_impressions
        return self._sums.scores(self._area.area(), weighted / impressions if impressions else math.nan)

    def report(self) -> dict[str, Any]:
        """``total`` and the newest full ``window`` (None before the first) as plain values."""
        return {
            "total": msgspec.structs.asdict(self.total),
            "window": None if self.last is None else msgspec.structs.asdict(self.last),
        }

    def state(self) -> bytes:
        """Everything, as canonical bytes: equal histories give equal bytes."""
        window = self._window()
        state = _State(
            version=STATE_VERSION,
            total=self._sums,
            area=self._area.state(),
            user_weighted=self._user_weighted,
            user_impressions=self._user_impressions,
            last=self.last,
            probabilities=window.probabilities.tobytes(),
            labels=window.labels.tobytes(),
            rates=window.rates.tobytes(),
            users=window.users.tobytes(),
            weights=window.weights.tobytes(),
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Be what ``state`` was taken from. Raises CorruptError, and changes nothing, if the bytes are damaged."""
        state = _decode(data)
        window, area = _open_window(state), StreamingAUC().restore(state.area)
        self._sums, self._area, self.last = state.total, area, state.last
        self._user_weighted, self._user_impressions = state.user_weighted, state.user_impressions
        self._open, self._open_samples = [window], len(window.labels)

    def _take(self, chunk: _Chunk) -> None:
        self._sums.add(chunk)
        self._area.update(chunk.probabilities, chunk.labels)
        self._open.append(chunk)
        self._open_samples += len(chunk.labels)

    def _close(self) -> Scores:
        window, sums = self._window(), _Sums()
        sums.add(window)
        within, impressions = window.within_user()
        self._user_weighted += within * impressions if impressions else 0.0
        self._user_impressions += impressions
        self._open, self._open_samples = [], 0
        self.last = sums.scores(auc(window.probabilities, window.labels), within)
        return self.last

    def _window(self) -> _Chunk:
        return _Chunk(
            _joined([chunk.probabilities for chunk in self._open], "<f4"),
            _joined([chunk.labels for chunk in self._open], "<f4"),
            _joined([chunk.weights for chunk in self._open], "<f4"),
            _joined([chunk.rates for chunk in self._open], "<f4"),
            _joined([chunk.users for chunk in self._open], "<i8"),
        )


def scores_of(probabilities: Floats, labels: Floats, weights: Floats, rates: Floats, users: Counts) -> Scores:
    """Exact scores over samples, columns (n,); labels that weigh nothing do not count."""
    chunk = _Chunk(probabilities, labels, weights, rates, users).where(weights > 0)
    sums = _Sums()
    sums.add(chunk)
    return sums.scores(auc(chunk.probabilities, chunk.labels), chunk.within_user()[0])


def weights_of(batch: Batch, task: int) -> Floats:
    """(n,) weights of the labels in column ``task``."""
    return np.ones(len(batch), np.float32) if batch.label_weights is None else batch.label_weights[:, task]


def _joined(parts: list[Any], kind: str) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _decode(data: bytes) -> _State:
    try:
        state = msgspec.msgpack.decode(data, type=_State)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"{len(data)} bytes of metrics state cannot be read: {error}") from error
    if state.version not in (1, STATE_VERSION):
        raise VersionError(f"the metrics state is of version {state.version}, this build reads 1 and {STATE_VERSION}")
    return state


def _open_window(state: _State) -> _Chunk:
    chunk = _Chunk(
        _column(state.probabilities, "<f4", "probabilities"),
        (labels := _column(state.labels, "<f4", "labels")),
        np.ones_like(labels) if state.weights is None else _column(state.weights, "<f4", "weights"),
        _column(state.rates, "<f4", "rates"),
        _column(state.users, "<i8", "users"),
    )
    lengths = {name: len(column) for name, column in chunk._asdict().items()}
    if len(set(lengths.values())) != 1:
        raise CorruptError(f"the metrics state holds an open window with columns of different length: {lengths}")
    return chunk


def _column(data: bytes, kind: str, name: str) -> Any:
    if len(data) % np.dtype(kind).itemsize:
        raise CorruptError(f"the metrics state holds {len(data)} bytes of {name}, not a whole number of {kind}")
    return np.frombuffer(data, kind)


def _entropy(positives: float, total: float) -> float:
    """Of a coin that shows ``positives`` of ``total``; NaN where it never shows one side."""
    if not 0.0 < positives < total:
        return math.nan
    p = positives / total
    return -(p * math.log(p) + (1.0 - p) * math.log1p(-p))
