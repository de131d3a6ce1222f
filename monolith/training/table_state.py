"""Tables in a torch state dict: all of each, under TorchRec's names where it has some.

A table ``user`` is the tensors ``embedding_bags.user.weight``, ``.weight_id``, ``.bucket`` and ``.metadata``, as
TorchRec has them of a table without collisions, and others that it has not: optimizer states, counters, clock and
counts (``monolith.tables.arrays`` names each). Tables of several parts have such tensors for each part. The tensors are
copies, so a state dict takes about as much memory as the tables; what is larger than memory is for snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from monolith.errors import ConfigError, InputError
from monolith.events import WATERMARK_START
from monolith.tables.arrays import NAMES, ROWS, from_arrays, to_arrays
from monolith.tables.carry import kept_by, native_tables, with_native_tables
from monolith.tables.dense import from_dense
from monolith.tables.embedding import Embedding
from monolith.tables.table import Table

State = dict[str, torch.Tensor]

_KEPT = "kept"  # what a table is besides its rows, as bytes


def state_keys(tables: Mapping[str, Embedding], prefix: str = "") -> set[str]:
    """The keys of a state dict of ``tables``."""
    rows = {_key(prefix, part, name) for table in tables.values() for part in native_tables(table) for name in NAMES}
    return rows | {_key(prefix, name, _KEPT) for name, table in tables.items() if kept_by(table)}


def tables_state(tables: Mapping[str, Embedding], prefix: str = "") -> State:
    """Everything that the tables are, as tensors on the CPU that share no memory with them."""
    kept = {_key(prefix, name, _KEPT): kept_by(table) for name, table in tables.items() if kept_by(table)}
    return {key: torch.tensor(np.frombuffer(data, np.uint8)) for key, data in kept.items()} | {
        _key(prefix, part, name): torch.from_numpy(np.ascontiguousarray(array))
        for table in tables.values()
        for part, native in native_tables(table).items()
        for name, array in to_arrays(native).items()
    }


def tables_of_state(
    tables: Mapping[str, Embedding], state: Mapping[str, Any], prefix: str = ""
) -> dict[str, Embedding]:
    """New tables of the configs of ``tables`` with what ``state`` has of each; of what it has nothing stays as it is.

    A table of which there are only rows, as TorchRec writes them, gets these with fresh optimizer states, seen at its
    clock. Raises ConfigError and CorruptError, naming the table, for what does not fit, and InputError for what is no
    tensor.
    """
    return {name: _table_of_state(table, state, prefix) for name, table in tables.items()}


def _table_of_state(table: Embedding, state: Mapping[str, Any], prefix: str) -> Embedding:
    parts = {}
    for part, native in native_tables(table).items():
        arrays = {name: _array(state, key) for name in NAMES if (key := _key(prefix, part, name)) in state}
        where = _key(prefix, part, "")[:-1]
        if len(arrays) == len(NAMES):
            parts[part] = from_arrays(arrays, native.config, where)
        elif {"weight", "weight_id"} <= arrays.keys() <= {*ROWS}:
            parts[part] = _of_rows(native, arrays, where)
        elif arrays:
            lacking = ", ".join(name for name in NAMES if name not in arrays)
            raise ConfigError(f"{where} lacks {lacking}: give all of them, or weight and weight_id alone")
        else:
            parts[part] = native
    key = _key(prefix, table.config.name, _KEPT)
    return with_native_tables(table, parts, _array(state, key).tobytes() if key in state else None)


def _of_rows(native: Table, arrays: Mapping[str, Any], where: str) -> Table:
    ids, values = arrays["weight_id"], arrays["weight"]
    clock_ms = native.clock_ms if native.clock_ms != WATERMARK_START else None
    try:
        return from_dense(native.config, ids.reshape(-1), values, event_time_ms=clock_ms, sequence=native.sequence)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from None


def _array(state: Mapping[str, Any], key: str) -> Any:
    tensor = state[key]
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{key} is a {type(tensor).__name__}, a tensor is needed")
    return tensor.detach().cpu().contiguous().numpy()


def _key(prefix: str, table: str, name: str) -> str:
    return f"{prefix}embedding_bags.{table}.{name}"
