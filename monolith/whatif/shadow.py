"""A shadow: the real table of one setting, with rows as small as can be, beside the training that is not done.

Which ids have a row depends on the rules, the ids and the event times, never on what rows hold. So a shadow keeps the
table's name, seed and rules, and takes one value a row and an optimizer without state. What the job's own rows would
take is then asked of a small table with the job's dim, optimizer and storage.

There are two of them. One is shown every batch whole, as training shows it, and so ends with the trained table's
counts. The other is shown the same samples one after the other, so that a look-up between two of them finds what a
replica that lags behind by nothing would serve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec
import numpy as np

from monolith.config import TableConfig
from monolith.tables import Table, TableStats, absent, admission, initializers, optimizers
from monolith.tables.table_step import TableBatch, Times, end_step
from monolith.whatif.serving_order import Flags, Ints, Runs
from monolith.whatif.settings import Setting

BYTES = tuple(f.name for f in fields(TableStats) if f.name.startswith("bytes_") and f.name != "bytes_scratch")
_OF_ROWS = ("bytes_values", "bytes_state", "bytes_stamps")  # as many times as there are rows, free ones included
_TIMES = 100  # a rule's time is read to within this part of it
_TRAINED = ("dropped_gradients", "nonfinite", "bytes_scratch")  # only training makes them
_PROBE_ROWS = 64


@dataclass(frozen=True)
class Outcome:
    """What one setting came to."""

    setting: Setting
    stats: dict[str, int]  # as `TableStats` of the trained table would have them at the end
    live_rows: int  # without those that expired and were not swept yet
    peak_rows: int
    removed: int  # rows that went: so many tombstones at most (an id that is back before the next delta needs none)
    hits: int  # look-ups that found a row

    @property
    def bytes(self) -> int:
        """All that the table would take."""
        return sum(self.stats[kind] for kind in BYTES)

    @property
    def overhead(self) -> int:
        """What it takes beside values and optimizer state: tails of rows, index, counters, tombstones."""
        return self.bytes - self.stats["bytes_values"] - self.stats["bytes_state"]


class Shadow:
    """One setting on its way through the log; a `Server`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._config = shadow_config(setting.config)
        self._table, self._served = Table(self._config), Table(self._config)
        self._hits = 0
        self._peak = 0

    def look_up(self, ids: Ints, clock_ms: int) -> Flags:
        """See `Server`."""
        self._served.advance(clock_ms)
        found: Flags = self._served.lookup(ids)[:, 0] != 0
        return found

    def served(self, found: Flags) -> None:
        """See `Server`."""
        self._hits += int(np.count_nonzero(found))

    def show(self, ids: Ints, times_ms: Ints, runs: Runs) -> None:
        """See `Server`."""
        if len(ids):
            self._served.observe(ids, event_time_ms=times_ms, feature=runs)

    def observe(self, batch: TableBatch, times: Times) -> None:
        """Show the table a batch, as a training step does."""
        self._table.observe(batch.ids, event_time_ms=batch.times(times), feature=batch.runs)
        self._peak = max(self._peak, len(self._table))

    def end_step(self, watermark_ms: int, sweep_rows: int, *, publish: bool) -> None:
        """The journal step is over; ``publish``: a delta is cut after it."""
        for table in (self._table, self._served):
            end_step(table, watermark_ms, sweep_rows)
            if publish:
                table.cut()

    def outcome(self) -> Outcome:
        """What it came to so far."""
        told = self._table.stats()
        stats, removed = asdict(told), told.expired + told.evicted
        held = stats["rows"] + stats["free_rows"]
        shared = stats["tail_rows"] = self.setting.config.tail_rows
        mine, real = _bytes_a_row(self._config), _bytes_a_row(self.setting.config)
        for kind in _OF_ROWS:
            stats[kind] += held * (real[kind] - mine[kind]) + shared * real[kind]
        kept = {name: count for name, count in stats.items() if name not in _TRAINED}
        return Outcome(self.setting, kept, len(self._table.rows()[0]), self._peak, removed, self._hits)


class Distinct:
    """How many different ids there were, exactly: one small row each."""

    def __init__(self) -> None:
        self._table = Table(TableConfig(name="distinct", dim=1, optimizer=optimizers.SGD()))

    def add(self, ids: Ints) -> None:
        """Count ``ids`` (n,)."""
        self._table.observe(ids)

    def __len__(self) -> int:
        return len(self._table)


def shadow_config(config: TableConfig, *, wide: bool | None = None) -> TableConfig:
    """The config with the smallest rows that its rules allow: of as many bytes as the real ones if ``wide``, which by
    default is whether a rule counts bytes.

    Values start from a normal distribution, which is 0 for one row in 2^53: else a row could not be told from none. So
    absent ids read zeros, whatever the config says; rows that they share decide nothing here.
    """
    wide = _counts_bytes(msgspec.to_builtins(config)) if wide is None else wide
    words = sum(_bytes_a_row(config)[kind] for kind in ("bytes_values", "bytes_state")) // 4
    return msgspec.structs.replace(
        config,
        dim=words if wide else 1,
        optimizer=optimizers.SGD(),
        slices=[],
        storage="float32",
        initializer=initializers.TruncatedNormal(std=1.0),
        absent=absent.AbsentZeros(),
    )


def longest_stretch_ms(settings: Sequence[Setting]) -> float:
    """How far a look-up may be ahead of the clock: a hundredth of the shortest time that a rule of a setting names."""
    times_s = [s for setting in settings for s in _times_s(msgspec.to_builtins(setting.config))]
    return min(times_s, default=math.inf) * 1000 / _TIMES


def _times_s(value: Any) -> Iterator[float]:
    """Every number under a key that ends in ``_s``."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key.endswith("_s") and isinstance(child, int | float):
                yield float(child)
            else:
                yield from _times_s(child)
    elif isinstance(value, list):
        for child in value:
            yield from _times_s(child)


def _counts_bytes(value: Any) -> bool:
    """Whether some rule of the config has a limit in bytes."""
    if isinstance(value, dict):
        return any((key == "max_bytes" and child is not None) or _counts_bytes(child) for key, child in value.items())
    return isinstance(value, list) and any(map(_counts_bytes, value))


def _bytes_a_row(config: TableConfig) -> dict[str, int]:
    """Bytes of one row by kind, as a native table of the config has them; what a tail holds depends on the rules."""
    alone = msgspec.structs.replace(config, admission=admission.Always(), absent=absent.AbsentZeros())
    probe = Table(alone)  # of one call, no row is evicted
    probe.observe(np.arange(_PROBE_ROWS, dtype=np.int64), event_time_ms=0)
    stats = asdict(probe.stats())
    return {kind: stats[kind] // _PROBE_ROWS for kind in _OF_ROWS}
