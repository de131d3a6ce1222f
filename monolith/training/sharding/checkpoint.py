"""A divided collection's state in pieces, which any number of ranks reads: for torch.distributed.checkpoint.

A *piece* is the same buckets at every number of ranks, and of one rank: 64 pieces of the tables without a limit, and as
many as there are parts of those with one. It is bytes: a MessagePack map from a table's name to a table file
(``docs/formats.md``) of these buckets. A state dict has the pieces of this rank, under names that say which they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table, saved, snapshot
from monolith.tables.buckets import Buckets
from monolith.training.sharding.answers import OwnPart
from monolith.training.sharding.collection import ShardedCollection


def pieces(collection: ShardedCollection) -> dict[str, bytes]:
    """The pieces of this rank, by name. Other writers wait. Raises ConfigError for more than 64 ranks."""
    contents: dict[str, dict[str, bytes]] = {}
    with collection._writing():
        for part in collection.parts:
            for name, buckets in _of(part):
                table = part.table
                data = snapshot.to_bytes(saved.header_of(table, buckets), saved.exported(table, buckets))
                contents.setdefault(name, {})[part.division.native.name] = data
    return {name: msgspec.msgpack.encode(content) for name, content in contents.items()}


def load_pieces(collection: ShardedCollection, given: Mapping[str, Any]) -> None:
    """Go on with what ``given`` has, which was saved on any number of ranks; those of other ranks are left alone.

    Raises ConfigError where a piece of this rank is missing, CorruptError for one that is no piece, and what
    ``Table.open`` raises; the collection is then as it was.
    """
    read: dict[str, dict[str, bytes]] = {}
    tables = []
    for part in collection.parts:
        with tempfile.TemporaryDirectory(prefix="monolith-pieces-") as folder:
            folders = []
            for name, _ in _of(part):
                if name not in read:
                    read[name] = _content(given, name)
                if part.division.native.name not in read[name]:
                    missing = part.division.native.name
                    raise ConfigError(f"piece {name!r} has no table {missing!r}: give the same tables")
                folders.append(Path(folder) / name)
                folders[-1].mkdir()
                (folders[-1] / snapshot.FILE_NAME).write_bytes(read[name][part.division.native.name])
            tables.append(Table.open(folders, part.table.config, buckets=part.table.buckets))
    collection.replace_parts(tables)


def names(collection: ShardedCollection) -> list[str]:
    """The pieces that this rank has."""
    return list(dict.fromkeys(name for part in collection.parts for name, _ in _of(part)))


def _of(part: OwnPart) -> list[tuple[str, Buckets]]:
    kind = f"limited{part.division.parts}" if part.division.limited else "rows"
    numbered = enumerate(part.division.pieces())
    return [(f"{kind}-{number:04d}", piece) for number, piece in numbered if (piece & part.table.buckets).ranges]


def _content(given: Mapping[str, Any], name: str) -> dict[str, bytes]:
    if name not in given:
        raise ConfigError(f"the state has no piece {name!r}, which this rank needs: load what all ranks saved")
    try:
        return msgspec.msgpack.decode(given[name], type=dict[str, bytes])
    except (msgspec.DecodeError, TypeError) as error:
        raise CorruptError(f"piece {name!r} cannot be read ({error}): load another checkpoint") from None
