"""A sweep's trials, and what is known of them: one line of JSON each in ``trials.jsonl``, which only grows.

A trial is known by a hash of its whole job and of the part of the streams, so a later call does what is missing, and
whatever changes in the job file makes new trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from monolith.config import JobConfig
from monolith.config.load import job_json, load_job
from monolith.errors import ConfigError
from monolith.growing import GrowingFile, digest_of
from monolith.streaming.between import Between
from monolith.sweep.space import Settings, Space
from monolith.training.fitting import metric_of

NAME = "trials.jsonl"
_BESIDE = ("state", "store", "publish", "serve")  # keys that no trial's result depends on
_OWN = {  # first word of a setting -> why it cannot be swept
    "state": "each trial has a state folder of its own, below --dir",
    "seed": "--seeds N runs every trial with N seeds, from the job's own on",
    "store": "a trial publishes nothing",
    "publish": "a trial publishes nothing",
    "serve": "a trial serves nothing",
}


class Trial(NamedTuple):
    """One fit: settings and a seed."""

    name: str  # of its folder
    settings: Settings
    job: JobConfig  # with these settings, this seed and a state folder of its own


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial; a line of ``trials.jsonl``."""

    trial: str
    settings: list[str]
    seed: int
    status: Literal["done", "stopped", "failed"]
    metric: str  # of the first task, on the validation part
    score: float | None = None  # after the best epoch
    best_epoch: int | None = None
    epochs: list[float] = []  # the score after each
    scores: dict[str, dict[str, float | None]] = {}  # task -> all scores after the best epoch
    samples: tuple[int, int] = (0, 0)  # to train, to judge
    seconds: float = 0.0
    state: str | None = None  # state folder from which `monolith train` goes on
    error: str | None = None
    ended_ms: int = 0  # wall time


def trials_of(
    path: Path, space: Space, settings: Sequence[Settings], seeds: int, folder: Path, part: Between
) -> list[list[Trial]]:
    """The trials of each of ``settings``, one for each seed; settings that mean the same job are one.

    Raises ConfigError for whatever is wrong with any of them: nothing has begun by then.
    """
    _refuse_own(space)
    found: dict[str, list[Trial]] = {}
    for one in settings:
        job = load_job(path, [*space.fixed, *one])
        trials = [_trial(job, one, job.seed + number, folder, part) for number in range(seeds)]
        found.setdefault(trials[0].name, trials)
    metrics = {metric_of(trials[0].job) for trials in found.values()}
    if len(metrics) > 1:
        raise ConfigError(f"the trials are judged by {' and by '.join(sorted(metrics))}: they need one fit.metric")
    return list(found.values())


def _refuse_own(space: Space) -> None:
    options = [axis.key for axis in space.axes] + [o for o in space.fixed if o.partition("=")[0].strip() == "state"]
    for option in options:
        word = option.partition("=")[0].partition(".")[0].strip()
        if word in _OWN:
            raise ConfigError(f"--set {option}: {word} cannot be swept: {_OWN[word]}")


def _trial(job: JobConfig, settings: Settings, seed: int, folder: Path, part: Between) -> Trial:
    alone = msgspec.structs.replace(job.train, threads=1)  # workers share the cores between them
    job = msgspec.structs.replace(job, seed=seed, train=alone)
    data = msgspec.json.decode(job_json(job))
    kept = {key: value for key, value in data.items() if key not in _BESIDE}
    name = digest_of([kept, part.from_ms, part.until_ms])
    return Trial(name, settings, msgspec.structs.replace(job, state=str(folder / "trials" / name / "state")))


class Ledger(GrowingFile[Outcome]):
    """The outcomes in a sweep's folder."""

    writes = "another sweep works in"
    broken = "no outcome of a trial"
    remedy = "remove the line"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / NAME, Outcome)

    def read(self) -> dict[str, Outcome]:
        """The newest outcome of each trial. What a kill cut off is removed. Raises CorruptError for other damage."""
        return {outcome.trial: outcome for outcome in self.lines()}
