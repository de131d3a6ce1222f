"""The curves of a run: what its status said over time, kept in ``curves.jsonl`` of the state folder, bounded.

One line of JSON is one `Point`. From ``most`` points on every other one of the older half goes, so a run of any length
keeps its newest hours in full and its beginning in outline. A run that goes on from a snapshot drops the points of the
steps that it makes again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from monolith.disk import remedy
from monolith.training.status import Status

log = logging.getLogger(__name__)

NAME = "curves.jsonl"
EVERY_S = 2.0
MOST_POINTS = 4000  # some 2 MB

Numbers = dict[str, float]


class TablePoint(msgspec.Struct, frozen=True):
    """One table at one moment; what happened is counted since it was made."""

    rows: int
    bytes: int
    admitted: int
    rejected: int  # occurrences without a row
    expired: int
    evicted: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a run."""

    time_ms: int  # wall clock
    step: int
    samples: int
    records: int
    samples_per_s: float
    sequence: int
    stored_sequence: int
    snapshot_step: int
    lag: int | None  # None: a stream does not answer
    watermark_ms: int
    watermark_lag_ms: int
    freshness_ms: float | None  # ingestion to trained, of the newest samples; None: there were none
    scores: dict[str, dict[str, Numbers]]  # task -> "window" and "total" -> metric -> number
    tables: dict[str, TablePoint]
    left_out: dict[str, int]  # as `Progress.dropped`


class Curves:
    """Appends points to a file. One writer; a disk that refuses costs points, not the training."""

    def __init__(self, path: Path, *, most: int = MOST_POINTS, every_s: float = EVERY_S) -> None:
        self.path, self._most, self._every_ms = path, most, every_s * 1000
        self.points = read_curves(path)
        self._goes_on = False

    def __call__(self, status: Status) -> None:
        """Add a point, if it is time for one; an observer of statuses."""
        if not self._goes_on:
            self._go_on_after(status.step)
        if not status.ended and self.points and status.updated_ms - self.points[-1].time_ms < self._every_ms:
            return
        self.points.append(point_of(status))
        if len(self.points) > self._most:
            older = self.points[: self._most // 2]
            self.points = older[::2] + self.points[len(older) :]
            self._rewrite()
        else:
            self._keep("ab", self.points[-1:])

    def _go_on_after(self, step: int) -> None:
        """Forget the points of later steps, which are made again."""
        self._goes_on = True
        kept = [point for point in self.points if point.step <= step]
        if len(kept) < len(self.points):
            self.points = kept
            self._rewrite()

    def _rewrite(self) -> None:
        self._keep("wb", self.points)

    def _keep(self, mode: str, points: Iterable[Point]) -> None:
        try:
            with self.path.open(mode) as file:
                file.writelines(msgspec.json.encode(point) + b"\n" for point in points)
        except OSError as error:
            log.warning("the curves are not kept in %s: %s; %s", self.path, error, remedy(error))


def read_curves(path: Path) -> list[Point]:
    """The points in ``path``, without a line that a crash cut; none where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    return list(_whole(lines))


def _whole(lines: Iterable[bytes]) -> Iterator[Point]:
    decoder = msgspec.json.Decoder(Point)
    for line in lines:
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:  # cut by a crash, or of another build
            continue


def point_of(status: Status) -> Point:
    """What of a status is drawn."""
    streams = status.streams
    return Point(
        time_ms=status.updated_ms,
        step=status.step,
        samples=status.samples,
        records=streams.records,
        samples_per_s=status.samples_per_s,
        sequence=status.sequence,
        stored_sequence=status.stored_sequence,
        snapshot_step=status.snapshot_step,
        lag=status.lag,
        watermark_ms=status.watermark_ms,
        watermark_lag_ms=streams.watermark_lag_ms,
        freshness_ms=status.freshness_ms,
        scores=dict(scores_by_task(status.metrics)),
        tables={name: _table_point(stats) for name, stats in status.tables.items()},
        left_out=streams.dropped(),
    )


def scores_by_task(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Numbers]]]:
    """Task -> ``window`` and ``total`` -> metric -> number, without what is not known; one task is called ``label``."""
    for task, report in metrics.get("tasks", {"label": metrics}).items():
        parts = {span: report.get(span) or {} for span in ("window", "total")}
        yield task, {span: {k: v for k, v in part.items() if _is_number(v)} for span, part in parts.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _table_point(stats: dict[str, Any]) -> TablePoint:
    return TablePoint(
        rows=stats["rows"],
        bytes=sum(value for name, value in stats.items() if name.startswith("bytes_")),
        admitted=stats["admitted"],
        rejected=stats["rejected"],
        expired=stats["expired_idle"] + stats["expired_age"],
        evicted=stats["evicted"],
    )
