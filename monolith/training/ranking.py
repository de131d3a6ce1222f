"""Areas under the ROC curve: exact for what fits in memory, streaming (mergeable, bounded) for what does not.

Ties count one half, as everywhere. Scores are compared as float32.
"""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


def auc(scores: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order; scores and labels (n,). NaN if a class is missing."""
    keys, slots = np.unique(scores.astype(np.float32, copy=False), return_inverse=True)
    positives = np.bincount(slots, weights=labels > 0, minlength=len(keys)).astype(np.int64)
    return _area(positives, np.bincount(slots, minlength=len(keys)) - positives)


def gauc(users: Counts, scores: Floats, labels: Floats) -> tuple[float, int]:
    """The mean of the users' own AUCs, weighted by their impressions, and the impressions that it is over.

    Users with one label only have no AUC and do not count. All inputs (n,). NaN and 0 if no user has both.
    """
    order = np.lexsort((scores, users))
    users, scores, hits = users[order], scores[order], labels[order] > 0
    user_of = np.cumsum(_is_new(users)) - 1
    tie_of = np.cumsum(_is_new(users) | _is_new(scores)) - 1
    ends = np.cumsum(np.bincount(tie_of)) if len(users) else np.zeros(0, np.int64)
    ranks = (ends - (np.bincount(tie_of) - 1) / 2)[tie_of]  # of all samples; a user's own rank is less by his start
    sizes = np.bincount(user_of)
    positives = np.bincount(user_of, weights=hits)
    starts = np.cumsum(sizes) - sizes
    rank_sums = np.bincount(user_of, weights=np.where(hits, ranks, 0.0)) - positives * starts
    both = (positives > 0) & (positives < sizes)
    if not both.any():
        return float("nan"), 0
    pairs = positives[both] * (sizes - positives)[both]
    areas = (rank_sums[both] - positives[both] * (positives[both] + 1) / 2) / pairs
    impressions = int(sizes[both].sum())
    return float((areas * sizes[both]).sum() / impressions), impressions


class StreamingAUC:
    """AUC over any number of samples in at most ``20 * bins + 5 * buffer`` bytes.

    Exact until more than ``bins`` different scores were seen. From then on neighbours in score are counted as ties, in
    groups of at most about one ``bins``-th of the samples, which bounds the error by some ``2 / bins`` and leaves far
    less in practice. A function of the sequence of samples: neither reading the area nor saving and restoring changes
    what comes later.
    """

    def __init__(self, bins: int = 16_384, buffer: int = 16_384) -> None:
        self._bins = bins
        self._buffer = buffer
        self._keys = np.zeros(0, np.float32)  # ascending
        self._positives = np.zeros(0, np.int64)
        self._negatives = np.zeros(0, np.int64)
        self._waiting: list[tuple[Floats, npt.NDArray[np.bool_]]] = []
        self._waiting_count = 0

    def update(self, scores: Floats, labels: Floats) -> None:
        """Take in (n,) scores and labels."""
        self._waiting.append((np.array(scores, np.float32), labels > 0))
        self._waiting_count += len(scores)
        if self._waiting_count >= self._buffer:
            self._keys, self._positives, self._negatives = self._folded()
            self._waiting, self._waiting_count = [], 0

    def area(self) -> float:
        """The AUC of everything taken in; NaN if a class is missing."""
        _, positives, negatives = self._folded()
        return _area(positives, negatives)

    def merge(self, other: StreamingAUC) -> None:
        """Take in all that ``other`` has; within the stated error the same as having seen its samples."""
        keys, positives, negatives = other._folded()
        own = self._folded()
        joined = _by_key(
            np.concatenate((own[0], keys)), np.concatenate((own[1], positives)), np.concatenate((own[2], negatives))
        )
        self._keys, self._positives, self._negatives = _at_most(self._bins, *joined)
        self._waiting, self._waiting_count = [], 0

    def state(self) -> AucState:
        """All of it, canonical: equal histories give equal bytes once encoded."""
        scores, hits = self._pending()
        return AucState(
            keys=self._keys.tobytes(),
            positives=self._positives.tobytes(),
            negatives=self._negatives.tobytes(),
            waiting_scores=scores.tobytes(),
            waiting_hits=hits.tobytes(),
        )

    def restore(self, state: AucState) -> Self:
        """Become what ``state`` was taken from. Raises CorruptError if its parts do not fit together."""
        keys = np.frombuffer(state.keys, "<f4")
        positives, negatives = np.frombuffer(state.positives, "<i8"), np.frombuffer(state.negatives, "<i8")
        scores, hits = np.frombuffer(state.waiting_scores, "<f4"), np.frombuffer(state.waiting_hits, np.bool_)
        if not len(keys) == len(positives) == len(negatives) or len(scores) != len(hits):
            raise CorruptError(
                f"the AUC state has {len(keys)} keys, {len(positives)} and {len(negatives)} counts, {len(scores)} "
                f"waiting scores and {len(hits)} labels: counts must match keys, and labels scores"
            )
        self._keys, self._positives, self._negatives = keys, positives, negatives
        self._waiting, self._waiting_count = [(scores, hits)], len(scores)
        return self

    def _pending(self) -> tuple[Floats, npt.NDArray[np.bool_]]:
        if not self._waiting:
            return np.zeros(0, np.float32), np.zeros(0, np.bool_)
        return np.concatenate([scores for scores, _ in self._waiting]), np.concatenate([h for _, h in self._waiting])

    def _folded(self) -> tuple[Floats, Counts, Counts]:
        """Groups with the waiting samples in; changes nothing."""
        scores, hits = self._pending()
        joined = _by_key(
            np.concatenate((self._keys, scores)),
            np.concatenate((self._positives, hits.astype(np.int64))),
            np.concatenate((self._negatives, (~hits).astype(np.int64))),
        )
        return _at_most(self._bins, *joined)


class AucState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``StreamingAUC`` as little-endian arrays."""

    keys: bytes  # float32, ascending
    positives: bytes  # int64
    negatives: bytes  # int64
    waiting_scores: bytes  # float32, in order of arrival
    waiting_hits: bytes  # one byte a score


def _is_new(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Where a sorted array's value differs from the one before."""
    return np.concatenate((np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1]))


def _by_key(keys: Floats, positives: Counts, negatives: Counts) -> tuple[Floats, Counts, Counts]:
    """Sorted by key, equal keys added up."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(_is_new(keys))
    return keys[starts], _sums(positives[order], starts), _sums(negatives[order], starts)


def _at_most(bins: int, keys: Floats, positives: Counts, negatives: Counts) -> tuple[Floats, Counts, Counts]:
    """Neighbours joined until at most ``bins`` groups of about equal weight are left; a group keeps its middle key."""
    if len(keys) <= bins:
        return keys, positives, negatives
    weights = positives + negatives
    ends = np.cumsum(weights)
    bin_of = (2 * ends - weights) * bins // (2 * ends[-1])  # by the middle of each key's span of ranks
    starts = np.flatnonzero(_is_new(bin_of))
    last = np.append(starts[1:], len(keys)) - 1
    return keys[(starts + last) // 2], _sums(positives, starts), _sums(negatives, starts)


def _sums(counts: Counts, starts: npt.NDArray[np.intp]) -> Counts:
    return np.add.reduceat(counts, starts) if len(starts) else np.zeros(0, np.int64)


def _area(positives: Counts, negatives: Counts) -> float:
    """AUC of groups in ascending order of score, each one tie."""
    pairs = int(positives.sum()) * int(negatives.sum())
    if not pairs:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float(((below + 0.5 * negatives) * positives).sum() / pairs)
