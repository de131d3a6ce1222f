"""Snapshots: the only commit there is. One folder holds one atomic cut of everything a run needs to go on.

A snapshot is written beside its final place, every file is flushed to the disk, and a rename makes it exist; so a
crash leaves either the whole of it or nothing. The manifest, written last, lists each file's length and CRC-32: a
flipped byte is found before anything is restored. Whatever is wrong with the newest snapshot, the one before it takes
its place (the step journal then re-runs what lies between, to the same bits).

A file that never changes is written once: a later snapshot that has it too gets a hard link to it, or a copy where the
file system has no links. But a snapshot shares no file with the one right before it, of which it has copies: damage to
one of the two leaves the other whole. Only where ``keep`` is 1, and so no snapshot stands in for another, is the one
before linked to. Files of earlier processes are not linked to.

At most ``keep`` snapshots, one that is being written, and those found unusable that the run has not come past yet take
room. What killed processes left goes when the next one starts.

What is written here depends on nothing but the contents given: equal contents make snapshots of equal bytes.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from monolith.disk import bytes_below, make_folder, remedy, sync_folder, write_and_sync
from monolith.errors import ConfigError, CorruptError, UnavailableError, VersionError

SNAPSHOT_VERSION = 3  # the joiner in segments, beside stream.bin; 2 held it there
PARTS_VERSION = 4  # of several processes: a table's file is in parts, tables/NAME/PART/table.bin
READ_VERSIONS = (1, 2, 3, 4)
HISTORY_SINCE = 2  # the version that brought history.bin
MANIFEST = "manifest.json"
STRINGS = "strings.bin"  # what ids stand for, of a job that keeps strings
RANKS = "ranks.json"  # how many processes the tables were divided between, where they were
_CHUNK = 1 << 20
_LEFTOVER = re.compile(r"\.[0-9]+(\.old)?\.tmp")

log = logging.getLogger(__name__)


class LostFileError(Exception):
    """No earlier snapshot of this process has the file, or has it whole: give its bytes."""


class FileEntry(msgspec.Struct, frozen=True):
    """Length in bytes and CRC-32 of one file."""

    bytes: int
    crc32: int


# By its name below the folder that it was written to, a file whose length and checksum are known.
Entries = Mapping[str, FileEntry]
# A file's bytes; a function that fills a folder; None: the file of that name in an earlier snapshot of this process.
Content = bytes | Callable[[Path], Entries | None] | None


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

    def tables(self) -> dict[str, Path]:
        """The folder of each table by its name; what else lies beside them is none."""
        names = sorted({name.split("/")[1] for name in self.manifest.files if name.startswith("tables/")})
        return {name: self.path / "tables" / name for name in names}

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
    """The snapshots of one state folder, newest last, ``keep`` of them at most. One writer, any number of readers."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep
        self._unusable: set[int] = set()  # what `newest` passed over: counts as no snapshot until it is written anew
        self._written: dict[int, dict[str, FileEntry]] = {}  # by this process, oldest first, those that are kept

    def steps(self) -> list[int]:
        """Steps of the snapshots there are, ascending; what is found to be none does not count."""
        return [
            step
            for step in self.named()
            if step not in self._unusable and os.path.isfile(self.path(step) / MANIFEST)  # never raises
        ]

    def named(self) -> list[int]:
        """Steps of everything that is named as a snapshot, ascending, whatever it is. Raises `UnavailableError`."""
        return sorted(int(path.name) for path in self._paths() if _is_step(path.name))

    def leftovers(self) -> list[Path]:
        """What processes left that were killed while they wrote or dropped a snapshot, or what is being written now."""
        return [path for path in self._paths() if _LEFTOVER.fullmatch(path.name)]

    def strangers(self) -> list[Path]:
        """Files and folders that no trainer made. They are never touched."""
        return [path for path in self._paths() if not (_is_step(path.name) or _LEFTOVER.fullmatch(path.name))]

    def _paths(self) -> list[Path]:
        try:
            return sorted(self.directory.iterdir()) if os.path.lexists(self.directory) else []
        except OSError as error:
            raise UnavailableError(f"cannot list the snapshots: {error}; {remedy(error)}") from error

    def path(self, step: int) -> Path:
        """Where the snapshot of ``step`` is or would be."""
        return self.directory / f"{step:012d}"

    def remove_leftovers(self) -> None:
        """Give back the room that killed processes left taken. Only for the process that owns the state folder."""
        leftovers = self.leftovers()
        if leftovers:
            taken = sum(bytes_below(path) for path in leftovers)
            log.info("unfinished snapshots of killed processes removed count=%d bytes=%d", len(leftovers), taken)
        for path in leftovers:
            _drop(path)

    def write(self, manifest: Manifest, contents: Mapping[str, Content]) -> Path:
        """Write a snapshot atomically; afterwards it exists durably and older ones beyond ``keep`` are gone.

        Raises `UnavailableError` when the disk refuses (full, read-only), and `LostFileError` for contents that are
        None and in no earlier snapshot; earlier snapshots then still stand.
        """
        final, scratch = self.path(manifest.step), self.directory / f".{manifest.step:012d}.tmp"
        try:
            make_folder(self.directory)
            _remove(scratch)
            scratch.mkdir()
            known = {name: self._bring(name, scratch / name) for name, content in contents.items() if content is None}
            for name, content in contents.items():
                known |= {f"{name}/{file}": entry for file, entry in _write_content(scratch / name, content).items()}
            paths = {str(path.relative_to(scratch)): path for path in sorted(scratch.rglob("*")) if path.is_file()}
            files = {name: known.get(name) or file_entry(path) for name, path in paths.items()}
            manifest = msgspec.structs.replace(manifest, files=files).sealed()
            write_and_sync(scratch / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            for folder in [scratch, *(p for p in scratch.rglob("*") if p.is_dir())]:
                sync_folder(folder)
            self._put_in_place(scratch, final)
        except LostFileError:
            _remove(scratch)
            raise
        except OSError as error:
            with suppress(OSError):
                _remove(scratch)
            raise UnavailableError(
                f"cannot write the snapshot of step {manifest.step} to {final}: {error}. "
                f"Earlier snapshots are untouched, the job goes on from there; {remedy(error)}"
            ) from error
        self._unusable.discard(manifest.step)
        self._drop_old(manifest.step)
        self._written.pop(manifest.step, None)
        self._written[manifest.step] = files
        self._written = {step: of_step for step, of_step in self._written.items() if os.path.isdir(self.path(step))}
        return final

    def _bring(self, name: str, target: Path) -> FileEntry:
        """Have the file ``target`` hold what an earlier snapshot has as ``name``. Raises `LostFileError`, OSError."""
        steps = [step for step, files in reversed(self._written.items()) if name in files]
        newest = next(reversed(self._written), None)
        target.parent.mkdir(parents=True, exist_ok=True)
        for step in steps:
            if step != newest or self.keep == 1:
                entry = self._written[step][name]
                if _link(self.path(step) / name, target, entry):
                    return entry
        for step in steps:
            entry = self._written[step][name]
            if (data := _whole(self.path(step) / name, entry)) is not None:
                write_and_sync(target, data)
                return entry
        raise LostFileError(name)

    def _put_in_place(self, scratch: Path, final: Path) -> None:
        """Give the snapshot its name. What had the name was found unusable, or this step would not be written again."""
        if os.path.lexists(final):
            aside = scratch.with_name(f".{final.name}.old.tmp")
            _remove(aside)
            final.rename(aside)
            _drop(aside)
        scratch.rename(final)
        try:
            sync_folder(self.directory)
        except OSError:  # a name that is not known to be on the disk must not replace older snapshots
            final.rename(scratch)
            raise

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is whole, or None where none was ever written.

        What cannot be used, for whatever reason, is reported and passed over. Raises `CorruptError` if nothing that is
        there can be used, and `VersionError` if the newest is of another format version: passing over that one would
        lose work in silence.
        """
        faults: list[str] = []
        for step in reversed(self.named()):
            try:
                snapshot = open_snapshot(self.path(step))
            except VersionError:
                raise
            except (CorruptError, ConfigError, UnavailableError) as error:
                log.error("snapshot unusable, trying the one before: %s", error)
                faults.append(str(error))
                self._unusable.add(step)
                continue
            if faults:
                log.warning("going on from the snapshot of step=%d, newer_unusable=%d", step, len(faults))
            return snapshot
        if faults:
            raise CorruptError(
                "every snapshot is damaged: "
                + "; ".join(faults)
                + ". Restore one. If the step journal still has step 1, "
                f"the run can be repeated from there: move {self.directory} away. To start over, move the state folder "
                "away"
            )
        return None

    def _drop_old(self, newest: int) -> None:
        """Keep ``keep`` snapshots up to ``newest``; what only has the name of one takes no snapshot's place."""
        kept = [step for step in self.steps() if step <= newest][-self.keep :]
        for step in self.named():
            if step < newest and step not in kept:
                _drop(self.path(step))


def open_snapshot(path: Path) -> Snapshot:
    """The snapshot in folder ``path``, with every file checked against the manifest.

    Raises `ConfigError` for what is no snapshot, `CorruptError` for a damaged one, `VersionError` for one of another
    format version, `UnavailableError` for one that the disk does not let be read.
    """
    try:
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            _check(path / name, entry)
    except OSError as error:
        raise UnavailableError(f"the snapshot {path} cannot be read: {error}; {remedy(error)}") from error
    return Snapshot(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the snapshot in folder ``path``, whose files are not looked at. Raises as `open_snapshot`."""
    manifest_path = path / MANIFEST
    try:
        raw = manifest_path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ConfigError(f"{path} is no snapshot: it has no {MANIFEST}") from None
    try:
        fields = msgspec.json.decode(raw)
        if not _seal_holds(fields):
            raise CorruptError(f"{manifest_path} is damaged: its checksum does not match")
        if fields.get("version") not in READ_VERSIONS:
            known = " and ".join(map(str, READ_VERSIONS))
            raise VersionError(f"{manifest_path} has format version {fields.get('version')}; this build reads {known}")
        manifest = msgspec.convert(fields, Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptError(f"{manifest_path} cannot be read: {error}") from error
    if path.name != f"{manifest.step:012d}":
        raise CorruptError(f"{manifest_path} is damaged or moved: it is of step {manifest.step}")
    return manifest


def _seal_holds(fields: Any) -> bool:
    """Whether a manifest of whatever version carries the checksum of its own compact JSON."""
    if not isinstance(fields, dict) or "crc32" not in fields:
        return False
    return bool(zlib.crc32(msgspec.json.encode({**fields, "crc32": 0})) == fields["crc32"])


def find_snapshot(folder: Path) -> Snapshot:
    """The snapshot that a person means by ``folder``: itself, or the newest whole one of a job's state folder.

    Raises `ConfigError` if it holds none, and what `open_snapshot` and `Snapshots.newest` raise.
    """
    if os.path.isfile(folder / MANIFEST):
        return open_snapshot(folder)
    newest = Snapshots(folder / "snapshots").newest()
    if newest is None:
        raise ConfigError(f"{folder} holds no snapshot; name a snapshot folder or a job's state folder")
    return newest


def _is_step(name: str) -> bool:
    """Whether a snapshot could have this name."""
    return name.isascii() and name.isdigit() and name == f"{int(name):012d}"


def _drop(path: Path) -> None:
    """Remove what counts no more, at once by its name, then from the disk. A disk that refuses is logged."""
    try:
        hidden = path if _LEFTOVER.fullmatch(path.name) else path.with_name(f".{path.name}.old.tmp")
        if hidden != path:
            _remove(hidden)
            path.rename(hidden)  # a process that is killed meanwhile leaves no half snapshot
        _remove(hidden)
    except OSError as error:
        log.warning("%s is needed no more, but stays and takes room: %s; %s", path, error, remedy(error))


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise CorruptError(f"snapshot file {path} is missing")
    seen = file_entry(path)
    if seen != entry:
        raise CorruptError(
            f"snapshot file {path} is damaged: the manifest says {entry.bytes} bytes with crc32 {entry.crc32:08x}, "
            f"the file has {seen.bytes} bytes with crc32 {seen.crc32:08x}"
        )


def file_entry(path: Path) -> FileEntry:
    """What a manifest says of the file ``path``. Raises OSError."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return FileEntry(size, crc)


def _link(source: Path, target: Path, entry: FileEntry) -> bool:
    """Whether ``target`` is a second name of ``source`` now; not where that is gone, or the disk has no such thing."""
    try:
        if source.stat().st_size != entry.bytes:
            return False
        target.hardlink_to(source)
    except OSError:
        return False
    return True


def _whole(path: Path, entry: FileEntry) -> bytes | None:
    """The bytes of a file that is as its ``entry`` says."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if FileEntry(len(data), zlib.crc32(data)) == entry else None


def _write_content(path: Path, content: Content) -> Entries:
    """Write it; the entries of what is known already."""
    if content is None:
        return {}  # it is there
    if isinstance(content, bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_and_sync(path, content)
        return {}
    path.mkdir(parents=True, exist_ok=True)
    return content(path) or {}
