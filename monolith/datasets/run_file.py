"""A file of results that only grows, one line of JSON each, so that a long benchmark is run in pieces.

A result is known by a key, a digest of all that it depends on, and by its seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from monolith.config import JobConfig
from monolith.config.load import job_json
from monolith.growing import GrowingFile, digest_of

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


class RunFile(GrowingFile[R]):
    """The results of type ``kind`` in a folder."""

    writes = "another benchmark writes to"
    broken = "no result of this benchmark"
    remedy = "remove the line, or name another --dir"

    def __init__(self, folder: Path, kind: type[R]) -> None:
        super().__init__(folder / NAME, kind)

    def of(self, key: str) -> dict[int, R]:
        """By seed. Raises CorruptError for a line that is no such result."""
        return {run.seed: run for run in self.lines() if run.key == key}


def key_of(job: JobConfig, *others: object) -> str:
    """Ten letters for the settings of a job that results depend on, and for further plain data."""
    data = msgspec.json.decode(job_json(job))
    kept = {key: value for key, value in data.items() if key not in _BESIDE}
    kept["input"] = {"unknown_features": job.input.unknown_features}  # the samples themselves are in ``others``
    return digest_of([kept, *others])
