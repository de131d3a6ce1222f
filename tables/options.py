"""From a TableConfig to the native table: every limit of every field, and which fields may change between runs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
import numpy as np

from monolith.config.document import path_text
from monolith.config.kinds import broken_kind_rules
from monolith.config.memory import File
from monolith.config.optimizer_rules import broken_optimizer_rules
from monolith.config.policy_rules import broken_policy_rules
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables import _core
from monolith.tables.hashing import table_key
from monolith.tables.optimizer_options import Rule, native_optimizer, optimizer_rules, row_layout
from monolith.tables.policy_options import (
    check_limit,
    native_eviction,
    native_policies,
    native_pruning,
    native_tail,
    policy_rules,
)

LEAST_TOMBSTONES = 1 << 15  # of 32 bytes: a table that is smaller than they are may have that many
_MAX_DIM = 1 << 16
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# msgspec prepares a type where it is first used, and two threads that do so at once meet a half-prepared one and crash.
# A replica makes its tables in threads.
_prepared = msgspec.json.Decoder(TableConfig)


def checked(config: TableConfig) -> TableConfig:
    """The config, every number in its declared type. Raises ConfigError for the first field that is out of bounds."""
    try:
        config = msgspec.convert(msgspec.to_builtins(config), TableConfig)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"table {config.name!r}: {error}") from None
    for path, value, right, allowed in _rules(config):
        if not right:
            raise ConfigError(f"table {config.name!r}: {path} is {value!r}, allowed is {allowed}")
    for keys, text in (*broken_optimizer_rules(config), *broken_policy_rules(config), *broken_kind_rules(config)):
        raise ConfigError(f"table {config.name!r}: {path_text(keys)}: {text}")
    return config


def native_table(config: TableConfig, reserve_bytes: int = 0, tombstones: int | None = LEAST_TOMBSTONES) -> _core.Table:
    """An empty native table for a checked config. Raises ConfigError for a folder that takes no files, and OSError.

    ``reserve_bytes`` bounds its rows; 0: twice the machine's memory, or the disk of its file where that is more.
    """
    native = _core.Table(
        dim=config.dim,
        key=table_key(config.name, config.seed),
        optimizer=native_optimizer(config),
        initializer=_native(config.initializer),
        on_nonfinite=config.on_nonfinite,
        max_gradient=config.max_gradient,
        storage=config.storage,
        policies=native_policies(config),
        eviction=native_eviction(config),
        tail=native_tail(config),
        tombstones=tombstones,
        folder=_folder(config),
        reserve_bytes=reserve_bytes,
        pruning=native_pruning(config),
    )
    check_limit(config, native)
    return native


def _folder(config: TableConfig) -> str:
    """Where the file of the rows goes; empty: they are in memory."""
    if not isinstance(config.memory, File):
        return ""
    folder = config.memory.folder
    if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
        return folder
    seen = "cannot be written to" if os.path.isdir(folder) else "is no folder"
    raise ConfigError(f"table {config.name!r}: memory.folder {folder!r} {seen}; allowed: a folder that takes new files")


def check_same_rows(saved: SavedRows, wanted: TableConfig, where: str) -> None:
    """Raise ConfigError unless rows that were saved mean the same under the config ``wanted``.

    Memory, storage (values are then rounded once), rates, thresholds, times to live, limits and policies may change
    between runs; what says which row an id has, how wide it is, and what its optimizer state means may not. A tail may
    come (its rows start afresh) and go (they are dropped), but not change its number of rows.
    """
    for field in ("name", "dim", "seed", "shared_ids"):
        old, new = getattr(saved, field), getattr(wanted, field)
        if old != new:
            raise ConfigError(f"{where}: the table was saved with {field} = {old!r}, the config says {new!r}{_ADVICE}")
    if saved.layout != (new := row_layout(wanted)):
        raise ConfigError(
            f"{where}: the table was saved with optimizer kind {saved.layout!r}, the config says {new!r}{_ADVICE}"
        )
    rows, now = saved.tail_rows, wanted.tail_rows
    if rows and now and rows != now:
        raise ConfigError(f"{where}: the table was saved with absent.rows = {rows}, the config says {now}{_ADVICE}")


class SavedRows(Protocol):
    """What is said of the rows of a saved table; ``monolith.tables.header.RowKind`` does."""

    @property
    def layout(self) -> str:
        """The kinds of its optimizers, by runs of columns."""

    @property
    def tail_rows(self) -> int:
        """How many rows ids without one share."""


_ADVICE = "; rows cannot be carried over: keep the old setting, or start a fresh table"


def _native(variant: msgspec.Struct) -> Any:
    """The native struct of the same name and fields."""
    return getattr(_core, type(variant).__name__)(**msgspec.structs.asdict(variant))


def _rules(config: TableConfig) -> Iterator[Rule]:
    yield "name", config.name, bool(config.name), "a name of at least one character"
    yield "kind", config.kind, config.kind == "collisionless", "collisionless; new_embedding makes the other kinds"
    yield "dim", config.dim, 1 <= config.dim <= _MAX_DIM, f"1 to {_MAX_DIM}"
    yield "seed", config.seed, 0 <= config.seed < 2**64, "0 to 2**64 - 1"
    yield "max_gradient", config.max_gradient, 0 < config.max_gradient <= _FLOAT32_MAX, "a finite number above 0"
    for field, value in msgspec.structs.asdict(config.initializer).items():
        right = math.isfinite(value) and 0 <= value <= _FLOAT32_MAX
        yield f"initializer.{field}", value, right, "a finite float32 number of at least 0"
    yield from optimizer_rules(config)
    yield from policy_rules(config)
