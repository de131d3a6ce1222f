"""What a rank leaves behind when another one is lost: its own rows and the dense part, for ``partial_recovery``.

``STATE/rescue/ATTEMPT/RANK`` is what one rank left: ``NAME/PART/table.bin`` of each of its parts, ``NAME/hot.bin`` of
each cafe table (which ids have which rows), ``dense.safetensors``, and ``rescue.json``, which says where the rank stood
and has every file's checksum. It is written beside its place, flushed and renamed, so it is there whole or not at all.

The ranks stood within one batch of one another, since a batch's exchanges need all of them. In that batch a rank's
tables have made their update all or none; without it, ids may be counted and admitted already. The dense part may lack
the update that the rank's tables have made.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from monolith.disk import make_folder, remedy, sync_folder, write_and_sync
from monolith.errors import CorruptError, UnavailableError
from monolith.tables import Table
from monolith.training.snapshot import FileEntry, file_entry

if TYPE_CHECKING:
    from monolith.training.sharding.learner import DividedLearner

FOLDER = "rescue"
VERSION = 1
_ABOUT, _DENSE, _HOT = "rescue.json", "dense.safetensors", "hot.bin"
_APART = 2  # journal steps: those without a sample may be told to one rank and not yet to another

log = logging.getLogger(__name__)


class Place(msgspec.Struct):
    """Where a rank stands: journal steps that were ended, and batches of the step after."""

    step: int = 0
    begun: int = 0
    applied: int = 0  # batches whose update was made in all of the rank's tables
    dense: int = 0  # and in its dense part

    def end_step(self) -> None:
        """A journal step was ended."""
        self.step, self.begun, self.applied, self.dense = self.step + 1, 0, 0, 0

    @property
    def reached(self) -> int:
        """The newest step of which something was done."""
        return self.step + (self.begun > 0)


class About(msgspec.Struct, frozen=True):
    """What a rescue says of itself."""

    version: int
    rank: int
    ranks: int
    place: Place
    files: dict[str, FileEntry]


# --- the rank that stays behind -------------------------------------------------------------------------------------


class Rescuer:
    """Knows what a rank would leave behind, from when rank 0 says so on. One thread."""

    def __init__(self) -> None:
        self._watched: tuple[DividedLearner, Path] | None = None
        self._taken: _Taken | None = None

    def watch(self, learner: DividedLearner | None, folder: Path | None = None) -> None:
        """``learner``'s parts are to be left below ``folder``; None: nothing is."""
        self._watched = None if learner is None or folder is None else (learner, folder)

    def take(self) -> None:
        """Another rank does not answer: hold on to what is to be written, and to nothing of the process group."""
        if self._watched is None:
            return
        learner, folder = self._watched
        parts = {f"{part.division.config.name}/{part.part:04d}": part.table for part in learner.parts.parts}
        hot = {f"{table.name}/{_HOT}": table.left() for table in learner.parts.hot_tables}
        self._taken = _Taken(folder, learner.rank, learner.ranks, learner.place, parts, hot, learner.dense_state())
        self._watched = None

    def write(self) -> None:
        """Write what was taken, if anything was. A disk that refuses is logged: then nothing of this rank stays."""
        if self._taken is None:
            return
        try:
            path = self._taken.write()
        except OSError as error:
            log.error("rank %d cannot leave its rows behind: %s; %s", self._taken.rank, error, remedy(error))
        else:
            reached = self._taken.place.reached
            log.error("rank %d left its rows, as of step=%d, in %s", self._taken.rank, reached, path)


@dataclass(frozen=True)
class _Taken:
    folder: Path
    rank: int
    ranks: int
    place: Place
    parts: dict[str, Table]
    hot: dict[str, bytes]
    dense: bytes

    def write(self) -> Path:
        """Raises OSError."""
        final = self.folder / _name(self.rank)
        scratch = final.with_suffix(".tmp")
        make_folder(self.folder)
        with suppress(FileNotFoundError):
            shutil.rmtree(scratch)
        scratch.mkdir()
        write_and_sync(scratch / _DENSE, self.dense)
        paths = [scratch / _DENSE, *(table.save(scratch / name) for name, table in self.parts.items())]
        for name, data in self.hot.items():
            write_and_sync(scratch / name, data)
            paths.append(scratch / name)
        files = {str(path.relative_to(scratch)): file_entry(path) for path in paths}
        about = About(VERSION, self.rank, self.ranks, self.place, files)
        write_and_sync(scratch / _ABOUT, msgspec.json.format(msgspec.json.encode(about)))
        for folder in [scratch, *(path for path in scratch.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        scratch.rename(final)
        sync_folder(self.folder)
        return final


@contextmanager
def rescuing() -> Iterator[Rescuer]:
    """Write what was taken by when the block ends, if it ends since another rank does not answer.

    To be around the process group: it is closed then, so that all who wait for this rank know at once that it ends.
    """
    rescuer = Rescuer()
    try:
        yield rescuer
    except UnavailableError:
        rescuer.write()
        raise


# --- the start after ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescue:
    """What the ranks of one attempt left that were not lost."""

    folder: Path
    left: dict[int, About]  # by rank
    ranks: int

    @property
    def step(self) -> int:
        """The journal step that all count as having made; of its batches some were not trained on."""
        return max(about.place.reached for about in self.left.values())

    @property
    def lost(self) -> list[int]:
        """The ranks of which nothing is left."""
        return [rank for rank in range(self.ranks) if rank not in self.left]

    def dense(self) -> bytes:
        """The dense part of the rank that came furthest with it. Raises CorruptError and OSError."""
        furthest = max(self.left.values(), key=lambda about: (about.place.step, about.place.dense, -about.rank))
        path = self.folder / _name(furthest.rank) / _DENSE
        check_file(path, furthest.files[_DENSE])
        return path.read_bytes()


def found(state: Path) -> Rescue | None:
    """What was left in the state folder ``state``; of several attempts the one that came furthest."""
    rescues = []
    for folder in sorted((state / FOLDER).glob("*")):
        abouts = [about for path in sorted(folder.glob("[0-9]*")) if (about := _about(path)) is not None]
        if abouts:
            rescues.append(Rescue(folder, {about.rank: about for about in abouts}, abouts[0].ranks))
    return max(rescues, key=lambda rescue: rescue.step, default=None)


def fault(rescue: Rescue, ranks: int, *, since: int, until: int | None, journalled: int) -> str | None:
    """Why ``ranks`` ranks cannot go on with it from the snapshot of step ``since``; None: they can.

    ``until`` is the last step under the settings that hold after the snapshot, ``journalled`` that of the journal.
    """
    behind = min(about.place.reached for about in rescue.left.values())
    if any(about.ranks != ranks for about in rescue.left.values()):
        return f"it is of {rescue.ranks} ranks, and now there are {ranks}"
    if rescue.step > journalled:
        return f"it is of step {rescue.step}, and the step journal ends at step {journalled}"
    if until is not None and rescue.step > until:
        return f"other settings hold after step {until}, before its step {rescue.step}"
    if rescue.step - behind > _APART or behind < since:
        return f"its ranks stood at steps {behind} to {rescue.step}, the snapshot is of step {since}"
    return None


def part_folder(folder: Path, rank: int, table: str, part: int) -> Path:
    """Where rank ``rank`` left a part of a table, below an attempt's ``folder``. Raises CorruptError and OSError."""
    about = _about(folder / _name(rank))
    name = f"{table}/{part:04d}"
    files = [] if about is None else [file for file in about.files if file.startswith(f"{name}/")]
    if about is None or not files:
        raise CorruptError(f"{folder / _name(rank)} has no part {part} of table {table!r}")
    for file in files:
        check_file(folder / _name(rank) / file, about.files[file])
    return folder / _name(rank) / name


def hot_bytes(folder: Path, rank: int, table: str) -> tuple[bytes, str]:
    """What rank ``rank`` left of which ids of a cafe table have which rows, and where. As `part_folder` raises."""
    about, name = _about(folder / _name(rank)), f"{table}/{_HOT}"
    path = folder / _name(rank) / name
    if about is None or name not in about.files:
        raise CorruptError(f"{path} is not among what rank {rank} left")
    check_file(path, about.files[name])
    return path.read_bytes(), str(path)


def check_file(path: Path, entry: FileEntry) -> None:
    """Raise CorruptError unless the file is as ``entry`` says, OSError where it cannot be read."""
    if (seen := file_entry(path)) != entry:
        raise CorruptError(f"{path} is damaged: {seen.bytes} bytes with crc32 {seen.crc32:08x}, expected {entry}")


def remove(state: Path) -> None:
    """Remove everything that was left in the state folder ``state``. A disk that refuses is logged."""
    path = state / FOLDER
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        log.warning("%s is needed no more, but stays and takes room: %s; %s", path, error, remedy(error))


def _about(path: Path) -> About | None:
    """None for what is no whole rescue: a rank that was ended while it wrote leaves such."""
    try:
        about = msgspec.json.decode((path / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError):
        return None
    return about if about.version == VERSION and path.name == _name(about.rank) else None


def _name(rank: int) -> str:
    return f"{rank:04d}"
