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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config import JobConfig
from monolith.datasets.served import Floats, Progress, first_task, score
from monolith.errors import ConfigError, InputError, NoSamplesError
from monolith.streaming.between import Between
from monolith.streaming.bounded import open_bounded
from monolith.streaming.runner import Step
from monolith.streaming.steps import StepReader
from monolith.tables.batch import NO_GROUP, Batch, Flags, concatenated
from monolith.training.fit_input import steps_of
from monolith.training.fitting import lasting
from monolith.training.learner import Learner
from monolith.training.metrics import weights_of
from monolith.training.ranking import auc, gauc

WAYS = ("frozen", "frozen1", "online1", "warm")
EPOCHS, PATIENCE = 20, 2  # as in the baselines that the figures are compared with
EPOCH_BATCH = 1024


@dataclass(frozen=True)
class Split:
    """A stream cut in two; ``test`` are the samples of ``later`` that are judged: those shown from the cut on that have
    a label of the first task.
    """

    earlier: list[Step]
    later: list[Step]
    cut_ms: int

    @property
    def train(self) -> Batch:
        """All samples before the cut, in order."""
        return samples_of(self.earlier)

    @property
    def judged(self) -> Flags:
        """Which samples (n,) of ``later`` are judged."""
        later = samples_of(self.later)
        judged: Flags = (later.event_time_ms >= self.cut_ms) & (weights_of(later, 0) > 0)
        return judged

    @property
    def test(self) -> Batch:
        """The samples that are judged, in order."""
        return samples_of(self.later).take(np.flatnonzero(self.judged))

    @property
    def test_keys(self) -> list[tuple[str, str]]:
        """(request id, item id) of each sample of ``test``."""
        return list(compress(chain.from_iterable(step.keys for step in self.later), self.judged))


@dataclass(frozen=True)
class Comparison:
    """Scores (n,) of each way for the same n samples, in stream order."""

    labels: Floats
    users: npt.NDArray[np.int64]  # NO_GROUP: the sample has none
    times_ms: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    epochs: int  # that frozen took
    online: Learner  # online1's, after the last step

    def auc(self, way: str) -> float:
        """Over all samples together."""
        return auc(self.scores[way], self.labels)

    def gauc(self, way: str) -> float | None:
        """Within users, weighted by impressions: what is left when each user's own level counts for nothing.

        None where no user has labels of both kinds; samples without a user do not count.
        """
        known = self.users != NO_GROUP
        value, impressions = gauc(self.users[known], self.scores[way][known], self.labels[known])
        return value if impressions else None

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
        return list(steps_of(reader))


def read_bounded(
    job: JobConfig, part: Between, progress: Progress, *, keys: bool = False, most: int | None = None
) -> tuple[list[Step], dict[str, int]]:
    """The steps of the job's streams up to their present ends, and what became no sample; ``keys``: with their keys.

    ``most``: no further than the step with that many samples.

    Nothing is written, committed or waited for. Raises ConfigError and UnavailableError as `open_bounded` does.
    """
    steps: list[Step] = []
    done = 0
    with open_bounded(job, between=part) as reader:
        for step in steps_of(reader):
            steps.append(step if keys else replace(step, keys=()))
            done += len(step.batch)
            progress("reading", done, done + (reader.progress().lag or 0))
            if most is not None and done >= most:
                break
        return steps, dict(reader.progress().dropped())


def cut_of(steps: Sequence[Step], share: float) -> int:
    """The event time before which the first ``share`` of all samples lie. Raises NoSamplesError where there is none."""
    times = np.concatenate([step.batch.event_time_ms for step in steps]) if steps else np.zeros(0, np.int64)
    if not len(times):
        raise NoSamplesError("the streams hold no sample to compare on: look at the job's `input`, --from and --until")
    number = min(int(len(times) * share), len(times) - 1)
    return int(np.partition(times, number)[number])


def check_comparable(job: JobConfig) -> None:
    """Raises ConfigError for a job whose first task has no AUC."""
    task = job.labels[0]
    if task.loss != "log":
        raise ConfigError(
            f"the first task {task.name!r} has the loss {task.loss}: the comparison is by AUC and needs labels of two "
            f"kinds, with the loss log; `monolith evaluate` gives the errors of such a task"
        )


def split_at(steps: Sequence[Step], cut_ms: int) -> Split:
    """Cut before the first step that holds a sample shown at ``cut_ms`` or later; InputError if a side is empty."""
    first = next((i for i, step in enumerate(steps) if (step.batch.event_time_ms >= cut_ms).any()), None)
    if first is None or not any(len(step.batch) for step in steps[:first]):
        shown = [time for step in steps for time in step.batch.event_time_ms.tolist()]
        seen = f"from {min(shown)} to {max(shown)}" if shown else "none at all"
        raise InputError(f"the stream cannot be cut at event time {cut_ms}: its samples are {seen}")
    return Split(list(steps[:first]), list(steps[first:]), cut_ms)


def compare(job: JobConfig, split: Split, progress: Progress = lambda *_: None) -> Comparison:
    """Train and judge all four ways; ``job`` says model, tables and batch size.

    By the job's first task. Raises ConfigError where that has no AUC, InputError where one of its labels is missing.
    """
    check_comparable(job)
    test = split.test
    check_both(test, "the judged part")
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


def check_both(samples: Batch, what: str) -> None:
    """Raises InputError unless there are labels of both kinds."""
    hits = int((_labelled(samples).labels[:, 0] > 0).sum())
    if not 0 < hits < len(_labelled(samples)):
        raise InputError(
            f"{what} has {len(samples):,} samples, {hits:,} of them positive: an AUC needs labels of both kinds; take "
            f"more of the stream, or another share"
        )


def _labelled(samples: Batch) -> Batch:
    """The samples that have a label of the first task."""
    return samples.take(np.flatnonzero(weights_of(samples, 0) > 0))


def _one_pass_ways(learner: Learner, split: Split, progress: Progress) -> tuple[Floats, Floats]:
    follow(learner, split.earlier, progress, "one pass")
    frozen1 = score(learner, split.test)
    return frozen1, _judged(split, follow(learner, split.later, progress, "online1"))


def _batch_ways(job: JobConfig, split: Split, progress: Progress) -> tuple[Floats, Floats, int]:
    job = lasting(job)  # epochs have no event time
    learner, epochs = fit_epochs(job, split.train, progress)
    frozen = score(learner, split.test)
    return frozen, _judged(split, follow(learner, split.later, progress, "warm")), epochs


def fit_epochs(job: JobConfig, samples: Batch, progress: Progress) -> tuple[Learner, int]:
    """A learner after that number of epochs over ``samples`` which is best for the last eighth of them.

    The number is found on the others, then all are trained on: the strongest control that early stopping gives.
    """
    epochs = _best_epochs(job, samples[: -len(samples) // 8], samples[-len(samples) // 8 :], progress)
    learner = Learner(job)
    for epoch in range(1, epochs + 1):
        train_epoch(learner, samples, epoch)
        progress("frozen, on all", epoch * len(samples), epochs * len(samples))
    return learner, epochs


def _best_epochs(job: JobConfig, train: Batch, validation: Batch, progress: Progress) -> int:
    learner, areas = Learner(job), list[float]()
    check_both(validation, "the last eighth of the first part, by which the number of epochs is chosen,")
    validation = _labelled(validation)
    while len(areas) < EPOCHS and len(areas) - int(np.argmax([*areas, -1.0])) <= PATIENCE:
        train_epoch(learner, train, len(areas) + 1)
        areas.append(auc(score(learner, validation), validation.labels[:, 0]))
        progress("frozen, finding the number of epochs", len(areas) * len(train), EPOCHS * len(train))
    return int(np.argmax(areas)) + 1


def train_epoch(learner: Learner, samples: Batch, epoch: int) -> None:
    """Learn all samples once, in an order that is the epoch's own."""
    order = np.random.default_rng(epoch).permutation(len(samples))
    for start in range(0, len(order), EPOCH_BATCH):
        learner.learn(samples.take(order[start : start + EPOCH_BATCH]))


def follow(learner: Learner, steps: Sequence[Step], progress: Progress, what: str) -> Floats:
    """Learn as the daemon does; scores (n,) of all samples, each from before it was learnt from."""
    size, scores, done = learner.job.train.batch_size, [], 0
    total = sum(len(step.batch) for step in steps)
    for step in steps:
        scores += [first_task(learner.step(batch)) for batch in step.batch.pieces(size)]
        learner.advance(step.watermark_ms, learner.job.train.sweep_rows)
        done += len(step.batch)
        progress(what, done, total)
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def _judged(split: Split, scores: Floats) -> Floats:
    """The scores of `Split.test` among those of all later samples."""
    judged: Floats = scores[split.judged]
    return judged


def samples_of(steps: Iterable[Step]) -> Batch:
    """All samples of the steps, in order."""
    return concatenated([step.batch for step in steps])
