"""One LMDB environment a folder and process, shared by everyone in the process, and its errors in our words.

LMDB forbids opening a folder twice in one process, so stores share an environment and the last one closes it. A forked
child must open its own store, after the fork.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from monolith.disk import make_folder, sync_folder
from monolith.errors import CorruptError, UnavailableError, VersionError

# Address space, not disk: the file is as long as its pages, and no process has to be told when it grows.
MAP_BYTES = 2**40
MIN_MAP_BYTES = 2**28
MAX_READERS = 1024

_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.BadValsizeError, lmdb.ProblemError)


class Environment:
    """An open folder with its three databases: ``meta``, ``rows`` and ``log``."""

    def __init__(self, directory: Path) -> None:
        self.lmdb = _open(directory)
        self.users = 0
        self.meta = self.lmdb.open_db(b"meta")
        self.rows = self.lmdb.open_db(b"rows")
        self.log = self.lmdb.open_db(b"log")


_open_environments: dict[Path, Environment] = {}
_registry_lock = threading.Lock()


def acquire(directory: Path, *, create: bool) -> Environment:
    """The process's environment of ``directory``. Raises UnavailableError where it is missing and not to be made."""
    path = directory.resolve()
    with _registry_lock, translated(str(directory)):
        environment = _open_environments.get(path)
        if environment is None:
            _prepare(path, create)
            environment = _open_environments[path] = Environment(path)
            if create:
                sync_folder(path)  # the files' names; LMDB syncs only their bytes
        environment.users += 1
        return environment


def release(directory: Path, environment: Environment) -> None:
    """Give it back; the last user closes it."""
    with _registry_lock:
        environment.users -= 1
        if environment.users == 0:
            del _open_environments[directory.resolve()]
            environment.lmdb.close()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """LMDB's errors and the disk's, as ours."""
    try:
        yield
    except lmdb.VersionMismatchError as error:
        raise VersionError(f"{where} was written by another version of LMDB ({error}): use an empty folder") from error
    except _DAMAGE as error:
        raise CorruptError(f"{where} is damaged ({error}): empty the folder and restart the trainer") from error
    except (lmdb.Error, OSError) as error:
        raise UnavailableError(
            f"{where} cannot be used ({error}): check the disk's space and the folder's rights; what it held is kept"
        ) from error


def _prepare(path: Path, create: bool) -> None:
    if create:
        make_folder(path)
    elif not (path / "data.mdb").exists():
        raise UnavailableError(f"there is no LMDB store in {path} yet: start the trainer, or correct the URL")


def _open(path: Path) -> Any:
    """The environment, with as much address space as the process may have."""
    size = MAP_BYTES
    while True:
        try:
            # metasync=False: after a power cut the newest delta may be missing, never half there.
            return lmdb.open(str(path), map_size=size, max_dbs=8, max_readers=MAX_READERS, metasync=False)
        except (lmdb.MemoryError, lmdb.Error) as error:
            if errno.errorcode[errno.ENOMEM] not in str(error) and "allocate memory" not in str(error).lower():
                raise
            if size <= MIN_MAP_BYTES:
                raise
            size //= 4
