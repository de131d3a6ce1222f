"""Epochs over bounded samples: split, train, judge, stop early, keep the best (`monolith fit`).

Epochs have no event time of their own: rows do not expire while a model is fitted, whatever the job's `expiry` says;
their last-seen times are those of the events, so the rule holds from the first moment in which the model goes online.
Counts of ids without a row go on from epoch to epoch.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.config.expiry import Forever
from monolith.config.fit import FitConfig, FitMetric, LastPart, RandomPart
from monolith.config.table import TableConfig
from monolith.errors import InputError, NoSamplesError
from monolith.streaming.journal import Positions
from monolith.tables.batch import Batch, Flags
from monolith.tables.kept_strings import KeptStrings, Strings
from monolith.training.evaluation import Evaluation, Result
from monolith.training.learner import Learner
from monolith.training.sample_file import SampleFile
from monolith.training.start import About, write_start

SCORE_BATCH = 4096
_LOWER_IS_BETTER = ("logloss", "rmse", "mae")

Tell = Callable[[str, int, int], None]  # what is being done, samples done, samples in all


class Epoch(NamedTuple):
    """One pass over the training part, and how good the model was after it."""

    number: int  # from 1
    scores: dict[str, Result]  # task -> scores on the validation part
    seconds: float  # of the training pass
    is_best: bool  # so far


class Fitter:
    """Fits one job. ``best`` is a folder, not there yet, in which the best state so far lies."""

    def __init__(
        self,
        job: JobConfig,
        train: SampleFile,
        validation: SampleFile,
        best: Path,
        tell: Tell,
        learner: Learner | None = None,
    ) -> None:
        """``learner`` is fitted, None: a new one of ``job``. Raises NoSamplesError where a part is empty."""
        for name, part in (("training", train), ("validation", validation)):
            if not len(part):
                raise NoSamplesError(
                    f"the {name} part has no sample ({len(train):,} to train, {len(validation):,} to judge): look at "
                    f"`fit.validation`, and at the dead letters"
                )
        self.learner = learner or Learner(lasting(job))
        self.metric = metric_of(job)
        self.job, self._settings = job, job.fit
        self._train, self._validation = train, validation
        self._folder, self._tell = best, tell
        self._best = math.nan

    def epochs(self) -> Iterator[Epoch]:
        """Each epoch as it is done; after the last one `learner` is the best state."""
        since_best = 0
        for number in range(1, self._settings.epochs + 1):
            began = time.monotonic()
            self._pass(number)
            seconds = time.monotonic() - began
            scores = self._judge()
            is_best = self._is_better(getattr(next(iter(scores.values())), self.metric))
            since_best = 0 if is_best else since_best + 1
            if is_best:
                self._keep()
            yield Epoch(number, scores, seconds, is_best)
            if since_best > self._settings.patience:
                break
        self.learner.load(self._folder)

    def learn_validation(self) -> None:
        """Learn the validation part once, in its order: what the daemon would have done next."""
        self._follow(self._validation.batches(self._size()), "learning the last part once", len(self._validation))

    def _pass(self, number: int) -> None:
        order = np.random.default_rng([self.job.seed, number]) if self._settings.shuffle else None
        self._follow(self._train.batches(self._size(), order), f"epoch {number}", len(self._train))

    def _follow(self, batches: Iterator[Batch], what: str, total: int) -> None:
        done = 0
        for batch in batches:
            self.learner.learn(batch)
            done += len(batch)
            self._tell(what, done, total)

    def _judge(self) -> dict[str, Result]:
        evaluation = Evaluation(self.job.labels)
        for batch in self._validation.batches(SCORE_BATCH):
            evaluation.add(batch, self.learner.score(batch))
            self._tell("judging", evaluation.samples, len(self._validation))
        return evaluation.scores()

    def _is_better(self, score: float) -> bool:
        """Whether ``score`` is the best so far; one that does not exist (AUC of one class) is an error."""
        if not math.isfinite(score):
            raise InputError(
                f"{self.metric} of the validation part is {score}: it needs labels of both kinds; choose another "
                f"`fit.metric`, or another `fit.validation`"
            )
        lower = is_lower_better(self.metric)
        better = math.isnan(self._best) or (score < self._best if lower else score > self._best)
        self._best = score if better else self._best
        return better

    def _keep(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        self.learner.save(self._folder)

    def _size(self) -> int:
        return self._settings.batch_size or self.job.train.batch_size


def write_fitted(fitter: Fitter, epochs: Sequence[Epoch], positions: Positions, strings: Strings | None = None) -> int:
    """Make the best state the start of the job's run, the `last` part learnt once; returns the best epoch's number.

    ``strings``: what the ids of the samples stand for, where the job keeps that.
    """
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    if isinstance(fitter.job.fit.validation, LastPart):
        fitter.learn_validation()
    about = About(f"monolith fit, epoch {best} of {len(epochs)} by {fitter.metric}", positions)
    kept = KeptStrings(fitter.learner.features)
    kept.take(strings or {}, fitter.learner.tables)
    write_start(Path(fitter.job.state), fitter.job, fitter.learner, about, kept)
    return best


def is_lower_better(metric: FitMetric) -> bool:
    """Whether a smaller number of ``metric`` is the better one."""
    return metric in _LOWER_IS_BETTER


def metric_of(job: JobConfig) -> FitMetric:
    """By what epochs are judged. Raises InputError for a metric that the first task does not have."""
    loss = job.labels[0].loss
    allowed: tuple[FitMetric, ...] = ("auc", "gauc", "logloss") if loss == "log" else ("rmse", "mae")
    metric = job.fit.metric or allowed[0]
    if metric not in allowed:
        raise InputError(
            f"fit.metric is {metric}, task {job.labels[0].name!r} has the loss {loss}: allowed are {', '.join(allowed)}"
        )
    return metric


def lasting(job: JobConfig) -> JobConfig:
    """The job with tables whose rows do not expire."""
    return msgspec.structs.replace(job, tables=[_lasting(table) for table in job.tables])


def _lasting(table: TableConfig) -> TableConfig:
    rules = {
        name: rule if rule.expiry is None else msgspec.structs.replace(rule, expiry=Forever())
        for name, rule in table.per_feature.items()
    }
    return msgspec.structs.replace(table, expiry=Forever(), per_feature=rules)


def split(samples: SampleFile, settings: FitConfig, seed: int, parts: tuple[SampleFile, SampleFile]) -> None:
    """Write each of ``samples`` to the training part or the validation part, in order, as `fit.validation` says."""
    train, validation = parts
    first, times_ms = 0, [block.event_time_ms for block in samples.blocks()]
    cut_ms = _cut_ms(np.concatenate(times_ms), settings.validation) if times_ms else 0
    for block in samples.blocks():
        judged = _judged(block, first, settings, seed, cut_ms)
        train.append(block.take(np.flatnonzero(~judged)))
        validation.append(block.take(np.flatnonzero(judged)))
        first += len(block)
    for part in parts:
        part.finish()


def _cut_ms(times_ms: np.ndarray, validation: object) -> int:
    """The event time from which on samples are of the last part."""
    if not isinstance(validation, LastPart):
        return 0
    number = min(len(times_ms) - 1, math.floor(len(times_ms) * (1 - validation.share)))
    return int(np.partition(times_ms, number)[number])


def _judged(block: Batch, first: int, settings: FitConfig, seed: int, cut_ms: int) -> Flags:
    """Which samples of ``block`` are of the validation part; the block's first is sample number ``first``."""
    if isinstance(settings.validation, LastPart):
        late: Flags = block.event_time_ms >= cut_ms
        return late
    if isinstance(settings.validation, RandomPart):
        drawn: Flags = np.random.default_rng([seed, 7, first]).random(len(block)) < settings.validation.share
        return drawn
    return np.zeros(len(block), np.bool_)
