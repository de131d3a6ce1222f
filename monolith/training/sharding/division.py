"""How one table is divided between ranks: into parts, each some of the table's 1,024 buckets, each a table of its own.

A table without a limit has one part a rank. A table with a limit (``max_rows``, ``max_bytes``) has a fixed number of
parts, whatever the number of ranks, and each part keeps to its share of the limit: so which rows are evicted does not
depend on the number of ranks. Parts are runs of buckets in order, and so are the parts of one rank.

Each part of a table whose absent ids share rows has all of those rows, of which the part with the bucket of a row's
number saves and publishes it (`tails`).

Up to 64 parts are made of 64 *pieces* of 16 buckets each: what a checkpoint is written in, since every piece is of one
rank at any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from monolith.config.admission import Always, MinCount, Probability
from monolith.config.eviction import LFU, LRU, Score, Unlimited
from monolith.config.expiry import Forever
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables.buckets import BUCKETS, Buckets
from monolith.tables.split import Owners
from monolith.training.sharding.natives import Native, natives_of

LIMIT_PARTS = 16  # of a table with a limit
PIECES = 64


class Division:
    """One table's parts. Raises ConfigError for a table that cannot be divided so."""

    def __init__(
        self, table: TableConfig | Native, ranks: int, limit_parts: int = LIMIT_PARTS, first_output: int = 0
    ) -> None:
        """``first_output``: which of a collection's outputs is the table's first."""
        self.native = table if isinstance(table, Native) else next(natives_of(table))
        config = self.native.config
        limited = not isinstance(config.eviction, Unlimited)
        if limited and ranks > limit_parts:
            raise ConfigError(
                f"table {config.name!r} has a limit, so it has {limit_parts} parts, and there are {ranks} ranks: give "
                f"limit_parts of at least {ranks} (the same for the model's whole life), or no limit"
            )
        if not 1 <= ranks <= BUCKETS or not 1 <= limit_parts <= BUCKETS:
            raise ConfigError(
                f"{ranks} ranks, {limit_parts} parts of a table with a limit; allowed: 1 to {BUCKETS} each"
            )
        self.config = config
        names = self.native.table.feature_names()  # a native table may have no name of a feature
        self.outputs = slice(first_output, first_output + len(names))
        nothing = np.zeros(0, np.int64)
        # The feature of each of the rows that lie side by side in the vectors of all features.
        self.features = [name for name in names for _ in self.native.keys(name, nothing)]
        self.names = names
        self.parts = limit_parts if limited else ranks
        self.limited = limited
        self.copies_tail = config.tail_rows > 0 and self.parts > 1
        self._sums_at_owner = config.tail_rows > 0 and ranks == 1  # an id's gradients may go to a row of several ids
        whole = PIECES if self.parts <= PIECES else BUCKETS  # runs of buckets that are not divided
        run = np.arange(BUCKETS) * whole // BUCKETS
        self.owners = Owners((run * self.parts // whole).astype(np.int32), self.parts)  # part of each bucket
        rank_of = [part * ranks // self.parts for part in range(self.parts)]
        self._of_rank = [[part for part, owner in enumerate(rank_of) if owner == rank] for rank in range(ranks)]
        self.last_parts = np.array([parts[-1] for parts in self._of_rank])  # of each rank
        self.counted = needs_occurrences(config)
        self.clips = clips_globally(config)

    def of(self, rank: int) -> list[int]:
        """The parts that one rank has."""
        return self._of_rank[rank]

    def in_order(self, *, exact: bool) -> bool:
        """Whether the gradient of each occurrence goes to the owner, to be added in order; else sums of ids go."""
        return exact or self._sums_at_owner

    def buckets(self, part: int) -> Buckets:
        """The buckets of one part."""
        return self.owners.buckets(part)

    def pieces(self) -> list[Buckets]:
        """What a checkpoint is written in: the parts of a table with a limit, else 64 runs of buckets.

        Raises ConfigError where there are more parts than pieces.
        """
        if self.limited:
            return [self.buckets(part) for part in range(self.parts)]
        if self.parts > PIECES:
            raise ConfigError(f"{self.parts} ranks: a checkpoint of pieces is for up to {PIECES}; use save")
        size = BUCKETS // PIECES
        return [Buckets.of((piece * size, (piece + 1) * size)) for piece in range(PIECES)]

    def part_config(self) -> TableConfig:
        """What each part is: the table, with its share of the limit, rounded up."""
        rule = self.config.eviction
        if not isinstance(rule, LRU | LFU | Score):
            return self.config
        limits = {
            name: -(-getattr(rule, name) // self.parts) for name in ("max_rows", "max_bytes") if getattr(rule, name)
        }
        return msgspec.structs.replace(self.config, eviction=msgspec.structs.replace(rule, **limits))


def divisions_of(tables: Sequence[TableConfig], ranks: int, limit_parts: int = LIMIT_PARTS) -> list[Division]:
    """Of all native tables of ``tables``, in order. Raises ConfigError for a table that cannot be divided."""
    divisions: list[Division] = []
    first_output = 0
    for table in tables:
        divisions += [Division(native, ranks, limit_parts, first_output) for native in natives_of(table)]
        first_output += len(table.feature_names())
    return divisions


def needs_occurrences(config: TableConfig) -> bool:
    """Whether the rules read every occurrence of an id, in order, and not only which ids there are and until when."""
    admission = config.admission
    at_once = (
        isinstance(admission, Always)
        or (isinstance(admission, MinCount) and admission.count == 1)
        or (isinstance(admission, Probability) and admission.p == 1.0)
    )
    simple = isinstance(config.expiry, Forever) and isinstance(config.eviction, Unlimited)
    by_age = config.threshold is not None  # since the id's first occurrence
    return not (at_once and simple) or by_age or bool(config.per_feature)


def clips_globally(config: TableConfig) -> bool:
    """Whether a rule of the table clips by the norm of all rows."""
    rules = [piece.optimizer for piece in config.slices] or [config.optimizer]
    return any(getattr(rule, "clip_global_norm", None) for rule in rules)
