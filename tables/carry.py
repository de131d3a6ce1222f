"""A saved table's rows under another config: what of them still fits, and why the rest does not.

`Table.open` goes on with one table, so it refuses a config under which rows would mean something else. Here another
table begins, with what of the saved one means the same in it:

* rows with their values, stamps, use counts and features, counters of ids without a row, and the ids that went;
* optimizer states and the count of steps, where the optimizers are of the same kinds. Otherwise states start afresh,
  as those of new rows do;
* shared rows of absent ids, where there are as many;
* clock and statistics.

Rules of admission, expiry and eviction, rates, storage type, first values and the seed are the new config's. A row is
found by its key, which is the id, or, where features share a table without sharing rows, the id salted by its feature's
name. So rows of the one feature of a table get new keys where another feature joins it. A table that all features but
one leave cannot be brought back to plain ids: nothing says of which feature a row is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.eviction import Unlimited
from monolith.config.kinds import Cafe, Collisionless, Kind, Unified, kind_of, kind_words
from monolith.config.memory import Ram
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables import saved
from monolith.tables.buckets import BUCKETS
from monolith.tables.embedding import Embedding
from monolith.tables.fixed import FixedTable, part_configs
from monolith.tables.hashing import salted
from monolith.tables.header import TAIL, RowKind
from monolith.tables.kind_file import KEPT_FILE, part_folder, read_kept, read_kind
from monolith.tables.kinds import made, new_embedding
from monolith.tables.optimizer_options import row_layout, with_steps
from monolith.tables.options import native_table
from monolith.tables.schema import is_salted
from monolith.tables.sequences import reopen
from monolith.tables.settings import saved_steps
from monolith.tables.snapshot import Bucket, TableFile, no_tail
from monolith.tables.split import buckets_of
from monolith.tables.table import Table
from monolith.tables.vectors import vectors_of


class Carried(NamedTuple):
    """A table with what fits of a saved one."""

    table: Embedding
    rows: int
    afresh: tuple[str, ...]  # what of the rows that were taken starts afresh, and why


def misfit(folder: str | os.PathLike[str], was: TableConfig, config: TableConfig) -> str | None:
    """Why the rows saved in ``folder`` cannot be rows of a table of ``config``; None: they can.

    ``was`` is the config of the job that saved them. Raises CorruptError and VersionError.
    """
    kind, features = kind_of(config), was.feature_names()
    before = read_kind(Path(folder))
    if _rows_of(before.kind if before else Collisionless()) != _rows_of(kind):
        return f"it was {kind_words(before.kind if before else Collisionless())}, it is {kind_words(kind)}"
    if was.dim != config.dim:
        return f"dim was {was.dim}, it is {config.dim}: no rule says what a trained row holds in other columns"
    if not {*features} & {*config.feature_names()}:
        return f"it was read by {_listed(was)}, it is read by {_listed(config)}: its rows are of other ids"
    if is_salted(was) and not is_salted(config):
        return f"rows were kept apart by feature ({_listed(was)}), and no row says of which feature it is"
    if is_salted(config) and not is_salted(was) and (len(features) > 1 or not isinstance(kind, Collisionless)):
        return f"its rows were those of an id in any of {_listed(was)}, they are kept apart by feature now"
    return None


def _rows_of(kind: Kind) -> Kind:
    """The kind as far as rows depend on it: how many of them a feature reads changes none, nor how scores decay."""
    if isinstance(kind, Cafe):
        return msgspec.structs.replace(kind, score_decay=1.0)
    return msgspec.structs.replace(kind, probes={}) if isinstance(kind, Unified) else kind


def _listed(config: TableConfig) -> str:
    return ", ".join(config.feature_names())


def carried(folder: str | os.PathLike[str], was: TableConfig, config: TableConfig) -> Carried:
    """A table of ``config`` with what fits of the one saved in ``folder``, at the sequence at which that one stood.

    Raises ConfigError for what `misfit` names, and what `Table.open` raises for damaged files.
    """
    folder = Path(folder)
    if (reason := misfit(folder, was, config)) is not None:
        raise ConfigError(f"{folder}: {reason}")
    joined = was.feature_names()[0] if is_salted(config) and not is_salted(was) else None
    if isinstance(kind_of(config), Collisionless):
        table, afresh = _carried_rows(folder, config, joined)
        return Carried(table, len(table), afresh)
    configs = part_configs(config, vectors_of(config.name, config.dim, kind_of(config)))
    found = {name: _carried_rows(part_folder(folder, name), part, None) for name, part in configs.items()}
    whole = made(config, {name: part for name, (part, _) in found.items()})
    whole.keep(read_kept(folder), str(folder / KEPT_FILE))
    return Carried(whole, len(whole), next(iter(found.values()))[1])


def new_at(config: TableConfig, sequence: int) -> Embedding:
    """A table as it is before the first step, but with ``sequence`` open, so that it is cut along with others."""
    table = new_embedding(config)
    for part in native_tables(table).values():
        reopen(part, sequence, floor=sequence - 1)
    return table


def native_tables(table: Embedding) -> dict[str, Table]:
    """The native tables in which the rows of ``table`` lie, by the name under which they are published."""
    return {table.config.name: table} if isinstance(table, Table) else cast(FixedTable, table).parts


def kept_by(table: Embedding) -> bytes:
    """What ``table`` is besides its native tables; empty: nothing."""
    return b"" if isinstance(table, Table) else cast(FixedTable, table).kept()


def with_native_tables(table: Embedding, parts: Mapping[str, Table], kept: bytes | None = None) -> Embedding:
    """A table like ``table``, whose rows lie in ``parts``, by the name under which they are published.

    ``kept`` is what it is besides; None: as ``table`` is. Raises CorruptError.
    """
    if isinstance(table, Table):
        return parts[table.config.name]
    whole = made(table.config, dict(parts))
    whole.keep(cast(FixedTable, table).kept() if kept is None else kept, f"table {table.config.name!r}")
    return whole


def _carried_rows(folder: Path, config: TableConfig, joined: str | None) -> tuple[Table, tuple[str, ...]]:
    """A native table, and what starts afresh in it. ``joined`` is the feature whose name salts keys from now on."""
    with saved.opened(folder) as files:
        rows = files.header.rows
        keeps_state = rows.layout == row_layout(config)
        table = Table(with_steps(config, "table", saved_steps(files.header.settings) if keeps_state else ()))
        files.restore(table, _Adapter(table, rows, keeps_state=keeps_state, joined=joined).buckets)
    if not keeps_state:
        reopen(table, table.sequence, floor=table.native.clockwork().floor, steps=0)
    return table, tuple(_afresh(rows, config))


def _afresh(rows: RowKind, config: TableConfig) -> Iterator[str]:
    if rows.layout != row_layout(config):
        yield f"optimizer states start afresh (the optimizer was {rows.layout}, it is {row_layout(config)})"
    if rows.tail_rows not in (0, config.tail_rows):
        yield f"shared rows of absent ids are left (there were {rows.tail_rows}, there are {config.tail_rows})"


class _Adapter:
    """Gives the buckets of a saved table in the form of another one."""

    def __init__(self, table: Table, rows: RowKind, *, keeps_state: bool, joined: str | None) -> None:
        self._keeps_state, self._joined = keeps_state, joined
        self._state_floats = rows.state_floats
        self._fresh = None if keeps_state else _fresh_state(table.config)

    def buckets(self, file: TableFile) -> Iterator[tuple[int, Bucket]]:
        """All buckets of ``file`` that have something in them."""
        filled = [number for number in file.held if any(file.directory[number].counts.values())]
        fitting = ((number, self._with_state(bucket)) for number, bucket in file.buckets(filled))
        return fitting if self._joined is None else _under_new_keys(dict(fitting), self._joined)

    def _with_state(self, bucket: Bucket) -> Bucket:
        if self._fresh is None:
            return bucket
        shared = {"tail_state": np.tile(self._fresh, len(bucket["tail_marks"]))}
        return bucket | shared | {"state": np.tile(self._fresh, len(bucket["ids"]))}


def _fresh_state(config: TableConfig) -> npt.NDArray[np.float32]:
    """The optimizer state of a row that made no step, (words,): equal for all rows."""
    native = native_table(msgspec.structs.replace(config, eviction=Unlimited(), memory=Ram()))
    native.apply_image(1, np.zeros(1, np.int64), np.zeros((1, config.dim), np.float32))
    state: npt.NDArray[np.float32] = native.export_bucket(int(buckets_of(np.zeros(1, np.int64))[0]))["state"]
    return state


_MEMBERS = {  # what lies beside ids of each kind
    "ids": ("last_seen_ms", "marks", "values", "state", "admitted_ms", "uses", "policies"),
    "counter_ids": ("counter_last_ms", "counts", "counter_policies"),
    "tombstone_ids": ("tombstone_marks",),
}


def _under_new_keys(old: dict[int, Bucket], feature: str) -> Iterator[tuple[int, Bucket]]:
    """The members of the buckets ``old``, each in the bucket and at the place of its new key. All are in memory."""
    groups = [_Members(list(old.values()), ids, others, feature) for ids, others in _MEMBERS.items()]
    for number in range(BUCKETS):
        bucket = {name: old[number][name] for name in TAIL} if number in old else no_tail()
        for group in groups:
            bucket |= group.of(number)
        yield number, bucket


class _Members:
    """Ids of all buckets with what lies beside them, by their new keys."""

    def __init__(self, buckets: Sequence[Bucket], ids: str, others: Sequence[str], feature: str) -> None:
        keys = salted(feature, np.concatenate([np.zeros(0, np.int64), *(bucket[ids] for bucket in buckets)]))
        places = buckets_of(keys)
        order = np.lexsort((keys, places))  # stable: an id's counters stay in the order of their policies
        self._ends = np.searchsorted(places[order], np.arange(BUCKETS + 1))
        self._arrays: Bucket = {ids: keys[order]}
        for name in others:
            whole = np.concatenate([bucket[name] for bucket in buckets]) if buckets else np.zeros(0)
            self._arrays[name] = whole.reshape(len(keys), -1)[order] if len(whole) else whole

    def of(self, number: int) -> Bucket:
        """The arrays of one bucket, flat."""
        here = slice(self._ends[number], self._ends[number + 1])
        return {name: np.ascontiguousarray(array[here]).ravel() for name, array in self._arrays.items()}
