"""Milestones: snapshots that stay for days, so that there is something to go back to.

``state/milestones/TIME/STEP`` has the files of a snapshot as links, or copies where the file system has no links; so a
milestone takes the room of what changed since, and that of the snapshots only once they are gone. ``TIME`` is when it
was taken, in UTC, since steps begin anew where a run is begun anew. Beside it is ``streams.json`` as it was (`marks`).
"""

from __future__ import annotations

import logging
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from monolith.disk import make_folder, remedy, sync_folder
from monolith.streaming.marks import FILE, MILESTONES

_TIME = "%Y%m%dT%H%M%S.%fZ"

log = logging.getLogger(__name__)


class Milestones:
    """Those of one state folder: one in ``every_s`` of wall time (None: none is taken), the newest ``keep`` of them."""

    def __init__(self, state: Path, *, every_s: float | None = None, keep: int = 1) -> None:
        self._state, self.folder = state, state / MILESTONES
        self._every_s, self._keep = every_s, keep

    def offer(self, snapshot: Path, now: datetime | None = None) -> bool:
        """Take ``snapshot``, a folder, if it is time for one. A disk that refuses is logged, and asked again."""
        now = now or datetime.now(UTC)
        if self._every_s is None or not self._is_due(now, self._every_s):
            return False
        final = self.folder / now.strftime(_TIME)
        scratch = self.folder / f".{final.name}.tmp"
        try:
            make_folder(self.folder)
            for leftover in self.folder.glob(".*.tmp"):
                shutil.rmtree(leftover)
            _link_all(snapshot, scratch / snapshot.name)
            if (self._state / FILE).exists():
                shutil.copy2(self._state / FILE, scratch / FILE)
            scratch.rename(final)
            sync_folder(self.folder)
            for old in self._named()[: -self._keep]:
                old.rename(gone := self.folder / f".{old.name}.tmp")
                shutil.rmtree(gone)
        except OSError as error:
            log.warning("no milestone was taken of %s: %s; %s", snapshot, error, remedy(error))
            return False
        log.info("milestone taken path=%s", final)
        return True

    def snapshots(self) -> list[Path]:
        """The snapshots' folders, oldest first."""
        return [inner for taken in self._named() for inner in sorted(taken.iterdir()) if inner.is_dir()]

    def _named(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*Z") if _taken_at(path) is not None)

    def _is_due(self, now: datetime, every_s: float) -> bool:
        """Whether the newest is older than that; one that is of the future was taken by a wrong clock."""
        ages = [(now - taken).total_seconds() for path in self._named() if (taken := _taken_at(path)) is not None]
        return not any(0 <= age < every_s for age in ages)


def _taken_at(path: Path) -> datetime | None:
    try:
        return datetime.strptime(path.name, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _link_all(source: Path, target: Path) -> None:
    for path in [source, *sorted(source.rglob("*"))]:
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True)
            continue
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
    for path in [target.parent, target, *(p for p in target.rglob("*") if p.is_dir())]:
        sync_folder(path)
