"""The step journal: which records made each step, its watermark, whether it published, and under which settings.

An append-only file of checksummed frames, one a step, written before the step runs; `sync` makes it durable before
anything that a step made leaves the machine, and marks that. After a crash the steps behind the newest snapshot are cut
again from it. Settings that decide bits have a frame wherever they change. A file that outgrows ``segment_bytes`` is
followed by the next one, FIRST.journal, named for its first step, which begins with the settings in force;
`journal_frames` has the bytes.

What a crash left of frames that were never durable is removed when the journal is opened. A durable byte that is not as
written is a CorruptError: it never passes for a shorter journal.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

from monolith.disk import remedy, sync_folder, write_durably
from monolith.errors import (
    ConfigError,
    CorruptError,
    DataLossError,
    DurabilityError,
    UnavailableError,
)
from monolith.streaming.journal_frames import (
    Positions,
    RecoveryEntry,
    SettingsEntry,
    StepEntry,
    encode_entry,
    encode_head,
    encode_mark,
    encode_recovery,
    encode_settings,
    read_frames,
    read_head,
)
from monolith.streaming.journal_lock import is_in_place, locked

__all__ = ["SEGMENT_BYTES", "Journal", "Positions", "RecoveryEntry", "StepEntry", "UnwrittenJournal"]

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 2**20
_STEPS_A_PLACE = 4096


class Journal:
    """A journal folder. Owned by one thread; ``read_only`` leaves the files alone and needs no lock."""

    def __init__(self, folder: Path, *, read_only: bool = False, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open ``folder``, or begin a journal with a new lineage there.

        Raises ConfigError if another process has it open, or if it is not there and ``read_only``; CorruptError or
        VersionError, naming file and byte, if it cannot be trusted; UnavailableError if the disk refuses.
        """
        self.folder = folder
        self.settings: dict[int, bytes] = {}  # those that decide bits: from which step on -> canonical JSON; ascending
        self.recoveries: list[RecoveryEntry] = []  # after which ranks went on without what was lost
        self._segment_bytes = segment_bytes
        self.read_only = read_only
        self._file: BinaryIO | None = None
        self._places: dict[Path, list[tuple[int, int]]] = {}  # of a file: some steps, and the byte where each ends
        self._synced = False
        self._durable_bytes = 0  # of the newest file: what is on the disk, or was there before this process
        self._has_marks = True  # of the newest file: it is of a version that has marks
        self._is_outdated = False  # the newest file is of an older version: the next step begins another
        self._marked_step = 0  # the newest one that this process marked
        self._failure = ""  # not empty: a sync failed, and nothing may be built on this journal any more
        self._lock = None if read_only else locked(folder)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        segments = _segments(self.folder)
        if not segments:
            if self.read_only:
                raise ConfigError(f"there is no step journal in {self.folder}")
            self.lineage, self.first_step, self.last_step = secrets.token_hex(8), 1, 0
            self._begin_segment(1)
            return
        head, _ = read_head(segments[0])
        self.lineage, self.first_step = head.lineage, head.first_step
        self.last_step = head.first_step - 1
        for segment in segments:
            self._scan(segment, last=segment == segments[-1])
        if not self.read_only:
            self._take_up(segments[-1])

    def _take_up(self, segment: Path) -> None:
        """Go on writing at the end of ``segment``, whose bytes may be in memory only: a sync may have failed before."""
        try:
            for leftover in self.folder.glob("*.tmp"):  # a file that was begun, and not finished
                leftover.unlink()
            self._file = segment.open("r+b", buffering=0)
            _write_all(self._file, segment.read_bytes())
            self._durable_bytes = self._file.tell()
        except OSError as error:
            raise UnavailableError(f"cannot go on with the step journal {segment}: {error}; {remedy(error)}") from error

    def _scan(self, segment: Path, *, last: bool) -> None:
        """Check every frame of ``segment``; cut off what a crash left unfinished at its end."""
        head, end = read_head(segment)
        if (head.lineage, head.first_step) != (self.lineage, self.last_step + 1):
            raise CorruptError(
                f"{segment} is of run {head.lineage} from step {head.first_step} on, "
                f"expected: run {self.lineage}, step {self.last_step + 1}"
            )
        places = self._places[segment] = []
        for entry, end in read_frames(segment):
            if isinstance(entry, SettingsEntry):
                self._hold(entry)
            elif isinstance(entry, RecoveryEntry):
                self.recoveries.append(entry)
            elif entry is not None:
                self._follow_on(entry, segment)
                if entry.step % _STEPS_A_PLACE == 0:
                    places.append((entry.step, end))
        self._has_marks, self._is_outdated = head.has_marks, head.is_outdated
        torn = segment.stat().st_size - end
        if not torn:
            return
        if not last:
            raise CorruptError(f"{segment}: unfinished frame of {torn} bytes at byte {end}, but another file follows")
        log.warning("journal has an unfinished frame, cut off file=%s at=%d bytes=%d", segment, end, torn)
        if not self.read_only:
            os.truncate(segment, end)

    def _follow_on(self, entry: StepEntry, segment: Path) -> None:
        if entry.step != self.last_step + 1:
            raise CorruptError(f"{segment}: step {entry.step} follows on step {self.last_step}")
        self.last_step = entry.step

    def _hold(self, entry: SettingsEntry) -> None:
        self.settings = dict(sorted({**self.settings, entry.from_step: entry.settings}.items()))

    def settle(self, from_step: int, settings: bytes) -> None:
        """Write that ``settings`` hold from ``from_step`` on, up to the next step that has some; durable when done.

        What the journal had for that very step counts no more. Raises UnavailableError as `append` does, and
        DurabilityError.
        """
        assert self.first_step <= from_step <= self.last_step + 1, f"settings from step {from_step}"
        entry = SettingsEntry(settings=settings, from_step=from_step)
        self._note(encode_settings(entry))
        self._hold(entry)
        self.sync()

    def recovered(self, entry: RecoveryEntry) -> None:
        """Write that ranks went on without what was lost; durable when done. Twice is once. Raises as `settle`."""
        if entry not in self.recoveries:
            self._note(encode_recovery(entry))
            self.recoveries.append(entry)
        self.sync()

    def _note(self, frame: bytes) -> None:
        """Write a frame that is of no step."""
        self._refuse_after_failure()
        assert self._file is not None, "the journal was opened read only"
        if self._is_outdated:
            self.sync()
            self._begin_segment(self.last_step + 1)
        self._synced = False
        self._write(frame)

    def append(self, entry: StepEntry) -> None:
        """Write ``entry``, of the step after `last_step`; it survives a killed process, and a power cut after `sync`.

        Raises UnavailableError if the disk does not take it; the journal is then as it was. Raises DurabilityError as
        `sync` does.
        """
        self._refuse_after_failure()
        assert self._file is not None, "the journal was opened read only"
        assert entry.step == self.last_step + 1, f"step {entry.step} does not follow on {self.last_step}"
        if self._file.tell() >= self._segment_bytes or self._is_outdated:
            self.sync()
            self._begin_segment(entry.step)
        self._synced = False
        self._write(encode_entry(entry))
        self.last_step = entry.step

    def sync(self) -> None:
        """Make everything in the journal durable, also what a process before this one left.

        Raises DurabilityError if the disk fails to. That is final, every later call raises it too: the entries since
        the last sync are taken away, so that no restart meets an entry that is in memory and not on the disk. So does a
        folder that was removed or replaced: what is written into its files then is on no disk.
        """
        self._refuse_after_failure()
        self._refuse_without_folder()
        if self._file is None or self._synced:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._durable_bytes)
            self._fail(error)
        self._synced, self._durable_bytes = True, self._file.tell()
        if self._has_marks and self._marked_step < self.last_step:
            with suppress(
                UnavailableError
            ):  # the entries are safe; without a mark only damage is not told from a crash
                self._write(encode_mark(self.last_step))
                self._marked_step = self.last_step

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise DurabilityError(self._failure)

    def _refuse_without_folder(self) -> None:
        """The lock and the file that is written are those in the folder, and no second trainer can have them."""
        held = [file for file in (self._lock, self._file) if file is not None]
        if self._file is None or all(is_in_place(file) for file in held):
            return
        self._failure = (
            f"the step journal {self.folder} was removed or replaced while this run wrote to it, so nothing more can "
            f"be kept and this process must end. Put the whole state folder {self.folder.parent} back, then start the "
            f"same command again; without it a new run begins"
        )
        raise DurabilityError(self._failure)

    def _fail(self, error: OSError) -> NoReturn:
        self._failure = (
            f"the step journal {self.folder} cannot be made durable: {error}. What was written may not be on the disk "
            f"although it can be read, so this process must end; {remedy(error)}. A restart goes on from what is there"
        )
        raise DurabilityError(self._failure) from error

    def _begin_segment(self, first_step: int) -> None:
        """Have a new file follow on the one that is written to, which is closed then."""
        path = self.folder / f"{first_step:012d}.journal"
        try:
            write_durably(path, encode_head(self.lineage, first_step) + self._in_force(first_step))
            file = path.open("r+b", buffering=0)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise UnavailableError(f"cannot begin the step journal {path}: {error}; {remedy(error)}") from error
        if self._file is not None:
            self._file.close()
        self._file, self._durable_bytes = file, file.seek(0, os.SEEK_END)
        self._has_marks, self._is_outdated = True, False

    def _in_force(self, step: int) -> bytes:
        """The frame of the settings of ``step``; nothing where none are known."""
        since = max((since for since in self.settings if since <= step), default=None)
        if since is None:
            return b""
        return encode_settings(SettingsEntry(settings=self.settings[since], from_step=since))

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        start = self._file.tell()
        try:
            _write_all(self._file, data)
        except OSError as error:
            self._take_back(start)
            raise UnavailableError(
                f"cannot write to the step journal {self.folder}: {error}; nothing was written; {remedy(error)}"
            ) from error

    def _take_back(self, start: int) -> None:
        assert self._file is not None
        try:
            self._file.truncate(start)
            self._file.seek(start)
        except OSError as error:  # half a frame stays: another one behind it would be lost
            self._fail(error)

    def read(self, from_step: int) -> Iterator[StepEntry]:
        """The entries of ``from_step`` and after. Raises DataLossError for a step that was trimmed."""
        if from_step < self.first_step:
            raise DataLossError(
                f"the step journal {self.folder} begins at step {self.first_step}, step {from_step} was trimmed: only "
                f"a snapshot of step {self.first_step - 1} or later can go on from it. A run with train.keep_journal: "
                f"true keeps all steps"
            )
        for segment, following in _with_following(_segments(self.folder)):
            if following is not None and _first_step(following) <= from_step:
                continue
            for entry, _ in read_frames(segment, self._place_before(segment, from_step)):
                if isinstance(entry, StepEntry) and entry.step >= from_step:
                    yield entry

    def _place_before(self, segment: Path, step: int) -> tuple[int, int] | None:
        """Where to begin to look for ``step``: a long journal is read as a whole once, when it is opened."""
        before = [place for place in self._places.get(segment, []) if place[0] < step]
        return before[-1] if before else None

    def trim(self, before_step: int) -> None:
        """Remove files that hold only steps before ``before_step``: a restore will not ask for them again.

        The newest file stays. A disk that refuses is logged: the files are then tried again the next time. Raises
        DurabilityError as `sync` does.
        """
        self._refuse_after_failure()
        assert not self.read_only, "the journal was opened read only: it belongs to another trainer"
        for segment, following in _with_following(_segments(self.folder)):
            if following is None or _first_step(following) > before_step:
                break
            try:
                segment.unlink()
            except OSError as error:
                log.warning("the step journal cannot be trimmed, and grows: %s; %s", error, remedy(error))
                break
            try:
                sync_folder(self.folder)  # one by one: a power cut must not leave a hole
            except OSError as error:
                self._fail(error)
            self.first_step = _first_step(following)
            log.info("journal trimmed file=%s first_step=%d", segment, self.first_step)

    def close(self) -> None:
        """Let go of the files and of the lock. Twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class UnwrittenJournal:
    """Stands in for a `Journal` where nobody will run the steps again: it keeps nothing but their number."""

    folder = Path(os.devnull)
    lineage = ""
    first_step = 1
    last_step = 0

    def append(self, entry: StepEntry) -> None:
        """The entry is the newest step."""
        self.last_step = entry.step

    def read(self, from_step: int) -> Iterator[StepEntry]:  # noqa: ARG002
        """Nothing: no step can be run again."""
        return iter(())

    def sync(self) -> None:
        """Nothing is to be made durable."""

    def trim(self, before_step: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process from opening the journal in ``folder`` for writing, and from this very lock.

    A folder that holds nothing else at the end is removed. Raises ConfigError where another process has the lock.
    """
    with locked(folder):
        try:
            yield
        finally:
            if not _segments(folder):
                with suppress(OSError):
                    (folder / "lock").unlink()
                    folder.rmdir()


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def _first_step(segment: Path) -> int:
    return int(segment.stem)


def _with_following(segments: list[Path]) -> list[tuple[Path, Path | None]]:
    return list(zip(segments, [*segments, None][1:], strict=True))


def _write_all(file: BinaryIO, data: bytes) -> None:
    """As one write, which a disk with little room may do in part. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = file.write(rest)
        if not written:
            raise OSError(errno.ENOSPC, f"{len(rest)} of {len(data)} bytes were not written")
        rest = rest[written:]
