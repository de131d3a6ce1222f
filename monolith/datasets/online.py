"""Online against batch: four ways to be right about the last part of a stream, on the same samples in the same order.

    frozen    several epochs over the first part, their number chosen by its last eighth, then no update
    frozen1   one pass over the first part, then no update
    online1   one pass that never stops: each sample is scored, then learnt from; this is what the daemon does
    warm      as frozen, but it goes on learning

What online learning is worth is online1 - frozen1 and warm - frozen. (online1 - frozen also holds what one pass is
worth over several epochs, which has nothing to do with being online.)

The first part ends at a step boundary: every way has seen the same samples, and online1 has the daemon's own steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config import JobConfig
from monolith.config.expiry import Forever
from monolith.errors import InputError
from monolith.streaming.runner import Step
from monolith.streaming.steps import StepReader
from monolith.tables.batch import NO_GROUP, Batch, Flags, concatenated
from monolith.training.learner import Learner
from monolith.training.ranking import auc, gauc

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # what is being done, samples done, samples in all

WAYS = ("frozen", "frozen1", "online1", "warm")
EPOCHS, PATIENCE = 20, 2  # as in the baselines that the figures are compared with
EPOCH_BATCH = 1024
SCORE_BATCH = 1024


@dataclass(frozen=True)
class Split:
    """A stream cut in two; ``test`` are the samples of ``later`` that are judged (those shown from the cut on)."""

    earlier: list[Step]
    later: list[Step]
    cut_ms: int

    @property
    def train(self) -> Batch:
        """All samples before the cut, in order."""
        return _samples(self.earlier)

    @property
    def judged(self) -> Flags:
        """Which samples (n,) of ``later`` are judged."""
        return _samples(self.later).event_time_ms >= self.cut_ms

    @property
    def test(self) -> Batch:
        """The samples that are judged, in order."""
        return _samples(self.later).take(np.flatnonzero(self.judged))

    @property
    def test_keys(self) -> list[tuple[str, str]]:
        """(request id, item id) of each sample of ``test``."""
        return list(compress(chain.from_iterable(step.keys for step in self.later), self.judged))


@dataclass(frozen=True)
class Comparison:
    """Scores (n,) of each way for the same n samples, in stream order."""

    labels: Floats
    users: npt.NDArray[np.int64]
    times_ms: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    epochs: int  # that frozen took
    online: Learner  # online1's, after the last step

    def auc(self, way: str) -> float:
        """Over all samples together."""
        return auc(self.scores[way], self.labels)

    def gauc(self, way: str) -> float:
        """Within users, weighted by impressions: what is left when each user's own level counts for nothing."""
        return gauc(self.users, self.scores[way], self.labels)[0]

    def windows(self, way: str, size: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """AUC over windows of ``size`` samples and the event time at which each ends."""
        ends = np.arange(size, len(self.labels) + 1, size)
        areas = [auc(self.scores[way][end - size : end], self.labels[end - size : end]) for end in ends]
        return self.times_ms[ends - 1], np.array(areas, np.float32)


def read_steps(job: JobConfig, journal: Path, *, recorded: bool = False) -> list[Step]:
    """Every step of the job's streams as they are now, journalled in the new folder ``journal``.

    With ``recorded``, the steps of a run that is over, from its own journal: the very ones that its daemon trained on.
    """
    if not recorded:
        job = msgspec.structs.replace(job, input=msgspec.structs.replace(job.input, follow=False))
    with StepReader.open(job, journal, replay_only=recorded) as reader:
        return list(_all_steps(reader))


def split_at(steps: Sequence[Step], cut_ms: int) -> Split:
    """Cut before the first step that holds a sample shown at ``cut_ms`` or later; InputError if a side is empty."""
    first = next((i for i, step in enumerate(steps) if (step.batch.event_time_ms >= cut_ms).any()), None)
    if first is None or not any(len(step.batch) for step in steps[:first]):
        shown = [time for step in steps for time in step.batch.event_time_ms.tolist()]
        seen = f"from {min(shown)} to {max(shown)}" if shown else "none at all"
        raise InputError(f"the stream cannot be cut at event time {cut_ms}: its samples are {seen}")
    return Split(list(steps[:first]), list(steps[first:]), cut_ms)


def compare(job: JobConfig, split: Split, progress: Progress = lambda *_: None) -> Comparison:
    """Train and judge all four ways; ``job`` says model, tables and batch size."""
    test = split.test
    if len(ungrouped := np.flatnonzero(test.groups == NO_GROUP)):
        key = "/".join(split.test_keys[ungrouped[0]])
        raise InputError(f"within-user AUC needs one {job.train.group_by!r} a sample; {key} has none")
    frozen, warm, epochs = _batch_ways(job, split, progress)
    online = Learner(job)
    frozen1, online1 = _one_pass_ways(online, split, progress)
    return Comparison(
        labels=test.labels[:, 0],
        users=test.groups,
        times_ms=test.event_time_ms,
        scores={"frozen": frozen, "frozen1": frozen1, "online1": online1, "warm": warm},
        epochs=epochs,
        online=online,
    )


def _one_pass_ways(learner: Learner, split: Split, progress: Progress) -> tuple[Floats, Floats]:
    _follow(learner, split.earlier, progress, "one pass")
    frozen1 = _score(learner, split.test)
    return frozen1, _judged(split, _follow(learner, split.later, progress, "online1"))


def _batch_ways(job: JobConfig, split: Split, progress: Progress) -> tuple[Floats, Floats, int]:
    lasting = [msgspec.structs.replace(table, expiry=Forever()) for table in job.tables]  # epochs have no event time
    job = msgspec.structs.replace(job, tables=lasting)
    learner, epochs = _fit(job, split.train, progress)
    frozen = _score(learner, split.test)
    return frozen, _judged(split, _follow(learner, split.later, progress, "warm")), epochs


def _fit(job: JobConfig, samples: Batch, progress: Progress) -> tuple[Learner, int]:
    """A learner after that number of epochs over ``samples`` which is best for the last eighth of them.

    The number is found on the others, then all are trained on: the strongest control that early stopping gives.
    """
    epochs = _best_epochs(job, samples[: -len(samples) // 8], samples[-len(samples) // 8 :], progress)
    learner = Learner(job)
    for epoch in range(1, epochs + 1):
        _epoch(learner, samples, epoch)
        progress("frozen, on all", epoch * len(samples), epochs * len(samples))
    return learner, epochs


def _best_epochs(job: JobConfig, train: Batch, validation: Batch, progress: Progress) -> int:
    learner, areas = Learner(job), list[float]()
    while len(areas) < EPOCHS and len(areas) - int(np.argmax([*areas, -1.0])) <= PATIENCE:
        _epoch(learner, train, len(areas) + 1)
        areas.append(auc(_score(learner, validation), validation.labels[:, 0]))
        progress("frozen, finding the number of epochs", len(areas) * len(train), EPOCHS * len(train))
    return int(np.argmax(areas)) + 1


def _epoch(learner: Learner, samples: Batch, epoch: int) -> None:
    order = np.random.default_rng(epoch).permutation(len(samples))
    for start in range(0, len(order), EPOCH_BATCH):
        learner.step(samples.take(order[start : start + EPOCH_BATCH]))


def _follow(learner: Learner, steps: Sequence[Step], progress: Progress, what: str) -> Floats:
    """Learn as the daemon does; scores (n,) of all samples, each from before it was learnt from."""
    size, scores, done = learner.job.train.batch_size, [], 0
    total = sum(len(step.batch) for step in steps)
    for step in steps:
        scores += [learner.step(batch) for batch in step.batch.pieces(size)]
        learner.advance(step.watermark_ms, learner.job.train.sweep_rows)
        done += len(step.batch)
        progress(what, done, total)
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def _score(learner: Learner, samples: Batch) -> Floats:
    return np.concatenate([learner.score(batch) for batch in samples.pieces(SCORE_BATCH)])


def _judged(split: Split, scores: Floats) -> Floats:
    """The scores of `Split.test` among those of all later samples."""
    judged: Floats = scores[split.judged]
    return judged


def _samples(steps: Iterable[Step]) -> Batch:
    return concatenated([step.batch for step in steps])


def _all_steps(reader: StepReader) -> Iterator[Step]:
    while (step := reader.next(timeout_s=1.0)) is not None:
        yield step
        if step.ended:
            return
