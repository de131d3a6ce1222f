"""Scores of a serving model that is synchronised now and then, while the training model goes on learning.

The protocol of the Monolith paper: again and again serving becomes what training is, scores the samples up to the next
synchronisation, and only then they are learnt from. Between two synchronisations serving does not change, so all that
it will score can be scored at once, by the training model as it is at that moment: no copy of a model is needed.

Samples of one list (the items of one request) are scored by one model: the one that served when the list was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from monolith.streaming.runner import Step
from monolith.tables.batch import NO_GROUP, Batch, Flags, concatenated
from monolith.training.learner import Learner, Predictions

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # what is being done, samples done, samples in all

EVERY_STEP = 0  # as a number of parts: synchronise before every training step
SCORE_BATCH = 4096


class Plan(NamedTuple):
    """When serving is synchronised, and which samples it scores then."""

    starts: Ints  # numbers of samples, ascending, from 0: before these are learnt from, serving is synchronised
    firsts: Ints  # (n,) for each sample the number of the first one of its list
    wanted: Flags  # (n,) which samples are to be scored

    def due(self) -> Iterator[tuple[int, Ints]]:
        """Each synchronisation at which something is to be scored, and the numbers of those samples."""
        samples = np.flatnonzero(self.wanted)
        syncs = np.searchsorted(self.starts, self.firsts[samples], side="right") - 1
        order = np.argsort(syncs, kind="stable")
        samples, syncs = samples[order], syncs[order]
        for group in np.split(np.arange(len(syncs)), np.flatnonzero(np.diff(syncs)) + 1):
            if len(group):
                yield int(self.starts[syncs[group[0]]]), samples[group]


def step_starts(steps: Sequence[Step], batch_size: int) -> Ints:
    """The number of the first sample of every training step."""
    starts, position = list[int](), 0
    for step in steps:
        starts += range(position, position + len(step.batch), batch_size)
        position += len(step.batch)
    return np.array(starts, np.int64)


def synchronised(starts: Ints, samples: int, parts: int) -> Ints:
    """The ``starts`` at which each of ``parts`` equal parts of ``samples`` samples begins; `EVERY_STEP`: all."""
    if parts == EVERY_STEP:
        return starts
    nearest = np.searchsorted(starts, samples * np.arange(parts) // parts, side="right") - 1
    return np.unique(starts[nearest])


def lists_of_requests(steps: Sequence[Step], size: int) -> Ints:
    """(n,) for each sample the number of its request. Without keys, every sample is a list of its own.

    ``size`` is the number of samples of all steps.
    """
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(request, len(numbers)) for step in steps for request, _ in step.keys]
    return np.array(found, np.int64) if len(found) == size else np.arange(size, dtype=np.int64)


def lists_of_users(users: Ints, wanted: Flags, length: int) -> Ints:
    """(n,) list numbers: each user's wanted samples, ``length`` after ``length``; `NO_GROUP`: of no user, or unwanted.

    Such a list is what a user is about to be shown, ranked in one go.
    """
    lists = np.full(len(users), NO_GROUP, np.int64)
    samples = np.flatnonzero(wanted & (users != NO_GROUP))
    order = samples[np.argsort(users[samples], kind="stable")]
    is_new = np.r_[True, np.diff(users[order]) != 0] if len(order) else np.zeros(0, np.bool_)
    begins = np.flatnonzero(is_new)
    rank = np.arange(len(order)) - begins[np.cumsum(is_new) - 1] if len(order) else order
    lists[order] = np.cumsum(is_new | (rank % length == 0)) - 1
    return lists


def firsts_of(lists: Ints) -> Ints:
    """(n,) the number of the first sample with the same list; of `NO_GROUP`, the sample's own."""
    own = np.arange(len(lists), dtype=np.int64)
    _, first, place = np.unique(lists, return_index=True, return_inverse=True)
    return np.where(lists == NO_GROUP, own, first[place])


class Centre(Protocol):
    """Takes what a learner thinks of a user as a whole out of scores; see `judging.References`."""

    def centred(self, learner: Learner, samples: Batch, scores: Floats) -> Floats:
        """(n,) log-odds less the user's level, from scores (n,) of samples (n,)."""


class Served:
    """Scores (n,) of n samples by one plan, NaN where a sample is not wanted; log-odds less the user's level beside."""

    def __init__(self, count: int) -> None:
        self.scores = np.full(count, np.nan, np.float32)
        self.centred = np.full(count, np.nan, np.float32)


def follow_served(
    learner: Learner,
    steps: Sequence[Step],
    plans: Mapping[str, Plan],
    progress: Progress,
    what: str,
    centre: Centre | None = None,
) -> dict[str, Served]:
    """Learn from the steps as the daemon does; what serving says by each plan.

    Without ``centre`` no level is taken out.
    """
    later = concatenated([step.batch for step in steps])
    served = {name: Served(len(later)) for name in plans}
    due: dict[int, list[tuple[Served, Ints]]] = {}
    for name, plan in plans.items():
        for start, samples in plan.due():
            due.setdefault(start, []).append((served[name], samples))
    position = 0
    for step in steps:
        for batch in step.batch.pieces(learner.job.train.batch_size):
            _serve(learner, later, due.pop(position, []), centre)
            learner.learn(batch)
            position += len(batch)
        learner.advance(step.watermark_ms, learner.job.train.sweep_rows)
        progress(what, position, len(later))
    return served


def _serve(learner: Learner, later: Batch, due: Sequence[tuple[Served, Ints]], centre: Centre | None) -> None:
    """Score what is due now, each sample once, however many plans want it."""
    if not due:
        return
    samples = np.unique(np.concatenate([wanted for _, wanted in due]))
    batch = later.take(samples)
    scores = score(learner, batch)
    centred = None if centre is None else centre.centred(learner, batch, scores)
    for served, wanted in due:
        places = np.searchsorted(samples, wanted)
        served.scores[wanted] = scores[places]
        if centred is not None:
            served.centred[wanted] = centred[places]


def score(learner: Learner, samples: Batch) -> Floats:
    """Scores (n,) of the first task; nothing is learnt."""
    if not len(samples):
        return np.zeros(0, np.float32)
    return np.concatenate([first_task(learner.score(batch)) for batch in samples.pieces(SCORE_BATCH)])


def first_task(predictions: Predictions) -> Floats:
    """Those of the first task, (n,)."""
    return predictions if predictions.ndim == 1 else predictions[:, 0]
