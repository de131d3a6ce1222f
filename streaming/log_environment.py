"""One LMDB environment a folder and process, shared by everything in the process that reads or appends there.

LMDB allows an environment to be opened once in a process. Readers and writers of one folder get the same one here, and
take turns within the process (a transaction is short); between processes LMDB lets readers run beside the one writer.
A fork waits for transactions to end, since LMDB cannot be used across one, and the child opens its own environment when
it first needs one.
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

from monolith.disk import identities, remedy, reserve
from monolith.errors import ConfigError, CorruptError, DurabilityError, UnavailableError
from monolith.forks import ForkGate

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_MAP_BYTES = 16 * 2**20
MAX_READERS = 512
LOCK_BYTES = 64 * MAX_READERS + 4096  # a reader takes 64 bytes of LMDB's lock file, its head less than a page
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)

_FILES = ("data.mdb", "lock.mdb")
_TXN_AT = 144  # where a head page of LMDB 0.9, data version 1, holds the number of its transaction
_HEAD_LOOKS = 10

_open: dict[Path, LogEnvironment] = {}


class LogEnvironment:
    """An open LMDB environment. Any thread may call it."""

    def __init__(self, path: Path, *, sync: bool, map_bytes: int) -> None:
        self.path = path
        self.sync = sync
        self._map_bytes = map_bytes
        self._users = 0
        self._turn = threading.RLock()
        self._gate = ForkGate(self._forked)
        self._cut = False  # by a fork, in a transaction
        self._files: list[tuple[int, int]] | None = None  # see `is_current`
        self._env: Any = self._opened()

    def _opened(self) -> Any:
        with self._errors("open"):
            reserve(self.path / "lock.mdb", LOCK_BYTES, mode=0o666)
            self._env = lmdb.open(
                str(self.path), map_size=self._map_bytes, sync=self.sync, max_readers=MAX_READERS, mode=0o666
            )
        try:
            with self._errors("open"):
                self._env.reader_check()  # slots of killed readers, which would pin old pages
                _check_heads(self.path / "data.mdb", self._env.stat()["psize"])
                self._stretch()
                self._files = identities(self.path, *_FILES)
        except BaseException:
            self._env.close()
            self._env = None
            raise
        return self._env

    def _forked(self, quiet: bool) -> None:
        """In the child, let the parent's go. Within a transaction that would end the parent's, so it stays, unused."""
        self._turn = threading.RLock()
        if quiet and self._env is not None:
            self._env.close()
            self._env = None
        self._cut |= not quiet

    @contextmanager
    def _in_turn(self, action: str) -> Iterator[None]:
        """One transaction in the process at a time, and no fork in between."""
        with self._turn, self._gate, self._errors(action):
            if self._cut:
                raise UnavailableError(
                    f"cannot {action} the log {self.path}: this process was forked in the middle of a transaction: "
                    f"open logs after the fork, or start processes with `spawn`"
                )
            if self._env is None:
                self._opened()
            yield

    def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` on a read transaction: one consistent moment of the log."""
        with self._in_turn("read"), self._begin(write=False) as txn:
            return work(txn)

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` on a write transaction, in full or not at all; on return it is durable if ``sync``.

        Waits for the writers of other processes. A map that is too small grows, and ``work`` runs again.
        """
        with self._in_turn("append"):
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
        except lmdb.PanicError as error:  # a head was not written; LMDB refuses all else until the log is opened anew
            raise DurabilityError(
                f"cannot {action} the log {self.path}: {error}; the disk failed under an append before. What was "
                f"appended earlier is there: start this process again"
            ) from error
        except _DAMAGE as error:
            raise CorruptError(f"cannot {action} the log {self.path}: LMDB says {error}; restore its files") from error
        except lmdb.Error as error:
            if action == "open" and not _says(
                error, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE
            ):
                raise CorruptError(f"cannot open the log {self.path}: {error}; restore its files") from error
            raise UnavailableError(
                f"cannot {action} the log {self.path}: {error}; nothing was written; {remedy(error)}"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot {action} the log {self.path}: {error}; {remedy(error)}") from error

    def is_current(self) -> bool:
        """Whether its files are still the ones in the folder, and not removed, or replaced by others."""
        return identities(self.path, *_FILES) == self._files

    def release(self) -> None:
        """One user less; the last one closes the environment."""
        with _registry():
            self._users -= 1
            if self._users == 0:
                if _open.get(self.path) is self:
                    del _open[self.path]
                if self._env is not None and not self._cut:
                    self._env.close()


class _Registry:
    """Who opens and closes environments: one thread at a time, and no fork in between."""

    def __init__(self) -> None:
        self._gate = ForkGate(self._forked)
        self._forked(True)

    def _forked(self, _quiet: bool) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock, self._gate:
            yield


_registry = _Registry()


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

    Where the folder's files were replaced since, it is one of the new files, and who has the old ones keeps them.
    ``sync`` None takes what is open (default: True). Raises ConfigError for a durable writer where the process has the
    log open without sync.
    """
    path = folder.resolve()
    with _registry():
        environment = _open.get(path)
        if environment is None or not environment.is_current():
            environment = _open[path] = LogEnvironment(path, sync=sync is not False, map_bytes=map_bytes)
        elif sync and not environment.sync:
            raise ConfigError(f"the log {path} is open in this process with sync=0, so it cannot be opened with sync=1")
        environment._users += 1
        return environment
