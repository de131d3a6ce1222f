"""Where an order of samples is cut: shares of a total, by a histogram that stays small for any number of keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MOST_BINS = 1 << 20
_COMPACT = 1 << 19


class KeyHistogram:
    """How much lies at each key. Exact up to `MOST_BINS` different keys; then neighbours share a bin.

    A cut is then off by at most one bin, about a millionth of what there is where keys are spread evenly.
    """

    def __init__(self) -> None:
        self._shift = 0  # bins are key >> shift
        self._bins: Ints = np.zeros(0, np.int64)
        self._weights: npt.NDArray[np.float64] = np.zeros(0)
        self._waiting: list[tuple[Ints, npt.NDArray[np.float64]]] = []
        self._count = 0

    def add(self, keys: Ints, weights: npt.NDArray[np.float64]) -> None:
        """Take in keys (n,) with their weights (n,)."""
        self._waiting.append((keys >> self._shift, weights))
        self._count += len(keys)
        if self._count >= _COMPACT:
            self._compact()

    def quantiles(self, shares: Sequence[float]) -> list[int]:
        """For each share the least key below which lies at least about that share of the weight; ascending keys."""
        self._compact()
        if not len(self._bins):
            return [0 for _ in shares]
        below = np.cumsum(self._weights) - self._weights
        places = [int(np.searchsorted(below, share * self._weights.sum() - 1e-6)) for share in shares]
        keys = np.append(self._bins, self._bins[-1] + 1)
        return [int(keys[place]) << self._shift for place in places]

    def _compact(self) -> None:
        keys = np.concatenate([self._bins, *(keys for keys, _ in self._waiting)])
        weights = np.concatenate([self._weights, *(weights for _, weights in self._waiting)])
        self._waiting, self._count = [], 0
        self._sum_up(keys, weights)
        while len(self._bins) > MOST_BINS:
            self._shift += 1
            self._sum_up(self._bins >> 1, self._weights)

    def _sum_up(self, keys: Ints, weights: npt.NDArray[np.float64]) -> None:
        bins, slots = np.unique(keys, return_inverse=True)
        self._bins = bins
        self._weights = np.asarray(np.bincount(slots, weights=weights, minlength=len(bins)), np.float64)
