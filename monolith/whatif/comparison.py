"""One pass over a log for all settings: each event looks its ids up, each sample shows them to the tables.

An event looks its ids up in its turn of event time, in rows as they stand by then: after the samples that were
complete, before its own, which may take the whole join window to come. A sample is observed when training would: after
its join, batch by batch, in the same order. Memory does not grow with the log: it is that of the shadows, and of the
distinct ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monolith.config import JobConfig, TableConfig
from monolith.events import WATERMARK_END, WATERMARK_START, Joined, Shown
from monolith.streaming.joiner import OnShown
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Bag, Batch
from monolith.tables.schema import FeatureSchema, card_features, is_salted
from monolith.tables.table_step import TableBatch
from monolith.whatif.serving_order import Events, serve_in_order
from monolith.whatif.settings import Setting
from monolith.whatif.shadow import Distinct, Outcome, Shadow, longest_stretch_ms

OpenReader = Callable[[OnShown], StepReader]
Progress = Callable[[int, int], None]  # records done, records in all


@dataclass(frozen=True)
class Comparison:
    """What the log held for one table, and what each setting made of it."""

    table: TableConfig
    events: int
    samples: int
    lookups: int
    distinct_ids: int
    first_ms: int  # event times of the look-ups
    last_ms: int
    unused: dict[str, int]  # records by the reason why they are none
    outcomes: list[Outcome]

    @property
    def hours(self) -> float:
        """From the first event to the last."""
        return max(0, self.last_ms - self.first_ms) / 3_600_000 if self.events else 0.0


def compare(
    job: JobConfig,
    table: TableConfig,
    settings: Sequence[Setting],
    open_reader: OpenReader,
    *,
    publishes: bool,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Run every setting of ``table``, which is one of the job's, over the steps of the reader.

    ``publishes``: deltas are cut where the steps say so, else after every one.
    """
    run = _Run(job, table, settings)
    with open_reader(run.on_shown) as reader:
        number, done, total, ended = 0, 0, 0, False
        while not ended:
            step = reader.next(timeout_s=0.1)
            if step is None:
                continue
            if step.number > number:  # else it only says that the streams are at their end
                run.step(step.batch, step.watermark_ms, publish=step.publish or not publishes)
            number, done, ended = step.number, done + step.records, step.ended
            total = total or done + (reader.progress().lag or 0)
            progress(done, max(done, total))
        return run.result(reader.progress().dead_letters)


class _Run:
    """The shadows on their way, and what they were shown so far."""

    def __init__(self, job: JobConfig, table: TableConfig, settings: Sequence[Setting]) -> None:
        self._table, self._names, self._salted = table, table.feature_names(), is_salted(table)
        self._schema, self._labels = FeatureSchema(card_features(job), keep_strings=True), LabelBlocks(job)
        self._batch_size, self._sweep_rows = job.train.batch_size, job.train.sweep_rows
        self._shadows = [Shadow(setting) for setting in settings]
        self._longest_ms = longest_stretch_ms(settings)
        self._distinct = Distinct()
        self._shown: list[bytes] = []  # packed rows, by each event of the step at hand
        self._shown_ms: list[int] = []
        self._before: list[int] = []  # how many of its samples came before each
        self._events = self._samples = self._lookups = 0
        self._first_ms, self._last_ms = WATERMARK_END, WATERMARK_START

    def on_shown(self, samples_before: int, event: Shown | Joined) -> None:
        """An event of the step to come."""
        self._shown.append(self._labels.without(event.row))
        self._shown_ms.append(event.event_time_ms)
        self._before.append(samples_before)
        self._first_ms = min(self._first_ms, event.event_time_ms)
        self._last_ms = max(self._last_ms, event.event_time_ms)

    def step(self, samples: Batch, watermark_ms: int, *, publish: bool) -> None:
        """Look up what the step's events name, and do what training does with its samples."""
        self._serve(samples)
        for batch in samples.pieces(self._batch_size):
            shown = self._of_table(batch.bags)
            for shadow in self._shadows:
                shadow.observe(shown, batch.event_time_ms)
        self._samples += len(samples)
        for shadow in self._shadows:
            shadow.end_step(watermark_ms, self._sweep_rows, publish=publish)

    def result(self, unused: dict[str, int]) -> Comparison:
        """What all of it came to."""
        return Comparison(
            table=self._table,
            events=self._events,
            samples=self._samples,
            lookups=self._lookups,
            distinct_ids=len(self._distinct),
            first_ms=self._first_ms,
            last_ms=self._last_ms,
            unused=dict(sorted(unused.items())),
            outcomes=[shadow.outcome() for shadow in self._shadows],
        )

    def _serve(self, samples: Batch) -> None:
        shown_ms = np.array(self._shown_ms, np.int64)
        shown = self._of_table(self._schema.unpack_rows(self._shown, shown_ms).bags)
        events = Events(shown, np.maximum.accumulate(shown_ms), np.array(self._before, np.int64))
        observed = self._of_table(samples.bags)
        serve_in_order(events, observed, samples.event_time_ms, self._shadows, longest_ms=self._longest_ms)
        self._distinct.add(events.batch.ids)
        self._events += len(self._shown)
        self._lookups += len(events.batch.ids)
        for of_step in (self._shown, self._shown_ms, self._before):
            of_step.clear()

    def _of_table(self, bags: Mapping[str, Bag]) -> TableBatch:
        return TableBatch(self._names, bags, salted=self._salted)
