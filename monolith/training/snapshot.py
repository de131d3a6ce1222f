"""Snapshots: the only commit there is. One folder holds one atomic cut of everything a run needs to go on.

A snapshot is written beside its final place, every file is flushed to the disk, and a rename makes it exist; so a
crash leaves either the whole of it or nothing. The manifest, written last, lists each file's length and CRC-32: a
flipped byte is found before anything is restored, and the snapshot before it, if one is kept, takes its place (the
step journal then re-runs what lies between, to the same bits).

Two runs that are in the same state write byte-identical snapshots: nothing here depends on time or history.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from monolith.errors import ConfigError, CorruptError, UnavailableError, VersionError

SNAPSHOT_VERSION = 2
READ_VERSIONS = (1, 2)
HISTORY_SINCE = 2  # the version that brought history.bin
MANIFEST = "manifest.json"
_CHUNK = 1 << 20

log = logging.getLogger(__name__)

Part = bytes | Callable[[Path], None]  # a file's bytes, or a function that fills a folder


class FileEntry(msgspec.Struct, frozen=True):
    """Length in bytes and CRC-32 of one file."""

    bytes: int
    crc32: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of. ``job`` is the job that wrote it, every default included."""

    version: int
    model: str
    lineage: str
    step: int
    sequence: int  # the last one that was cut
    job: dict[str, Any]
    files: dict[str, FileEntry] = {}
    crc32: int = 0  # of this manifest's compact JSON with crc32 = 0

    def sealed(self) -> Manifest:
        """The same manifest with its own checksum filled in."""
        blank = msgspec.structs.replace(self, crc32=0)
        return msgspec.structs.replace(blank, crc32=zlib.crc32(msgspec.json.encode(blank)))


@dataclass(frozen=True)
class Snapshot:
    """One verified snapshot on disk."""

    path: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """The bytes of file ``name``, checked against the manifest."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise CorruptError(f"snapshot {self.path} has no file {name!r}; it has {sorted(self.manifest.files)}")
        data = (self.path / name).read_bytes()
        if len(data) != entry.bytes or zlib.crc32(data) != entry.crc32:
            raise CorruptError(f"snapshot file {self.path / name} does not match its manifest")
        return data


class Snapshots:
    """The snapshots of one state folder, newest last, ``keep`` of them at most. One writer."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the snapshots there are, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def path(self, step: int) -> Path:
        """Where the snapshot of ``step`` is or would be."""
        return self.directory / f"{step:012d}"

    def write(self, manifest: Manifest, parts: Mapping[str, Part]) -> Path:
        """Write a snapshot atomically; afterwards it exists durably and older ones beyond ``keep`` are gone.

        Raises `UnavailableError` when the disk refuses (full, read-only); earlier snapshots then still stand.
        """
        final, scratch = self.path(manifest.step), self.directory / f".{manifest.step:012d}.tmp"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            for name, part in parts.items():
                _write_part(scratch / name, part)
            files = {str(p.relative_to(scratch)): _entry(p) for p in sorted(scratch.rglob("*")) if p.is_file()}
            manifest = msgspec.structs.replace(manifest, files=files).sealed()
            _write_durably(scratch / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            _sync_folders(scratch)
            if final.exists():
                shutil.rmtree(final)
            scratch.rename(final)
            _sync_folder(self.directory)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise UnavailableError(
                f"cannot write the snapshot of step {manifest.step} to {final}: {error}. "
                "Earlier snapshots are untouched; free some space and restart the job, it goes on from there."
            ) from error
        self._drop_old()
        return final

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is whole, or None where none was ever written.

        A damaged one is reported and passed over. Raises `CorruptError` if all that exist are damaged, and
        `VersionError` if the newest is of another format version.
        """
        damage: list[str] = []
        for step in reversed(self.steps()):
            try:
                return open_snapshot(self.path(step))
            except VersionError:
                raise
            except CorruptError as error:
                log.error("snapshot damaged, trying the one before: %s", error)
                damage.append(str(error))
        if damage:
            raise CorruptError(
                "every snapshot is damaged: " + "; ".join(damage) + ". To start over, move the state folder away."
            )
        return None

    def _drop_old(self) -> None:
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step), ignore_errors=True)


def open_snapshot(path: Path) -> Snapshot:
    """The snapshot in folder ``path``, with every file checked against the manifest."""
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise ConfigError(f"{path} is no snapshot: it has no {MANIFEST}")
    raw = manifest_path.read_bytes()
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptError(f"{manifest_path} cannot be read: {error}") from error
    if manifest.version not in READ_VERSIONS:
        known = " and ".join(map(str, READ_VERSIONS))
        raise VersionError(f"{manifest_path} has format version {manifest.version}; this build reads {known}")
    if manifest.sealed() != manifest or path.name != f"{manifest.step:012d}":
        raise CorruptError(f"{manifest_path} is damaged: its checksum or its step does not match")
    for name, entry in manifest.files.items():
        _check(path / name, entry)
    return Snapshot(path, manifest)


def find_snapshot(folder: Path) -> Snapshot:
    """The snapshot that a person means by ``folder``: itself, or the newest whole one of a job's state folder.

    Raises `ConfigError` if it holds none, and what `open_snapshot` and `Snapshots.newest` raise.
    """
    if (folder / MANIFEST).is_file():
        return open_snapshot(folder)
    newest = Snapshots(folder / "snapshots").newest()
    if newest is None:
        raise ConfigError(f"{folder} holds no snapshot; name a snapshot folder or a job's state folder")
    return newest


def _check(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise CorruptError(f"snapshot file {path} is missing")
    seen = _entry(path)
    if seen != entry:
        raise CorruptError(
            f"snapshot file {path} is damaged: the manifest says {entry.bytes} bytes with crc32 {entry.crc32:08x}, "
            f"the file has {seen.bytes} bytes with crc32 {seen.crc32:08x}"
        )


def _entry(path: Path) -> FileEntry:
    size, crc = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return FileEntry(size, crc)


def _write_part(path: Path, part: Part) -> None:
    if isinstance(part, bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(path, part)
    else:
        path.mkdir(parents=True)
        part(path)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(root: Path) -> None:
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
