"""A matrix with an id for each of its rows, as other programs keep embeddings, into a table and out of one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith.config.expiry import Forever
from monolith.config.table import TableConfig
from monolith.errors import InputError
from monolith.tables.arguments import Ids, Matrix, checked_time
from monolith.tables.sequences import reopen
from monolith.tables.table import Table


def from_dense(
    config: TableConfig,
    ids: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    event_time_ms: int | None = None,
    sequence: int = 1,
) -> Table:
    """A table of ``config`` with a row for each of ``ids`` (n,), whose values are ``values`` (n, dim).

    Optimizer states are those of new rows. ``event_time_ms`` is when the ids count as last seen, and then the table's
    clock; a table whose rows expire needs it. The table stands at ``sequence``, and its next delta has all rows. Where
    features share the table without sharing rows, ids are keys (``monolith.tables.hashing.salted``).

    Raises InputError for ids that are no integers or come twice, for values of another shape, that are no floats or
    not finite in float32, and for a time that is missing; ConfigError for a config that cannot be.
    """
    table = Table(config)
    keys, rows = _checked_ids(ids), _checked_values(values, config)
    if len(keys) != len(rows):
        raise InputError(f"{len(keys)} ids and {len(rows)} rows of values: give an id for each row")
    if event_time_ms is not None:
        table.advance(checked_time(event_time_ms, "event_time_ms"))
    elif expires(config):
        raise InputError(f"rows of table {config.name!r} expire: say when these ids were last seen (event_time_ms)")
    table.native.apply_image(sequence, keys, rows)
    reopen(table, sequence, floor=sequence - 1)
    return table


def to_dense(table: Table, ids: npt.ArrayLike | None = None) -> tuple[Ids, Matrix]:
    """Ids (n,) ascending, and their rows (n, dim): all that did not expire, or those of ``ids`` that have a row."""
    if ids is None:
        return table.rows()
    wanted = np.unique(np.asarray(ids, np.int64))
    own: Ids = wanted[table.contains(wanted)]
    return own, table.lookup(own)


def _checked_ids(ids: npt.ArrayLike) -> Ids:
    given = np.asarray(ids)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(f"ids are {given.dtype} of shape {given.shape}: give integers, (n,)")
    if given.dtype == np.uint64:
        keys: Ids = given.view(np.int64)  # the same 64 bits
    else:
        keys = given.astype(np.int64)
    unique, counts = np.unique(keys, return_counts=True)
    if (twice := unique[counts > 1]).size:
        first = np.flatnonzero(keys == twice[0])
        raise InputError(
            f"{len(twice)} ids have more than one row, the first is {twice[0]}, in rows {first[0]} and {first[1]}: "
            f"keep one row an id"
        )
    return np.ascontiguousarray(keys)


def _checked_values(values: npt.ArrayLike, config: TableConfig) -> Matrix:
    given = np.asarray(values)
    if given.ndim != 2 or given.shape[1] != config.dim:
        raise InputError(f"values have shape {given.shape}, table {config.name!r} takes (n, {config.dim})")
    if given.dtype.kind != "f":
        raise InputError(f"values are {given.dtype}: give floats")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(given, np.float32)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        first = f"in row {row}, column {column}: {given[row, column]}"
        raise InputError(f"{len(bad)} values are not finite in float32, the first {first}")
    return rows


def expires(config: TableConfig) -> bool:
    """Whether rows of the table go by their times."""
    rules = [config.expiry, *(own.expiry for own in config.per_feature.values() if own.expiry is not None)]
    return any(not isinstance(rule, Forever) for rule in rules)
