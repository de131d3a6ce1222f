"""A file of results that only grows, one line of JSON each, and the digests that results are known by.

What a kill cut off is removed as the file is read. One process at a time has the file open.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Generic, Self, TypeVar

import msgspec

from monolith.disk import make_folder
from monolith.errors import ConfigError, CorruptError

R = TypeVar("R")


class GrowingFile(Generic[R]):
    """The results of type ``kind`` in a file. A context manager that no other process may hold meanwhile."""

    writes: ClassVar[str]  # whoever has the file open, in words: "another benchmark writes to"
    broken: ClassVar[str]  # what a line that cannot be read is: "no result of this benchmark"
    remedy: ClassVar[str]  # what helps against one

    def __init__(self, path: Path, kind: type[R]) -> None:
        self._path, self._kind = path, kind
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Raises ConfigError where another process has the file open."""
        make_folder(self._path.parent)
        file = self._path.open("a+b")
        try:
            _lock(file, self._path.parent, self.writes)
        except ConfigError:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def lines(self) -> Iterator[R]:
        """All results, oldest first. Raises CorruptError for a line that is none."""
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                yield msgspec.json.decode(line, type=self._kind)
            except msgspec.DecodeError as error:
                raise CorruptError(f"{self._path}:{number}: {self.broken}: {error}; {self.remedy}") from None

    def append(self, result: R) -> None:
        """Write down one result, durably."""
        assert self._file is not None
        self._file.write(msgspec.json.encode(result) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def alone(folder: Path, writes: str) -> Iterator[None]:
    """Keep other processes out of ``folder``. Raises ConfigError where one is in it: it ``writes`` there, in words."""
    make_folder(folder)
    with (folder / ".lock").open("wb") as file:
        _lock(file, folder, writes)
        yield


def _lock(file: IO[bytes], folder: Path, writes: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"{writes} {folder}: wait for it, or name another folder by --dir") from None


def digest_of(value: object) -> str:
    """Ten letters for plain data: other data, other letters."""
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:10]
