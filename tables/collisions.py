"""Which ids share rows in a table with a fixed number of them: how often, and with ids of which feature.

Two ids of one feature in a row (an *intra*-feature collision) cannot be told apart by what reads that row; ids of two
features (*inter*-feature) mostly can, as what reads each feature has weights of its own (Coleman et al., "Unified
Embedding", 2023). So a table is judged by the first kind above all. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.config.kinds import SHARES_ROWS, kind_of
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables.arguments import Ids
from monolith.tables.fixed import part_rows
from monolith.tables.hashing import salted
from monolith.tables.schema import is_salted
from monolith.tables.vectors import vectors_of

_MERGE_AT = 1 << 20  # ids that wait to be counted


@dataclass(frozen=True, slots=True)
class FeatureCollisions:
    """What one feature's ids share. Shares are of 1; where an id reads several rows, it counts once for each."""

    ids: int  # different ones
    occurrences: int  # of ids in the samples
    probes: int  # rows that an id reads
    rows: int  # different rows that the feature's ids read
    expected_rows: float  # that many, were every row as likely
    occupancy_p: (
        float | None
    )  # that ids fall on rows so unevenly, or more so, by chance (chi-squared); None: several parts
    intra: float  # share of reads whose row another id of the feature reads too
    intra_occurrences: float  # the same, each id as often as it occurs
    inter: float  # share of reads whose row an id of another feature reads too
    inter_occurrences: float
    alike: float  # share of ids that read the same rows as another id of the feature, so that they have one vector


class SeenIds:
    """The ids of one feature and how often each occurred."""

    def __init__(self) -> None:
        self._ids, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[Ids] = []
        self._waits = 0

    def add(self, ids: Ids) -> None:
        """Count ids (n,)."""
        self._waiting.append(ids)
        self._waits += len(ids)
        if self._waits >= max(_MERGE_AT, len(self._ids)):
            self._merge()

    def counted(self) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Different ids, ascending, and how often each occurred: (n,) both."""
        self._merge()
        return self._ids, self._counts

    def _merge(self) -> None:
        ids, inverse = np.unique(np.concatenate([self._ids, *self._waiting]), return_inverse=True)
        weights = np.concatenate([self._counts, np.ones(self._waits, np.int64)])
        self._counts = np.bincount(inverse, weights, minlength=len(ids)).astype(np.int64)
        self._ids, self._waiting, self._waits = ids, [], 0


def collisions(config: TableConfig, seen: Mapping[str, SeenIds]) -> dict[str, FeatureCollisions]:
    """What the ids ``seen`` of each feature share, by feature. Raises ConfigError for a collisionless table."""
    kind = kind_of(config)
    sizes = part_rows(kind)
    if config.kind not in SHARES_ROWS:
        raise ConfigError(
            f"table {config.name!r} is {config.kind}: its ids share no rows by their hashes alone; name one of kind "
            f"{', '.join(SHARES_ROWS)}"
        )
    reader = vectors_of(config.name, config.dim, kind)
    firsts = dict(zip(reader.parts, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    reads: dict[str, _Reads] = {}
    for name in config.feature_names():
        ids, counts = seen[name].counted()
        requests = reader.of(name).requests(salted(name, ids) if is_salted(config) else ids)
        columns = [keys + firsts[part] for part, keys in requests]
        reads[name] = _Reads(np.stack(columns, axis=1), counts, [sizes[list(firsts).index(p)] for p, _ in requests])
    return {name: _found(name, reads) for name in reads}


class _Reads:
    """The numbers of the rows that a feature's ids read, (n, probes)."""

    def __init__(self, numbers: Ids, counts: npt.NDArray[np.int64], sizes: list[int]) -> None:
        self.numbers, self.counts, self.sizes = numbers, counts, sizes
        own = np.sort(numbers, axis=1)
        fresh = np.ones(own.shape, np.bool_)  # an id that reads a row twice is one id there
        fresh[:, 1:] = own[:, 1:] != own[:, :-1]
        self.rows, self.readers = np.unique(own[fresh], return_counts=True)

    def readers_of(self, numbers: Ids) -> npt.NDArray[np.int64]:
        """How many ids of the feature read each of the rows."""
        if not len(self.rows):
            return np.zeros(numbers.shape, np.int64)
        places = np.minimum(np.searchsorted(self.rows, numbers), len(self.rows) - 1)
        return np.where(self.rows[places] == numbers, self.readers[places], 0)


def _found(name: str, reads: Mapping[str, _Reads]) -> FeatureCollisions:
    own = reads[name]
    mine = own.readers_of(own.numbers) > 1
    others = np.zeros(own.numbers.shape, np.bool_)
    for other, theirs in reads.items():
        if other != name:
            others |= theirs.readers_of(own.numbers) > 0
    _, inverse, sharing = np.unique(own.numbers, axis=0, return_inverse=True, return_counts=True)
    ids = len(own.numbers)
    probes = own.numbers.shape[1]
    expected = (
        sum(
            size * -math.expm1(ids * n * math.log1p(-1 / size) if size > 1 else -math.inf)
            for size, n in {size: own.sizes.count(size) for size in own.sizes}.items()
        )
        if ids
        else 0.0
    )
    return FeatureCollisions(
        ids=ids,
        occurrences=int(own.counts.sum()),
        probes=probes,
        rows=len(own.rows),
        expected_rows=expected,
        occupancy_p=_occupancy_p(own),
        intra=_share(mine, None),
        intra_occurrences=_share(mine, own.counts),
        inter=_share(others, None),
        inter_occurrences=_share(others, own.counts),
        alike=float((sharing[inverse.ravel()] > 1).mean()) if ids else 0.0,
    )


def _share(flags: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64] | None) -> float:
    if not len(flags):
        return 0.0
    each = flags.mean(axis=1)
    return float(each.mean() if counts is None else np.average(each, weights=counts))


def _occupancy_p(reads: _Reads) -> float | None:
    """Of the numbers of reads a row, against equal chances, by the normal approximation of chi-squared."""
    if len({*reads.sizes}) != 1 or reads.sizes[0] < 2 or not len(reads.numbers):
        return None
    size = reads.sizes[0]
    _, times = np.unique(reads.numbers, return_counts=True)
    mean = reads.numbers.size / size
    chi_squared = float((times.astype(np.float64) ** 2).sum()) / mean - reads.numbers.size
    return 0.5 * math.erfc((chi_squared - (size - 1)) / math.sqrt(4 * (size - 1)))
