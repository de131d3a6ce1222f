"""The samples of a sweep's trials: the streams are read once for all trials that read the same, and stay in the folder.

A trial that is added later is thus judged on the very same samples, however much the streams have grown.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from monolith.config import JobConfig
from monolith.config.fit import OtherSamples, RandomPart
from monolith.config.load import job_json
from monolith.disk import make_folder, write_durably
from monolith.errors import CorruptError, MonolithError
from monolith.growing import digest_of
from monolith.streaming.between import Between
from monolith.streaming.journal import Positions
from monolith.training.fit_input import SamplesRead, read_judged, read_samples
from monolith.training.fitting import Tell
from monolith.training.sample_file import SampleFile

# What no sample depends on; every other key counts, also one that is added some day.
_NOT_READ = ("name", "model", "dense_optimizer", "publish", "serve", "state", "store", "seed", "train", "fit")
_NOT_READ_OF_TABLE = (
    "dim",
    "pooling",
    "optimizer",
    "slices",
    "admission",
    "expiry",
    "per_feature",
    "eviction",
    "absent",
    "initializer",
    "storage",
    "on_nonfinite",
    "max_gradient",
    "memory",
    "seed",
)
_READ_OF_TRAIN = ("step_records", "group_by", "window_samples")
_READ_OF_FIT = ("samples", "features", "actions")
_ABOUT = "read.json"


class About(msgspec.Struct, frozen=True):
    """Written last: the samples beside it are whole."""

    positions: Positions
    read_ms: int  # wall time


class Reading(NamedTuple):
    """The samples of some trials."""

    train: Path
    validation: Path
    positions: Positions
    read_ms: int  # wall time


class Readings:
    """Reads streams when the first trial needs them. ``told`` hears what was left out of each stream that is read."""

    def __init__(self, folder: Path, part: Between, tell: Tell, told: Callable[[SamplesRead], None]) -> None:
        self._folder, self._part, self._tell, self._told = folder / "samples", part, tell, told
        self._failed: dict[Path, MonolithError] = {}

    def of(self, job: JobConfig) -> Reading:
        """The samples that ``job`` is fitted on and judged by. Raises as the streams do."""
        read = self._folder / digest_of([_reading(job), self._part.from_ms, self._part.until_ms])
        about = self._once(read, lambda: self._read(job, read))
        parts = read / digest_of(_splitting(job))
        self._once(parts, lambda: self._split(job, read, parts, about))
        train = read / "samples" if isinstance(job.fit.validation, OtherSamples) else parts / "train"
        return Reading(train, parts / "validation", about.positions, about.read_ms)

    def _once(self, folder: Path, make: Callable[[], About]) -> About:
        """What ``make`` wrote into ``folder``, by this call or an earlier one; what failed is not tried twice."""
        if folder in self._failed:
            raise self._failed[folder]
        path = folder / _ABOUT
        if not path.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed while it read
            make_folder(folder)
            try:
                write_durably(path, msgspec.json.encode(make()))
            except MonolithError as error:
                self._failed[folder] = error
                raise
        try:
            return msgspec.json.decode(path.read_bytes(), type=About)
        except msgspec.DecodeError as error:
            raise CorruptError(
                f"{path} cannot be read: {error}; remove {folder} to have the streams read anew"
            ) from None

    def _read(self, job: JobConfig, folder: Path) -> About:
        with SampleFile(folder / "samples", keep=True) as samples:
            read = read_samples(job, self._part, samples, self._tell)
        self._told(read)
        return About(read.positions, time.time_ns() // 1_000_000)

    def _split(self, job: JobConfig, read: Path, folder: Path, about: About) -> About:
        with ExitStack() as files:
            samples = files.enter_context(SampleFile.reopen(read / "samples"))
            train = files.enter_context(SampleFile(folder / "train", keep=True))
            validation = files.enter_context(SampleFile(folder / "validation", keep=True))
            judged = read_judged(job, self._part, samples, (train, validation), self._tell)
        if judged is not None:
            self._told(judged)
        return about


def _reading(job: JobConfig) -> dict[str, Any]:
    """The settings that decide which samples the streams make."""
    data = msgspec.json.decode(job_json(job))
    kept = {key: value for key, value in data.items() if key not in _NOT_READ}
    kept["tables"] = [_without(table, _NOT_READ_OF_TABLE) for table in data["tables"]]
    kept["input"] = _without(data["input"], ("dead_letters", "follow"))
    kept["train"] = {key: data["train"][key] for key in _READ_OF_TRAIN}
    return kept | {"fit": {key: data["fit"][key] for key in _READ_OF_FIT}}


def _splitting(job: JobConfig) -> list[Any]:
    """The settings that decide which of the samples are judged."""
    drawn = job.seed if isinstance(job.fit.validation, RandomPart) else None
    return [msgspec.to_builtins(job.fit.validation), drawn]


def _without(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
