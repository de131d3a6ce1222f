"""One seed of the comparison online against batch, with every interval of synchronisation, and the file of such runs.

``frozen`` and ``frozen1`` never change after the first part. ``online1`` goes on from ``frozen1``, ``warm`` from
``frozen``; both serve by the protocol of `monolith.datasets.served`, synchronised at every training step and at longer
intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.datasets.judging import Judge, References, Score
from monolith.datasets.online import Split, check_both, check_comparable, fit_epochs, follow, samples_of
from monolith.datasets.served import (
    EVERY_STEP,
    Ints,
    Plan,
    Progress,
    Served,
    firsts_of,
    follow_served,
    lists_of_requests,
    lists_of_users,
    score,
    step_starts,
    synchronised,
)
from monolith.tables.batch import Batch, Flags
from monolith.training.fitting import lasting
from monolith.training.learner import Learner

PARTS = (5, 10, 50, 100)  # into how many intervals the judged part is cut, besides one interval a training step
REQUESTS = 0  # as a length of lists: a list is what one request showed


class Protocol(msgspec.Struct, frozen=True):
    """What is judged, and how serving is synchronised; part of what a run is known by."""

    parts: tuple[int, ...] = PARTS
    list_length: int = 10  # a user's next samples that are ranked in one go; `REQUESTS`: those of a request
    items: tuple[str, ...] = ()  # the features that are the item's; none: `ranking` is not measured


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed came to; a line of ``runs.jsonl``."""

    key: str  # of all that the result depends on, but the seed
    data: str
    settings: list[str]
    seed: int
    samples: int  # judged
    positives: int
    trained: int  # samples before the cut
    epochs: int  # that `frozen` took
    steps: int  # training steps in the judged part
    hours: float  # of event time in the judged part
    scores: dict[str, Score]  # "frozen", "frozen1", "online1", "online1 1/5" and so on
    ended_ms: int = 0


def interval(way: str, parts: int) -> str:
    """The name of a way that is synchronised at every one of ``parts`` parts."""
    return way if parts == EVERY_STEP else f"{way} 1/{parts}"


def seeded(job: JobConfig, seed: int) -> JobConfig:
    """The job with this seed of the network and of every table."""
    return msgspec.structs.replace(
        job, seed=seed, tables=[msgspec.structs.replace(table, seed=seed) for table in job.tables]
    )


@dataclass(frozen=True)
class Stage:
    """A split stream with what is judged of it: all that runs of different seeds have in common."""

    job: JobConfig
    online: JobConfig  # under which ``online1`` and ``warm`` go on; mostly the same
    split: Split
    protocol: Protocol

    @cached_property
    def later(self) -> Batch:
        """All samples from the cut's step on."""
        return samples_of(self.split.later)

    @cached_property
    def train(self) -> Batch:
        """All samples before it."""
        return self.split.train

    @cached_property
    def judged(self) -> Flags:
        """Which of ``later`` are judged."""
        return self.split.judged

    @cached_property
    def requests(self) -> Ints:
        """(n,) of ``later``: the request of each sample."""
        return lists_of_requests(self.split.later, len(self.later))

    @cached_property
    def lists(self) -> Ints:
        """(n,) of ``later``: what is ranked in one go."""
        if self.protocol.list_length == REQUESTS:
            return self.requests
        return lists_of_users(self.later.groups, self.judged, self.protocol.list_length)

    @cached_property
    def test(self) -> Batch:
        """The judged samples."""
        return self.later.take(np.flatnonzero(self.judged))

    @cached_property
    def judge(self) -> Judge:
        """Scores scores."""
        return Judge(self.test.labels[:, 0], self.test.groups, self.lists[self.judged])

    @cached_property
    def references(self) -> References | None:
        """The items as which samples are shown to find a user's level."""
        return References(self.train, self.protocol.items) if self.protocol.items else None

    @cached_property
    def starts(self) -> Ints:
        """Where the training steps of ``later`` begin."""
        return step_starts(self.split.later, self.job.train.batch_size)

    def plans(self) -> dict[str, Plan]:
        """By name of the interval and of what it is for; those that are no longer than a training step are left out."""
        plans = {}
        for parts in (EVERY_STEP, *self.protocol.parts):
            starts = synchronised(self.starts, len(self.later), parts)
            if parts == EVERY_STEP or len(starts) < len(self.starts):
                for purpose, lists in (("own", self.requests), ("lists", self.lists)):
                    plans[f"{parts} {purpose}"] = Plan(starts, firsts_of(lists), self.judged)
        return plans


def run_seed(stage: Stage, seed: int, progress: Progress) -> tuple[dict[str, Score], int]:
    """The score of every way and interval, and the epochs that ``frozen`` took.

    Raises ConfigError where the first task has no AUC, InputError where one of its labels is missing.
    """
    check_comparable(stage.job)
    check_both(stage.test, "the judged part")
    job = seeded(stage.job, seed)
    online = seeded(stage.online, seed)
    batch, epochs = fit_epochs(lasting(job), stage.train, progress)
    scores = {"frozen": _frozen(stage, batch)}
    scores |= _followed(stage, under(batch, lasting(online)), "warm", progress)
    once = Learner(job)
    follow(once, stage.split.earlier, progress, "one pass")
    scores |= {"frozen1": _frozen(stage, once)}
    return scores | _followed(stage, under(once, online), "online1", progress), epochs


def under(learner: Learner, job: JobConfig) -> Learner:
    """The learner as it goes on under the settings of ``job``, as after a stop and a start."""
    if learner.job == job:
        return learner
    other = Learner(job)
    with TemporaryDirectory(prefix="monolith-") as folder:
        learner.save(Path(folder) / "learner")
        other.load(Path(folder) / "learner")
    return other


def _frozen(stage: Stage, learner: Learner) -> Score:
    scores = score(learner, stage.test)
    centred = None if stage.references is None else stage.references.centred(learner, stage.test, scores)
    return stage.judge.score(scores, scores, centred)


def _followed(stage: Stage, learner: Learner, way: str, progress: Progress) -> dict[str, Score]:
    plans = stage.plans()
    found = follow_served(learner, stage.split.later, plans, progress, way, stage.references)
    names = dict.fromkeys(int(name.split()[0]) for name in plans)
    return {interval(way, parts): _judged(stage, found, parts) for parts in names}


def _judged(stage: Stage, found: Mapping[str, Served], parts: int) -> Score:
    own, in_lists, part = found[f"{parts} own"], found[f"{parts} lists"], stage.judged
    centred = None if stage.references is None else own.centred[part]
    return stage.judge.score(own.scores[part], in_lists.scores[part], centred)
