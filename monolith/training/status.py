"""What a running trainer says of itself: a small JSON file, replaced atomically, that people and tools may poll."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from monolith.streaming.progress import Progress


class Status(msgspec.Struct, kw_only=True):
    """One look at the daemon. Rates are over the process's life; the file's ``updated_ms`` tells how fresh it is."""

    model: str
    lineage: str
    step: int
    sequence: int  # last published number
    stored_sequence: int  # what the store is known to hold
    samples: int  # trained since the first step of the run
    lag: int | None  # records in the streams that are not read yet; None: a stream does not answer
    watermark_ms: int
    ended: bool
    metrics: dict[str, Any]
    tables: dict[str, dict[str, Any]]
    samples_per_s: float = 0.0  # over the last seconds
    snapshot_step: int = 0  # of the newest snapshot
    freshness_ms: float | None = None  # from ingestion to the store, median of the newest delta; None: no delta yet
    streams: Progress = Progress()  # what became of the records
    warnings: list[str] = []  # what the job would learn more by, each said once in the log as well
    updated_ms: int = 0
    pid: int = 0


class StatusFile:
    """Writes `Status` to ``path`` at most once in ``every_s``; ``observers`` see each one as well."""

    def __init__(
        self,
        path: Path,
        *,
        every_s: float = 1.0,
        observers: list[Callable[[Status], None]] | None = None,
    ) -> None:
        self.path = path
        self.every_s = every_s
        self.observers = observers or []
        self._last: tuple[float, int] | None = None
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() >= self._next

    def write(self, status: Status) -> None:
        """Replace the file. A disk that refuses costs the report, not the training."""
        now = time.monotonic()
        if self._last is not None and now > self._last[0]:
            status.samples_per_s = (status.samples - self._last[1]) / (now - self._last[0])
        self._last, self._next = (now, status.samples), now + self.every_s
        status.updated_ms, status.pid = time.time_ns() // 1_000_000, os.getpid()
        scratch = self.path.with_suffix(".tmp")
        try:
            scratch.write_bytes(msgspec.json.encode(status))
            scratch.replace(self.path)
        except OSError:
            with suppress(OSError):  # a read-only disk refuses this as well
                scratch.unlink()
        for observer in self.observers:
            observer(status)


def read_status(path: Path) -> Status | None:
    """The last status in ``path``, or None where there is none yet, or none that a power cut left whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
