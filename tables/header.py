"""The header of a table file: what its rows are, which buckets it has, and the state that is not in a bucket.

A struct of its own: what a reader of rows must know is here by itself, and the TableConfig by which the table was
trained is a map of ``settings`` beside that (``monolith.tables.settings``). So a new key of the config changes neither
the header nor what an earlier build makes of the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from monolith.config.table import Storage, TableConfig
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.tables.buckets import ALL_BUCKETS, BUCKETS, Buckets
from monolith.tables.optimizer_options import row_layout
from monolith.tables.policy_options import MAX_TAIL_ROWS, keeps_age, keeps_uses, policy_names
from monolith.tables.settings import config_of, settings_of
from monolith.tables.storage import STORED

UPPERS_A_BUCKET = 2**32 // BUCKETS  # upper halves of the hashes of its ids

_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of a bucket: ``width`` elements for each member of its group."""

    name: str
    type: str  # as numpy writes it: <i8, <u4, <f4; <u2 for the bits of 16-bit values
    group: str
    width: int = 1


_GROUPS = ["rows", "counters", "tombstones"]  # members of each are counted in the directory; with a tail, it follows
_ALWAYS = (  # in file order, eight-byte ones first; `values` and `state` follow
    Array("ids", "<i8", "rows"),
    Array("last_seen_ms", "<i8", "rows"),
    Array("counter_ids", "<i8", "counters"),
    Array("counter_last_ms", "<i8", "counters"),
    Array("tombstone_ids", "<i8", "tombstones"),
    Array("marks", "<u4", "rows"),
    Array("counts", "<u4", "counters"),
    Array("tombstone_marks", "<u4", "tombstones"),
)
SOMETIMES = (  # where the table has them; else a bucket that was read has empty arrays
    Array("admitted_ms", "<i8", "rows"),
    Array("uses", "<u4", "rows"),
    Array("policies", "<u4", "rows"),
    Array("counter_policies", "<u4", "counters"),
)
TAIL = ("tail_marks", "tail_values", "tail_state")
KNOWN = {"values", "state", *TAIL, *(array.name for array in (*_ALWAYS, *SOMETIMES))}


class RowKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What says which row an id has, how wide it is, and what its words mean."""

    name: str
    seed: int
    shared_ids: bool  # else an id of a feature among several is salted by the feature's name
    dim: int
    storage: Storage
    layout: str  # the kinds of its optimizers, by runs of columns
    state_floats: int  # words of optimizer state a row
    tail_rows: int  # that ids without one share
    policies: list[str]  # the features with rules of their own in the file's numbers: the first is 1


def row_kind(config: TableConfig, state_floats: int) -> RowKind:
    """That of a table of such a config, whose native one has so many words of state a row."""
    return RowKind(
        name=config.name,
        seed=config.seed,
        shared_ids=config.shared_ids,
        dim=config.dim,
        storage=config.storage,
        layout=row_layout(config),
        state_floats=state_floats,
        tail_rows=config.tail_rows,
        policies=policy_names(config),
    )


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a table's state that is not in a bucket."""

    rows: RowKind
    buckets: list[tuple[int, int]]  # that the file has: ranges [first, end), ascending and apart
    sequence: int  # the open one
    floor: int  # deltas can start from here on
    open_forgotten: bool  # those that went in the open sequence are not all known either: the next cut's floor
    clock_ms: int
    steps: int  # apply_gradients calls since the table was made
    sweep_cursor: int  # the bucket in which the next sweep starts
    sweep_offset: int  # and how many upper halves of hashes from the bucket's first
    eviction_cursor: int  # the upper half of the hash at which the next sample starts
    statistics: dict[str, int]
    groups: list[str]  # in the order of the directory's counts
    arrays: list[Array]  # in file order
    settings: dict[str, Any]  # the TableConfig by which the table was trained
    defaulted: list[list[str | int]]  # ways to those settings that have their default

    @property
    def effective_floor(self) -> int:
        """The earliest sequence from which all removed ids are known."""
        return self.sequence if self.open_forgotten else self.floor

    def held(self) -> Buckets:
        """The buckets that the file has. Raises InputError for ranges that are none."""
        return Buckets.of(*self.buckets)


class FormerHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of versions 1 to 3, which have every bucket; defaults are what the earlier ones do not say."""

    config: dict[str, Any]
    sequence: int
    floor: int
    clock_ms: int
    open_forgotten: bool = False
    sweep_cursor: int
    sweep_offset: int = 0
    steps: int = 0
    eviction_cursor: int = 0
    state_floats: int
    statistics: dict[str, int]
    groups: list[str] = []
    parts: list[Array] = []

    def now(self) -> Header:
        """The same, as this build writes it.

        Raises msgspec.ValidationError for what this build does not know, ConfigError for what no table can have.
        """
        config = config_of(self.config, [])
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name in Header.__struct_fields__}
        arrays = self.parts or arrays_of(row_kind(config, self.state_floats), sometimes(config))
        settings, defaulted = settings_of(config)
        return Header(
            **fields | {"groups": self.groups or groups_of(config.tail_rows)},
            rows=row_kind(config, self.state_floats),
            buckets=list(ALL_BUCKETS.ranges),
            arrays=arrays,
            settings=settings,
            defaulted=defaulted,
        )


decode_header = msgspec.json.Decoder(Header).decode  # prepared here: tables are opened in threads
decode_former_header = msgspec.json.Decoder(FormerHeader).decode


def encoded(header: Header) -> bytes:
    """The header as it is in a file: JSON, keys sorted."""
    return msgspec.json.encode(header, order="sorted")


def sometimes(config: TableConfig) -> set[str]:
    """Names of the arrays that a bucket of such a table has, and of others does not."""
    has = {"admitted_ms": keeps_age(config), "uses": keeps_uses(config)}
    return {array.name for array in SOMETIMES if has.get(array.name, bool(config.per_feature))}


def arrays_of(rows: RowKind, some: Collection[str]) -> list[Array]:
    """What a bucket of such rows consists of, with those of ``SOMETIMES`` that are named."""
    stored = STORED[rows.storage]
    values = Array("values", stored, "rows", rows.dim)
    state = Array("state", "<f4", "rows", rows.state_floats)
    arrays = [*_ALWAYS, values, state, *(array for array in SOMETIMES if array.name in some)]
    if rows.tail_rows:
        widths = (("<u4", 1), (stored, rows.dim), ("<f4", rows.state_floats))
        arrays += [Array(name, type_, "tail", width) for name, (type_, width) in zip(TAIL, widths, strict=True)]
    return arrays


def groups_of(tail_rows: int) -> list[str]:
    """What a bucket of a table with so many shared rows has several of."""
    return [*_GROUPS, "tail"] if tail_rows else [*_GROUPS]


def limits(header: Header) -> Iterator[tuple[str, int, int, int]]:
    """Each count of a table with the lowest and the highest that it can have."""
    yield "sequence", header.sequence, 1, _UINT32
    yield "floor", header.floor, 0, header.sequence - 1
    yield "clock_ms", header.clock_ms, WATERMARK_START, WATERMARK_END - 1
    yield "sweep_cursor", header.sweep_cursor, 0, BUCKETS - 1
    yield "sweep_offset", header.sweep_offset, 0, UPPERS_A_BUCKET - 1
    yield "eviction_cursor", header.eviction_cursor, 0, 2**32 - 1
    yield "steps", header.steps, 0, _UINT64
    yield "rows.dim", header.rows.dim, 1, 2**16
    yield "state_floats", header.rows.state_floats, 0, _UINT32
    yield "rows.tail_rows", header.rows.tail_rows, 0, MAX_TAIL_ROWS
    for name, count in header.statistics.items():
        yield f"statistics.{name}", count, 0, _UINT64
