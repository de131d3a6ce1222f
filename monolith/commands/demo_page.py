"""The demo's last page: what was measured, in the order in which an event meets it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.config import JobConfig
from monolith.training.status import Status

if TYPE_CHECKING:
    from monolith.commands.parity import ParityReport
    from monolith.datasets.online import Comparison
    from monolith.serving.parity import Parity

WIDTH = 100
SIZES = ("bytes_values", "bytes_state", "bytes_stamps", "bytes_index", "bytes_tombstones", "bytes_counters")


@dataclass(frozen=True)
class Outcome:
    """Everything that the page says."""

    stream: str
    origin: str
    impressions: int
    job: JobConfig
    backlog_samples: int
    backlog_rate: float | None  # samples a second; None: it was over before it could be timed
    live_rate: float  # events a second
    status: Status  # the daemon's last one
    freshness: dict[str, Any] | None  # the replica's, over the live part
    ready_s: float
    parity: ParityReport  # the store against the trainer
    replayed: dict[str, Parity]  # the daemon's journal trained again, against the trainer
    comparison: Comparison
    picture: Path
    answers: list[tuple[str, Any]]  # a curl line, and what it gave
    server_port: int

    @property
    def exact(self) -> bool:
        """Whether store, trainer and replayed trainer hold the same rows, bit by bit."""
        return self.parity.exact and all(parity.exact for parity in self.replayed.values())


def page(outcome: Outcome) -> str:
    """The whole page."""
    parts = [_head, _speed, _quality, _tables, _serving, _questions]
    return "\n".join(line for part in parts for line in part(outcome))


def _head(o: Outcome) -> Iterator[str]:
    yield "=" * WIDTH
    yield f"{o.stream}: {o.impressions:,} impressions, {o.origin}"
    yield (
        f"{o.job.model.kind} over {len(o.job.tables)} collisionless tables of dim {o.job.tables[0].dim}, batches of "
        f"{o.job.train.batch_size}, every sample scored before it is learnt from"
    )
    yield ""


def _speed(o: Outcome) -> Iterator[str]:
    rate = "too short to time" if o.backlog_rate is None else f"{o.backlog_rate:,.0f} samples/s"
    yield f"speed       {rate}, publishing, over a backlog of {o.backlog_samples:,} samples"
    if o.freshness is None:
        yield "freshness   not measured: no delta reached the replica in the live part"
        return
    p50, p99 = o.freshness["p50_ms"] / 1000, o.freshness["p99_ms"] / 1000
    yield f"freshness   event to served row: p50 {p50:.2f} s, p99 {p99:.2f} s, live at {o.live_rate:,.0f} events/s"


def _quality(o: Outcome) -> Iterator[str]:
    from monolith.datasets.online_report import table

    yield ""
    yield f"the last 20 % of the stream, {len(o.comparison.labels):,} samples, four ways:"
    yield from (f"  {line}" for line in table(o.comparison))
    yield f"  plot: {o.picture}"
    yield ""


def _tables(o: Outcome) -> Iterator[str]:
    yield f"{'table':12}{'rows':>8}{'admitted':>10}{'rejected':>10}{'expired':>9}{'bytes':>11}{'bytes a row':>13}"
    for name, stats in o.status.tables.items():
        size = sum(stats[kind] for kind in SIZES)
        expired = stats["expired_idle"] + stats["expired_age"]
        yield (
            f"{name:12}{stats['rows']:8,}{stats['admitted']:10,}{stats['rejected']:10,}{expired:9,}"
            f"{size:11,}{size / max(1, stats['rows']):13,.0f}"
        )
    row = 4 * o.job.tables[0].dim
    yield "(rejected: occurrences of ids that had no row yet. bytes: all that the table takes; in tables as small as"
    yield f" these that is mostly what every table begins with: the values of a row are {row} bytes)"
    yield ""


def _serving(o: Outcome) -> Iterator[str]:
    yield f"parity      every row in the store against the trainer's, bit by bit: {_counts(o.parity.tables)}"
    yield f"replay      the daemon's steps trained again from its journal: {_counts(o.replayed)}"
    yield f"serving     ready {o.ready_s:.2f} s after the replica's start; it serves delta {o.parity.store.sequence}"
    yield ""


def _counts(tables: Mapping[str, Parity]) -> str:
    words = ("equal", "missing", "stale", "zombie")
    return ", ".join(f"{sum(getattr(p, word) for p in tables.values()):,} {word}" for word in words)


def _questions(o: Outcome) -> Iterator[str]:
    yield "look up a user, and score a pair:"
    for line, answer in o.answers:
        yield f"  {line}"
        yield f"    -> {_short(json.dumps(answer))}"
    yield "start the server again with:"
    yield f"  monolith serve --store {o.job.store} --model {o.job.name} --port {o.server_port}"
    yield "=" * WIDTH


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:110]} ... {text[-45:]}"
