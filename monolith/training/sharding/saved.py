"""A divided collection on disk: a file for each part of each table, and a manifest, which is written last.

``FOLDER/TABLE/PART/table.bin``, both numbers of four digits; ``FOLDER/manifest.json`` names every part and its buckets.
A folder without a manifest, or that lacks a part that the manifest names, is no collection. Any number of ranks reads
what any other number wrote: each takes the buckets that it has now out of the files that have them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from monolith.config.kinds import Collisionless, Kind, kind_of, kind_words
from monolith.config.table import TableConfig
from monolith.disk import write_durably
from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.tables import Table
from monolith.tables.buckets import Buckets
from monolith.tables.kind_file import KEPT_FILE
from monolith.training.sharding.division import Division
from monolith.training.sharding.transport import Transport

if TYPE_CHECKING:
    from monolith.training.sharding.answers import OwnPart

MANIFEST = "manifest.json"
VERSION = 1


class SavedPart(msgspec.Struct, frozen=True):
    """One part of a table: its folder, below the collection's, and the ranges of buckets in its file."""

    folder: str
    buckets: list[tuple[int, int]]


class SavedTableParts(msgspec.Struct, frozen=True, omit_defaults=True):
    """One table."""

    name: str
    parts: list[SavedPart]
    kind: Kind | None = None  # of the table whose rows, or some of whose, these are; None: collisionless
    kept: str | None = None  # the file, below the collection's, of what the table is besides its rows; None: nothing


class Manifest(msgspec.Struct, frozen=True):
    """What belongs together. ``sequence``: the number that the tables' next ``cut`` closes."""

    version: int
    ranks: int
    sequence: int
    tables: list[SavedTableParts]


def save(
    transport: Transport, divisions: Sequence[Division], parts: Sequence[OwnPart], folder: str | os.PathLike[str]
) -> None:
    """Write this rank's parts, wait for those of the others, and have rank 0 write the manifest. Collective."""
    path = Path(folder)
    failed: OSError | None = None
    try:
        if transport.rank == 0:
            (path / MANIFEST).unlink(missing_ok=True)
        transport.objects(None)
        for part in parts:
            part.table.save(path / _folder(part.number, part.part))
        for number, division in enumerate(divisions) if transport.rank == 0 else ():
            if (index := division.native.index) is not None:
                write_durably(path / _kept(number), index.kept())
    except OSError as error:
        failed = error
    _raise_any(transport, failed)
    if transport.rank == 0:
        try:
            write_durably(
                path / MANIFEST, msgspec.json.format(msgspec.json.encode(_manifest(transport, divisions, parts)))
            )
        except OSError as error:
            failed = error
    _raise_any(transport, failed)


def _raise_any(transport: Transport, failed: OSError | None) -> None:
    told = transport.objects(None if failed is None else str(failed))
    for rank, text in enumerate(told):
        if text is not None:
            raise failed or OSError(f"rank {rank} could not save its part: {text}")


def _folder(number: int, part: int) -> str:
    return f"{number:04d}/{part:04d}"


def _kept(number: int) -> str:
    return f"{number:04d}/{KEPT_FILE}"


def _manifest(transport: Transport, divisions: Sequence[Division], parts: Sequence[OwnPart]) -> Manifest:
    tables = [
        SavedTableParts(
            division.config.name,
            [SavedPart(_folder(number, part), [*division.buckets(part).ranges]) for part in range(division.parts)],
            _kind(division),
            None if division.native.index is None else _kept(number),
        )
        for number, division in enumerate(divisions)
    ]
    return Manifest(VERSION, transport.ranks, parts[0].table.sequence if parts else 1, tables)


def _kind(division: Division) -> Kind | None:
    kind = kind_of(division.native.table)
    return None if isinstance(kind, Collisionless) else kind


class SavedCollection:
    """A collection that was saved. Raises ConfigError where there is none or it has other tables, and VersionError."""

    def __init__(self, folder: str | os.PathLike[str], divisions: Sequence[Division]) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise ConfigError(f"{self.folder} has no {MANIFEST}: it is no collection, or saving it was not finished")
        try:
            version = msgspec.json.decode(path.read_bytes(), type=dict).get("version")
            if version != VERSION:
                raise VersionError(
                    f"{path}: version {version!r}, this build reads {VERSION}: use the build that wrote it"
                )
            self.manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except msgspec.DecodeError as error:
            raise CorruptError(f"{path}: {error}; restore the folder from another copy") from None
        was = [(table.name, table.kind) for table in self.manifest.tables]
        now = [(division.config.name, _kind(division)) for division in divisions]
        if was != now:
            raise ConfigError(
                f"{self.folder} has tables {_words(was)}, the collection has {_words(now)}: give the same tables"
            )

    def kept(self, number: int) -> tuple[bytes, str]:
        """What a table is besides its rows, and the file that says it; empty: the file is not there. Raises OSError."""
        path = self.folder / str(self.manifest.tables[number].kept)
        return path.read_bytes() if path.is_file() else b"", str(path)

    def open(self, number: int, config: TableConfig, buckets: Buckets) -> Table:
        """A table's ``buckets``, out of the files that have them. Raises what ``Table.open`` does, and CorruptError."""
        folders = [
            self.folder / part.folder
            for part in self.manifest.tables[number].parts
            if (Buckets.of(*part.buckets) & buckets).ranges
        ]
        if missing := [folder for folder in folders if not (folder / "table.bin").is_file()]:
            raise CorruptError(f"{missing[0]} is named in the manifest and is not there: restore it from another copy")
        return Table.open(folders, config, buckets=buckets)


def _words(tables: Sequence[tuple[str, Kind | None]]) -> str:
    return ", ".join(name if kind is None else f"{name} ({kind_words(kind)})" for name, kind in tables) or "none"
