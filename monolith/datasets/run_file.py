"""A file of results that only grows, one line of JSON each, so that a long benchmark is run in pieces.

A result is known by a key, a digest of all that it depends on, and by its seed. What a kill cut off is removed.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Generic, Protocol, TypeVar

import msgspec

from monolith.config import JobConfig
from monolith.config.load import job_json
from monolith.disk import make_folder
from monolith.errors import ConfigError, CorruptError

NAME = "runs.jsonl"
_BESIDE = ("state", "store", "publish", "serve", "seed", "name", "files")  # keys that no result depends on


class Keyed(Protocol):
    """A result."""

    @property
    def key(self) -> str:
        """Of all that it depends on, but the seed."""

    @property
    def seed(self) -> int:
        """Its seed."""


R = TypeVar("R", bound=Keyed)


class RunFile(Generic[R]):
    """The results of type ``kind`` in a folder. A context manager that no other process may hold meanwhile."""

    def __init__(self, folder: Path, kind: type[R]) -> None:
        self._path, self._kind = folder / NAME, kind
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RunFile[R]:
        """Raises ConfigError where another benchmark writes to the folder."""
        make_folder(self._path.parent)
        file = self._path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            text = f"another benchmark writes to {self._path.parent}: wait for it, or name another folder by --dir"
            raise ConfigError(text) from None
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def of(self, key: str) -> dict[int, R]:
        """By seed. Raises CorruptError for a line that is no such result."""
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        found: dict[int, R] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                run = msgspec.json.decode(line, type=self._kind)
            except msgspec.DecodeError as error:
                text = f"{self._path}:{number}: no result of this benchmark: {error}"
                raise CorruptError(f"{text}; remove the line, or name another --dir") from None
            if run.key == key:
                found[run.seed] = run
        return found

    def append(self, run: R) -> None:
        """Write down one result, durably."""
        assert self._file is not None
        self._file.write(msgspec.json.encode(run) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def key_of(job: JobConfig, *others: object) -> str:
    """Ten letters for the settings of a job that results depend on, and for further plain data."""
    data = msgspec.json.decode(job_json(job))
    kept = {key: value for key, value in data.items() if key not in _BESIDE}
    kept["input"] = {"unknown_features": job.input.unknown_features}  # the samples themselves are in ``others``
    return sha256(msgspec.json.encode([kept, *others], order="sorted")).hexdigest()[:10]
