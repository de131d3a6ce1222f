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
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config import JobConfig
from monolith.config.table import Forever
from monolith.errors import InputError
from monolith.events import Sample
from monolith.streaming.steps import Step, StepReader
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
    def train(self) -> list[Sample]:
        """All samples before the cut, in order."""
        return _samples(self.earlier)

    @property
    def test(self) -> list[Sample]:
        """The samples that are judged, in order."""
        return [sample for sample in _samples(self.later) if sample.event_time_ms >= self.cut_ms]


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
    first = next((i for i, step in enumerate(steps) if any(s.event_time_ms >= cut_ms for s in step.samples)), None)
    if first is None or not any(step.samples for step in steps[:first]):
        shown = [s.event_time_ms for s in _samples(steps)]
        seen = f"from {min(shown)} to {max(shown)}" if shown else "none at all"
        raise InputError(f"the stream cannot be cut at event time {cut_ms}: its samples are {seen}")
    return Split(list(steps[:first]), list(steps[first:]), cut_ms)


def compare(job: JobConfig, split: Split, progress: Progress = lambda *_: None) -> Comparison:
    """Train and judge all four ways; ``job`` says model, tables and batch size."""
    test = split.test
    users = _groups(test, job.train.group_by)
    frozen, warm, epochs = _batch_ways(job, split, progress)
    online = Learner(job)
    frozen1, online1 = _one_pass_ways(online, split, progress)
    return Comparison(
        labels=np.array([s.label for s in test], np.float32),
        users=users,
        times_ms=np.array([s.event_time_ms for s in test], np.int64),
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


def _fit(job: JobConfig, samples: list[Sample], progress: Progress) -> tuple[Learner, int]:
    """A learner after that number of epochs over ``samples`` which is best for the last eighth of them.

    The number is found on the others, then all are trained on: the strongest control that early stopping gives.
    """
    epochs = _best_epochs(job, samples[: -len(samples) // 8], samples[-len(samples) // 8 :], progress)
    learner = Learner(job)
    for epoch in range(1, epochs + 1):
        _epoch(learner, samples, epoch)
        progress("frozen, on all", epoch * len(samples), epochs * len(samples))
    return learner, epochs


def _best_epochs(job: JobConfig, train: list[Sample], validation: list[Sample], progress: Progress) -> int:
    labels = np.array([s.label for s in validation], np.float32)
    learner, areas = Learner(job), list[float]()
    while len(areas) < EPOCHS and len(areas) - int(np.argmax([*areas, -1.0])) <= PATIENCE:
        _epoch(learner, train, len(areas) + 1)
        areas.append(auc(_score(learner, validation), labels))
        progress("frozen, finding the number of epochs", len(areas) * len(train), EPOCHS * len(train))
    return int(np.argmax(areas)) + 1


def _epoch(learner: Learner, samples: list[Sample], epoch: int) -> None:
    order = np.random.default_rng(epoch).permutation(len(samples))
    for start in range(0, len(order), EPOCH_BATCH):
        learner.step([samples[i] for i in order[start : start + EPOCH_BATCH]])


def _follow(learner: Learner, steps: Sequence[Step], progress: Progress, what: str) -> Floats:
    """Learn as the daemon does; scores (n,) of all samples, each from before it was learnt from."""
    size, scores, done = learner.job.train.batch_size, [], 0
    total = sum(len(step.samples) for step in steps)
    for step in steps:
        for start in range(0, len(step.samples), size):
            scores.append(learner.step(step.samples[start : start + size]))
        learner.advance(step.watermark_ms, learner.job.train.sweep_rows)
        done += len(step.samples)
        progress(what, done, total)
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def _score(learner: Learner, samples: Sequence[Sample]) -> Floats:
    parts = [learner.score(samples[i : i + SCORE_BATCH]) for i in range(0, len(samples), SCORE_BATCH)]
    return np.concatenate(parts)


def _judged(split: Split, scores: Floats) -> Floats:
    """The scores of `Split.test` among those of all later samples."""
    mask = np.array([s.event_time_ms >= split.cut_ms for s in _samples(split.later)], bool)
    judged: Floats = scores[mask]
    return judged


def _samples(steps: Iterable[Step]) -> list[Sample]:
    return list(chain.from_iterable(step.samples for step in steps))


def _groups(samples: Sequence[Sample], feature: str) -> npt.NDArray[np.int64]:
    """A number (n,) for each sample's value of ``feature``; InputError where one has none or a list."""
    numbers: dict[object, int] = {}
    for sample in samples:
        value = sample.features.get(feature)
        if not isinstance(value, int | str):
            raise InputError(f"within-user AUC needs one {feature!r} a sample; {sample.request_id} has {value!r}")
        numbers.setdefault(value, len(numbers))
    return np.array([numbers[sample.features[feature]] for sample in samples], np.int64)


def _all_steps(reader: StepReader) -> Iterator[Step]:
    while (step := reader.next(timeout_s=1.0)) is not None:
        yield step
        if step.ended:
            return
