"""Makes, opens and reads embeddings of every kind; with `tables.vectors` the only place that asks which kind one is."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from monolith.config.document import path_text
from monolith.config.kinds import Cafe, Collisionless, broken_kind_rules, kind_of
from monolith.config.table import TableConfig
from monolith.errors import ConfigError, CorruptError
from monolith.tables.cafe import CafeTable
from monolith.tables.embedding import Embedding
from monolith.tables.fixed import (
    HashedTable,
    QuotientRemainderTable,
    filled,
    part_configs,
    part_rows,
)
from monolith.tables.kind_file import KEPT_FILE, KIND_FILE, SavedKind, part_folder, read_kept, read_kind, write_kind
from monolith.tables.prefix import PrefixTable
from monolith.tables.table import Table
from monolith.tables.unified import UnifiedTable
from monolith.tables.vectors import (
    HashedRows,
    PrefixRows,
    QuotientRemainderRows,
    UnifiedRows,
    Vectors,
    vectors_of,
)

Made = HashedTable | QuotientRemainderTable | PrefixTable | UnifiedTable | CafeTable


def new_embedding(config: TableConfig) -> Embedding:
    """A table of the kind that ``config`` names, as it is before the first step. Raises ConfigError."""
    for keys, text in broken_kind_rules(config):
        raise ConfigError(f"table {config.name!r}: {path_text(keys)}: {text}")
    kind = kind_of(config)
    if isinstance(kind, Collisionless):
        return Table(config)
    configs = part_configs(config, vectors_of(config.name, config.dim, kind))
    rows = part_rows(kind) or [0] * len(configs)
    return made(config, {n: filled(c, count) for (n, c), count in zip(configs.items(), rows, strict=True)})


def open_embedding(folder: str | os.PathLike[str], config: TableConfig) -> Embedding:
    """The table that was saved in ``folder``, under ``config``, which may differ from its own where `Table.open` says.

    Raises ConfigError for another kind, or other numbers of it, and what `Table.open` raises.
    """
    folder = Path(folder)
    saved, kind = check_kind(folder, config), kind_of(config)
    if saved is None:
        return Table.open(folder, config)
    configs = part_configs(config, vectors_of(config.name, config.dim, kind))
    return _checked(saved, folder, made(config, {n: Table.open(part_folder(folder, n), c) for n, c in configs.items()}))


def check_kind(folder: Path, config: TableConfig) -> SavedKind | None:
    """What ``kind.json`` says of the table that was saved in ``folder``; None: it is collisionless.

    Raises ConfigError unless it is the kind of ``config``, with its numbers.
    """
    saved, kind = read_kind(folder), kind_of(config)
    if (saved.kind if saved else Collisionless()) != kind:
        was = msgspec.to_builtins(saved.kind) if saved else {"kind": "collisionless"}
        raise ConfigError(
            f"{folder}: the table was saved as {was}, the config says {msgspec.to_builtins(kind)}; rows cannot be "
            f"carried over: keep the old setting, or start a fresh table"
        )
    return saved


def write_kind_of(folder: Path, config: TableConfig) -> Path | None:
    """Write ``kind.json`` into ``folder``, durably; its path. None: the table is collisionless. Raises OSError."""
    kind = kind_of(config)
    return None if isinstance(kind, Collisionless) else write_kind(folder, SavedKind(config.name, config.dim, kind))


def parts_saved(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Where the native tables of the table that was saved in ``folder`` are, by published name; one: under ''."""
    folder = Path(folder)
    saved = read_kind(folder)
    if saved is None:
        return {"": folder}
    names = vectors_of(saved.name, saved.dim, saved.kind).parts
    return {name: part_folder(folder, name) for name in names}


def open_to_read(folder: str | os.PathLike[str]) -> Embedding:
    """The table that was saved in ``folder``, for reading rows and counts; see `Table.open_to_read`."""
    folder = Path(folder)
    saved = read_kind(folder)
    if saved is None:
        return Table.open_to_read(folder)
    parts = {name: Table.open_to_read(part) for name, part in parts_saved(folder).items()}
    config = msgspec.structs.replace(
        next(iter(parts.values())).config,
        name=saved.name,
        **{**msgspec.to_builtins(saved.kind), "dim": saved.dim},
    )
    return _checked(saved, folder, made(config, parts))


def made(config: TableConfig, parts: dict[str, Table]) -> Made:
    """A table of its parts, by the name under which they are published."""
    kind = kind_of(config)
    if isinstance(kind, Cafe):
        return CafeTable(config, kind, parts)
    reader: Vectors = vectors_of(config.name, config.dim, kind)
    if isinstance(reader, HashedRows):
        return HashedTable(config, reader, parts)
    if isinstance(reader, PrefixRows):
        return PrefixTable(config, reader, parts)
    if isinstance(reader, UnifiedRows):
        return UnifiedTable(config, reader, parts)
    assert isinstance(reader, QuotientRemainderRows)
    return QuotientRemainderTable(config, reader, parts)


def _checked(saved: SavedKind, folder: Path, table: Made) -> Embedding:
    """The table, if its parts are what ``kind.json`` says. Raises CorruptError."""
    widths = vectors_of(saved.name, saved.dim, saved.kind).parts
    rows = part_rows(saved.kind) or [len(part) for part in table.parts.values()]
    for (name, part), count in zip(table.parts.items(), rows, strict=True):
        if (len(part), part.dim) != (count, widths[name]):
            raise CorruptError(
                f"{part_folder(folder, name)} has {len(part)} rows of {part.dim}, {folder / KIND_FILE} says {count} of "
                f"{widths[name]}"
            )
    table.keep(read_kept(folder), str(folder / KEPT_FILE))
    return table
