"""One LMDB environment a folder and process, shared by everyone in the process, and its errors in our words.

LMDB forbids opening a folder twice in one process, so stores share an environment and the last one closes it. It
forbids using an environment across a fork too: a fork waits for transactions to end, and the child opens its own
environment when it first needs one. Where one does not end (somebody iterates over rows), the child is refused.

A folder that was removed, or replaced by another, is noticed by its files' numbers: LMDB itself would go on in files
that nobody else sees any more.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from monolith.disk import identities, make_folder, remedy, reserve, sync_folder
from monolith.errors import CorruptError, DurabilityError, UnavailableError, VersionError
from monolith.forks import ForkGate

_FILES = ("data.mdb", "lock.mdb")
# Address space, not disk: the file is as long as its pages, and no process has to be told when it grows.
MAP_BYTES = 2**40
MIN_MAP_BYTES = 2**28
MAX_READERS = 1024
LOCK_BYTES = 64 * MAX_READERS + 4096  # a reader takes 64 bytes of LMDB's lock file, its head less than a page

_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.BadValsizeError, lmdb.ProblemError)


class Environment:
    """An open folder with its three databases: ``meta``, ``rows`` and ``log``. For use within ``in_use``."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self._gate = ForkGate(self._forked)
        self._cut = False  # by a fork, in a transaction
        self.users = 0
        self._open()

    def _open(self) -> None:
        self.lmdb = _open(self.path)
        self._files = identities(self.path, *_FILES)
        self.meta = self.lmdb.open_db(b"meta")
        self.rows = self.lmdb.open_db(b"rows")
        self.log = self.lmdb.open_db(b"log")

    def _forked(self, quiet: bool) -> None:
        """In the child, let the parent's go. Within a transaction that would end the parent's, so it stays, unused."""
        if quiet and self.lmdb is not None:
            self.lmdb.close()
            self.lmdb = None
        self._cut |= not quiet

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No fork comes in between, but for the exception above. Raises UnavailableError in such a child."""
        with self._gate:
            if self._cut:
                raise UnavailableError(
                    f"{self.path} was being read or written when this process was forked, so LMDB cannot be used "
                    "for it here: open stores after the fork, or start processes with `spawn`"
                )
            if self.lmdb is None:
                with registry():
                    if self.lmdb is None:
                        self._open()
            yield

    def last_transaction(self) -> int:
        """The number of the newest one."""
        with self.in_use():
            return int(self.lmdb.info()["last_txnid"])

    def close(self) -> None:
        """The last call."""
        if self.lmdb is not None and not self._cut:
            self.lmdb.close()

    def is_current(self) -> bool:
        """Whether its files are still the ones in the folder, and not removed, or replaced by others."""
        return identities(self.path, *_FILES) == self._files


_open_environments: dict[Path, Environment] = {}


class _Registry:
    """Who opens and closes environments: one thread at a time."""

    def __init__(self) -> None:
        self._gate = ForkGate(self._forked)
        self._forked(True)

    def _forked(self, _quiet: bool) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock, self._gate:
            yield


registry = _Registry()


def acquire(directory: Path, *, create: bool) -> Environment:
    """The process's environment of ``directory``. Raises UnavailableError where it is missing and not to be made."""
    path = directory.resolve()
    with registry(), translated(str(directory)):
        environment = _open_environments.get(path)
        if environment is None or not environment.is_current():
            _prepare(path, create)
            environment = _open_environments[path] = Environment(path)
            if create:
                sync_folder(path)  # the files' names; LMDB syncs only their bytes
        environment.users += 1
        return environment


def release(environment: Environment) -> None:
    """Give it back; the last user closes it.

    One whose files are gone is left to whoever still reads from it: it is closed with its last transaction.
    """
    with registry():
        environment.users -= 1
        if environment.users or _open_environments.get(environment.path) is not environment:
            return
        del _open_environments[environment.path]
        if environment.is_current():
            environment.close()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """LMDB's errors and the disk's, as ours."""
    try:
        yield
    except lmdb.VersionMismatchError as error:
        raise VersionError(f"{where} was written by another version of LMDB ({error}): use an empty folder") from error
    except _DAMAGE as error:
        raise CorruptError(f"{where} is damaged ({error}): empty the folder and restart the trainer") from error
    except lmdb.PanicError as error:  # a head was not written; LMDB refuses all else until the folder is opened anew
        raise DurabilityError(
            f"{where} cannot be used any more ({error}): the disk failed under a write before. What it held is kept: "
            f"start this process again"
        ) from error
    except (lmdb.Error, OSError) as error:
        raise UnavailableError(f"{where} cannot be used ({error}); what it held is kept; {remedy(error)}") from error


def _prepare(path: Path, create: bool) -> None:
    if create:
        make_folder(path)
    elif not (path / "data.mdb").exists():
        raise UnavailableError(f"there is no LMDB store in {path} yet: start the trainer, or correct the URL")


def _open(path: Path) -> Any:
    """The environment, with as much address space as the process may have."""
    reserve(path / "lock.mdb", LOCK_BYTES, mode=0o666)
    size = MAP_BYTES
    while True:
        try:
            # metasync=False: after a power cut the newest delta may be missing, never half there.
            return lmdb.open(str(path), map_size=size, max_dbs=8, max_readers=MAX_READERS, metasync=False, mode=0o666)
        except (lmdb.MemoryError, lmdb.Error) as error:
            if errno.errorcode[errno.ENOMEM] not in str(error) and "allocate memory" not in str(error).lower():
                raise
            if size <= MIN_MAP_BYTES:
                raise
            size //= 4
