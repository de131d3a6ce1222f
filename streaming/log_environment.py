"""One LMDB environment a folder and process, shared by everything in the process that reads or appends there.

LMDB allows an environment to be opened once in a process. Readers and writers of one folder get the same one here, and
take turns within the process (a transaction is short); between processes LMDB lets readers run beside the one writer.
After a fork the child opens its own.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from monolith.errors import ConfigError, CorruptError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_MAP_BYTES = 16 * 2**20
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PanicError)

_TXN_AT = 144  # where a head page of LMDB 0.9, data version 1, holds the number of its transaction
_HEAD_LOOKS = 10

_open: dict[tuple[int, Path], LogEnvironment] = {}
_registry = threading.Lock()


class LogEnvironment:
    """An open LMDB environment. Any thread may call it."""

    def __init__(self, path: Path, *, sync: bool, map_bytes: int) -> None:
        self.path = path
        self.sync = sync
        self._users = 0
        self._turn = threading.RLock()
        with self._errors("open"):
            self._env = lmdb.open(str(path), map_size=map_bytes, sync=sync, max_readers=512)
        try:
            with self._errors("open"):
                self._env.reader_check()  # slots of killed readers, which would pin old pages
                _check_heads(path / "data.mdb", self._env.stat()["psize"])
                self._stretch()
        except BaseException:
            self._env.close()
            raise

    def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` on a read transaction: one consistent moment of the log."""
        with self._turn, self._errors("read"), self._begin(write=False) as txn:
            return work(txn)

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` on a write transaction, in full or not at all; on return it is durable if ``sync``.

        Waits for the writers of other processes. A map that is too small grows, and ``work`` runs again.
        """
        with self._turn, self._errors("append"):
            while True:
                try:
                    with self._begin(write=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    self._grow()

    def _begin(self, *, write: bool) -> Any:
        try:
            return self._env.begin(write=write, buffers=True)
        except lmdb.MapResizedError:  # another process let it grow
            self._env.set_mapsize(0)
            self._stretch()
            return self._env.begin(write=write, buffers=True)

    def _grow(self) -> None:
        map_bytes = 2 * self._env.info()["map_size"]
        self._env.set_mapsize(map_bytes)
        self._stretch()
        log.info("log grows path=%s map_bytes=%d", self.path, map_bytes)

    def _stretch(self) -> None:
        """Let the file reach as far as the map, without taking room: a damaged page may point behind the last one.

        Reading memory behind the end of a file kills the process; here it reads zeros, which no check lets pass. A file
        that is shorter than its own pages was cut off.
        """
        info = self._env.info()
        file = self.path / "data.mdb"
        size, used = file.stat().st_size, (info["last_pgno"] + 1) * self._env.stat()["psize"]
        if size < used:
            raise CorruptError(f"{file} has {size} bytes, its pages take {used}: it was cut off; restore it")
        if size < info["map_size"]:
            os.truncate(file, info["map_size"])

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """LMDB's errors as ours."""
        try:
            yield
        except _DAMAGE as error:
            raise CorruptError(f"cannot {action} the log {self.path}: LMDB says {error}; restore its files") from error
        except lmdb.Error as error:
            if _says(error, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise UnavailableError(
                    f"cannot {action} the log {self.path}: {error}; the disk is full, nothing was written; "
                    f"make room and try again"
                ) from error
            if action == "open" and not _says(
                error, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE
            ):
                raise CorruptError(f"cannot open the log {self.path}: {error}; restore its files") from error
            raise UnavailableError(f"cannot {action} the log {self.path}: {error}; nothing was written") from error
        except OSError as error:
            raise UnavailableError(f"cannot {action} the log {self.path}: {error}") from error

    def release(self) -> None:
        """One user less; the last one closes the environment."""
        with _registry:
            self._users -= 1
            if self._users == 0:
                _open.pop((os.getpid(), self.path), None)
                self._env.close()


def _check_heads(file: Path, page_bytes: int) -> None:
    """LMDB's two head pages are of consecutive transactions. A damaged number would quietly bring back an old state."""
    for _ in range(_HEAD_LOOKS):
        with file.open("rb") as pages:
            numbers = [int.from_bytes(os.pread(pages.fileno(), 8, n * page_bytes + _TXN_AT), "little") for n in (0, 1)]
        if abs(numbers[0] - numbers[1]) == 1 or numbers == [0, 0]:
            return
        time.sleep(0.01)  # looked while another process was writing one
    raise CorruptError(f"{file} is damaged: its two heads are of the transactions {numbers}; restore the log")


def _says(error: lmdb.Error, *codes: int) -> bool:
    """Whether LMDB reports one of the system's errors; it only has its text."""
    return any(os.strerror(code) in str(error) for code in codes)


def acquire(folder: Path, *, sync: bool | None = None, map_bytes: int = FIRST_MAP_BYTES) -> LogEnvironment:
    """The environment of ``folder``, opened if this process has not yet; give it back with `release`.

    ``sync`` None takes what is open (default: True). Raises ConfigError for a durable writer where the process has the
    log open without sync.
    """
    path = folder.resolve()
    key = (os.getpid(), path)
    with _registry:
        environment = _open.get(key)
        if environment is None:
            environment = _open[key] = LogEnvironment(path, sync=sync is not False, map_bytes=map_bytes)
        elif sync and not environment.sync:
            raise ConfigError(f"the log {path} is open in this process with sync=0, so it cannot be opened with sync=1")
        environment._users += 1
        return environment
