"""A click log of any size with planted log-odds, so that the best AUC that any model can have is known.

Ids are drawn by Zipf's law; what an id is worth is a hash of it, so nothing is held but the chunk that is made. The
log-odds of a click: a weight of user, item and context each, the inner product of user and item, that of item and
context, and a bias. Sample ``i`` is the same whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monolith.datasets.sets.description import LABEL, PROBABILITY, START_MS, TIME
from monolith.datasets.sets.lines import Lines

Floats = npt.NDArray[np.float64]
_CHUNK = 65_536
_FACTORS = 3


class Planted(msgspec.Struct, frozen=True):
    """What is made."""

    rows: int = 200_000
    seed: int = 0
    users: int = 20_000
    items: int = 5_000
    contexts: int = 50
    zipf: float = 1.1
    weight: float = 0.6  # standard deviations of the parts of the log-odds
    match: float = 0.9
    bias: float = -1.2


def planted(settings: Planted, _folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """The samples in order, one every second."""
    for first in range(0, settings.rows, _CHUNK):
        count = min(_CHUNK, settings.rows - first)
        rng = np.random.default_rng([settings.seed, first])
        sizes = {"user": settings.users, "item": settings.items, "context": settings.contexts}
        ids = {name: _zipf(rng.random(_CHUNK), size, settings.zipf)[:count] for name, size in sizes.items()}
        chances = 1 / (1 + np.exp(-_log_odds(settings, ids)))
        clicks = rng.random(_CHUNK)[:count] < chances
        lines.take(count)
        times = START_MS + 1000 * np.arange(first, first + count)
        yield pa.table({LABEL: clicks.astype(np.int8), TIME: times, **ids, PROBABILITY: chances})


def _zipf(uniform: Floats, size: int, exponent: float) -> npt.NDArray[np.int64]:
    """Ids from 1 on, rank r with a share like ``r ** -exponent``; the ranks' ids are in no order."""
    shares = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
    ranks = np.minimum(np.searchsorted(shares, uniform * shares[-1]), size - 1)
    ids: npt.NDArray[np.int64] = np.random.default_rng(size).permutation(size)[ranks] + 1
    return ids


def _log_odds(settings: Planted, ids: dict[str, npt.NDArray[np.int64]]) -> Floats:
    weights = sum(_normal(settings.seed, number, 0, values) for number, values in enumerate(ids.values()))
    vectors = {
        name: np.stack([_normal(settings.seed, number, 1 + k, values) for k in range(_FACTORS)])
        for number, (name, values) in enumerate(ids.items())
    }
    pairs = (vectors["user"] * vectors["item"]).sum(0) + (vectors["item"] * vectors["context"]).sum(0)
    odds: Floats = settings.bias + settings.weight * weights + settings.match * pairs / np.sqrt(_FACTORS)
    return odds


def _normal(seed: int, feature: int, column: int, ids: npt.NDArray[np.int64]) -> Floats:
    """A standard normal number for each id (n,), a function of the arguments alone."""
    key = np.uint64((seed * 1_000_003 + feature * 101 + column) % 2**63)
    first, second = (_uniform(ids.astype(np.uint64) * np.uint64(2) + np.uint64(side), key) for side in (0, 1))
    normal: Floats = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return normal


def _uniform(numbers: npt.NDArray[np.uint64], key: np.uint64) -> Floats:
    """In (0, 1)."""
    whole = mixed(numbers ^ mixed(np.array([key]))[0]) >> np.uint64(11)
    return (whole.astype(np.float64) + 0.5) * 2.0**-53


def mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits of each number that look like chance (the last steps of splitmix64)."""
    mix = numbers + np.uint64(0x9E3779B97F4A7C15)
    mix = (mix ^ (mix >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mix = (mix ^ (mix >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mix ^ (mix >> np.uint64(31))
