"""Files that survive a power cut, and what a person can do about a disk that refuses.

A failed fsync is not to be tried again on the same file: Linux marks the pages clean, so the next fsync succeeds while
the bytes are not on the disk. Whoever writes a new file throws the file away and may write another one; whoever appends
to a file raises `DurabilityError`, and the process ends.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

_ROOM = "make room there, then start the same command again"
_RIGHTS = "the user that runs this may not write there: give it the right (chown, chmod), or choose another folder"
_IN_THE_WAY = "something else stands where a folder or a file is needed: move that away; choose another folder"
_HANDLES = "the process has too many open files: raise the limit (ulimit -n)"

_REMEDIES = {
    errno.ENOSPC: f"the disk is full: {_ROOM}",
    errno.EDQUOT: f"the user's quota is used up: {_ROOM}",
    errno.EFBIG: "the file may not grow further: raise the limit of the process (ulimit -f) or of the file system",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "the file system is read-only: mount it for writing; if it was writable, the kernel's log says why",
    errno.EIO: "the disk reports a fault: look at the kernel's log before you trust it again",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.ENOENT: "the folder is gone: bring it back, or choose another folder",
    errno.ELOOP: "symbolic links lead in a circle: put them right, or choose another folder",
    errno.ENAMETOOLONG: "the path is too long; choose another folder",
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
}


def remedy(error: Exception) -> str:
    """What to do about a disk's ``error``: an OSError, or one of a library that has only the system's words."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None:
        code = next((number for number in _REMEDIES if os.strerror(number) in str(error)), None)
    if code == errno.EIO and not isinstance(error, OSError):
        return f"{_REMEDIES[code]}; LMDB says the same of a disk that became full: see that there is room"
    return _REMEDIES.get(code or 0, "see that the disk is there and can be written")


def write_durably(path: Path, data: bytes) -> None:
    """Have ``path`` hold all of ``data``, also after a power cut. Raises OSError; ``path`` is then as it was.

    Written beside its place, as ``path`` with the suffix ``.tmp``; one writer at a time.
    """
    scratch = path.with_suffix(".tmp")
    try:
        write_and_sync(scratch, data)
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise
    sync_folder(path.parent)


def scratch_beside(final: Path) -> Path:
    """Where this process writes what becomes ``final``, beside it; what killed processes left there is removed.

    It is for one machine: processes of another one would be taken for dead.
    """
    for left in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        number = left.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdecimal() and not lives(int(number)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def lives(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process > 0


def identities(folder: Path, *names: str) -> list[tuple[int, int]] | None:
    """Device and number of files in ``folder``, by which those that were replaced are known; None if one is missing."""
    try:
        found = [os.stat(folder / name) for name in names]
    except OSError:
        return None
    return [(file.st_dev, file.st_ino) for file in found]


def write_and_sync(path: Path, data: bytes) -> None:
    """Write a new file and have its bytes on the disk; `sync_folder` makes its name durable. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make durable which files ``folder`` has, and their names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder``, and durably what it lies in, where they are not there yet. Raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def reserve(path: Path, size: int, mode: int = 0o644) -> None:
    """Have the file ``path``, made where it is missing, own room for its first ``size`` bytes; what it holds stays.

    Writing to a hole of a mapped file ends the process (SIGBUS) where the disk is full; so holes are filled before.
    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        found = os.fstat(descriptor)
        if found.st_size < size or found.st_blocks * 512 < size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


@contextmanager
def files_for(readers: Literal["owner", "group"]) -> Iterator[None]:
    """Files and folders that this process makes meanwhile are for its user alone, or for the user and the group.

    Of the whole process: not for code that others run beside.
    """
    before = os.umask(0o077)
    os.umask(before | (0o077 if readers == "owner" else 0o007))
    try:
        yield
    finally:
        os.umask(before)


def read_by_others(path: Path, readers: Literal["owner", "group"]) -> bool:
    """Whether more than ``readers`` may look into the folder ``path``."""
    return bool(path.stat().st_mode & (0o077 if readers == "owner" else 0o007))


def bytes_below(path: Path) -> int:
    """Room in bytes, as the disk counts it, of a file or of a whole folder; what vanishes meanwhile takes none.

    A file with several names below ``path`` counts once.
    """
    return _bytes_below(path, set())


def _bytes_below(path: Path, seen: set[tuple[int, int]]) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_bytes_below(child, seen) for child in path.iterdir())
        found = path.lstat()
    except OSError:
        return 0
    if (found.st_dev, found.st_ino) in seen:
        return 0
    if found.st_nlink > 1:
        seen.add((found.st_dev, found.st_ino))
    return found.st_blocks * 512
