"""What says of which kind a saved table is, and where the parts of it lie.

A collisionless table is saved as ``table.bin``. Of any other kind ``kind.json`` beside its parts says which it is:
``{"version":1,"name":...,"dim":...,"kind":{...}}``. Whoever opens the table holds all of that to the parts.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from monolith.config.absent import TAIL_MARK
from monolith.config.kinds import Cafe, Hashed, OptEmbed, QuotientRemainder, Unified
from monolith.disk import write_durably
from monolith.errors import CorruptError, VersionError

KIND_FILE = "kind.json"
KEPT_FILE = "kept.bin"  # of a table that is more than its parts
KIND_VERSION = 1


class SavedKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``kind.json``."""

    name: str
    dim: int  # the config's
    kind: Hashed | QuotientRemainder | OptEmbed | Unified | Cafe
    version: int = KIND_VERSION


def write_kind(folder: Path, saved: SavedKind) -> Path:
    """Write ``folder/kind.json``, durably, and return its path. Raises OSError."""
    path = folder / KIND_FILE
    write_durably(path, msgspec.json.encode(saved, order="sorted"))
    return path


def read_kind(folder: Path) -> SavedKind | None:
    """Of which kind the table in ``folder`` is; None: collisionless. Raises CorruptError and VersionError."""
    path = folder / KIND_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        version = msgspec.json.decode(data, type=dict)["version"]
        if version != KIND_VERSION:
            raise VersionError(f"{path} has version {version!r}, this build reads {KIND_VERSION}")
        return msgspec.json.decode(data, type=SavedKind)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise CorruptError(f"{path} cannot be read: {error}") from None


def read_kept(folder: Path) -> bytes:
    """What the table in ``folder`` is besides its parts; empty: nothing. Raises OSError."""
    path = folder / KEPT_FILE
    return path.read_bytes() if path.is_file() else b""


def part_folder(folder: Path, name: str) -> Path:
    """Where the part that is published as ``name`` is kept: the folder itself, or one of the part's name."""
    part = name.partition(TAIL_MARK)[2]
    return folder / part if part else folder
