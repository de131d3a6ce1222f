"""What the tables of a job would take: bytes a row, and in all at their limits, beside the memory there is."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec
import numpy as np

from monolith.commands.check import Findings
from monolith.commands.inspect import size
from monolith.config import JobConfig, TableConfig
from monolith.config.absent import AbsentZeros
from monolith.config.admission import Always, MinCount, Probability
from monolith.config.eviction import Unlimited
from monolith.config.expiry import Forever
from monolith.config.kinds import HAS_ROWS_OF_IDS, kind_of
from monolith.config.memory import Ram
from monolith.secrets import scheme
from monolith.tables import Table
from monolith.tables.fixed import part_configs, part_rows
from monolith.tables.vectors import vectors_of

PROBE_ROWS = 4096
INDEX_BYTES = 10  # a row, of a large index (docs/tables.md)
COUNTER_BYTES = 24  # of an id without a row (docs/policies.md)


@dataclass(frozen=True)
class RowBytes:
    """What one row takes."""

    values: int
    state: int  # of the optimizer
    rest: int  # times, marks, its entry in the index

    @property
    def total(self) -> int:
        """All of it."""
        return self.values + self.state + self.rest


def check_tables(job: JobConfig, found: Findings) -> None:
    """Say of each table what a row takes and where it ends, and warn of tables that memory cannot hold."""
    found.show("tables")
    in_memory = job.join.max_bytes if job.input.samples is None else 0
    endless: list[str] = []
    unlimited: list[str] = []
    for table in job.tables:
        most = most_bytes(table)
        found.show(f"  {table.name}: {_described(table, most)}")
        if isinstance(table.memory, Ram):
            in_memory += most or 0
            unlimited += [table.name] if most is None else []
        if most is None and isinstance(table.expiry, Forever):
            endless.append(table.name)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (
        [f"at their limits with the join's: {size(in_memory)}, of {size(there)} in this machine"] if in_memory else []
    )
    limits += [f"no limit: {', '.join(unlimited)}"] if unlimited else []
    found.show(*[f"  {text}" for text in ["; ".join(limits)] if text])
    if endless and scheme(job.input.samples or "") != "parquet":
        found.warn(
            f"without a limit and without expiry: {', '.join(endless)}. A stream brings new ids for ever, and each "
            f"keeps a row; give them an expiry or an eviction, unless their ids are few"
        )
    if in_memory > there:
        found.warn(f"tables at their limits and join.max_bytes take {size(in_memory)}; this machine has {size(there)}")


def bytes_a_row(config: TableConfig) -> RowBytes:
    """Measured at a table of the config with some rows. Raises ConfigError for a config that no table can have."""
    alone = msgspec.structs.replace(
        config, admission=Always(), absent=AbsentZeros(), memory=Ram(), per_feature={}, eviction=_unlimited(config)
    )
    table = Table(alone)
    table.observe(np.arange(PROBE_ROWS, dtype=np.int64), event_time_ms=0)
    stats = table.stats()
    values, state, tail = (kind // PROBE_ROWS for kind in (stats.bytes_values, stats.bytes_state, stats.bytes_stamps))
    return RowBytes(values, state, tail + INDEX_BYTES)


def bytes_at_limit(config: TableConfig, row: RowBytes) -> int | None:
    """What the table takes when it is full, shared rows and counters included; None where nothing limits it."""
    rule = config.eviction
    if isinstance(rule, Unlimited):
        return None
    limit = rule.max_bytes if rule.max_bytes is not None else (rule.max_rows or 0) * row.total
    admissions = [config.admission, *(rules.admission for rules in config.per_feature.values())]
    counters = [rule.max_counters for rule in admissions if isinstance(rule, MinCount | Probability)]
    return limit + config.tail_rows * row.total + sum(counters) * COUNTER_BYTES


def most_bytes(config: TableConfig) -> int | None:
    """What the table takes when it is full; None where nothing limits it. Raises ConfigError for one that cannot be."""
    kind = kind_of(config)
    parts = part_configs(config, vectors_of(config.name, config.dim, kind))
    if config.kind in HAS_ROWS_OF_IDS:
        return bytes_at_limit(config, bytes_a_row(parts[config.name]))
    return sum(rows * bytes_a_row(part).total for part, rows in zip(parts.values(), part_rows(kind), strict=True))


def _unlimited(config: TableConfig) -> object:
    """The table's own rule, which decides what a row keeps; with room for the probe."""
    rule = config.eviction
    if isinstance(rule, Unlimited):
        return rule
    return msgspec.structs.replace(rule, max_rows=PROBE_ROWS, max_bytes=None)


def _described(table: TableConfig, most: int | None) -> str:
    if table.kind not in HAS_ROWS_OF_IDS:
        return _described_fixed(table, most or 0)
    (rows,) = part_configs(table, vectors_of(table.name, table.dim, kind_of(table))).values()
    row, kind = bytes_a_row(rows), "slices" if table.slices else msgspec.to_builtins(table.optimizer)["kind"]
    reads = _reads(table)
    parts = f"{row.values} values + {row.state} optimizer + {row.rest} times and index"
    limit = "no limit" if most is None else f"at its limit {size(most)}"
    where = "" if isinstance(table.memory, Ram) else f", in a file in {table.memory.folder}"
    rules = f"{_kind(table.admission)}, {_kind(table.expiry)}"
    return f"dim {table.dim}{reads}, {kind}: {row.total} bytes a row ({parts}); {rules}; {limit}{where}"


def _described_fixed(table: TableConfig, size_bytes: int) -> str:
    rows = sum(part_rows(kind_of(table)))
    optimizer = "slices" if table.slices else msgspec.to_builtins(table.optimizer)["kind"]
    where = "" if isinstance(table.memory, Ram) else f", in a file in {table.memory.folder}"
    return f"{table.kind}, dim {table.dim}{_reads(table)}, {optimizer}: {rows:,} rows, {size(size_bytes)}{where}"


def _reads(table: TableConfig) -> str:
    return "" if table.feature_names() == [table.name] else f", reads {', '.join(table.feature_names())}"


def _kind(rule: msgspec.Struct) -> str:
    plain = msgspec.to_builtins(rule)
    rest = ", ".join(f"{key} {value:g}" for key, value in plain.items() if isinstance(value, int | float))
    return f"{plain['kind']} ({rest})" if rest else str(plain["kind"])
