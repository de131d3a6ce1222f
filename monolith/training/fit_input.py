"""The samples that a fit is made of: the job's streams, or those of its section `fit`, read once into sample files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from monolith.config import JobConfig
from monolith.config.fit import OtherSamples
from monolith.errors import ConfigError
from monolith.streaming.between import Between
from monolith.streaming.bounded import open_bounded
from monolith.streaming.journal import Positions
from monolith.streaming.runner import Step
from monolith.streaming.source import parse_url
from monolith.streaming.steps import StepReader
from monolith.training.fitting import Tell, split
from monolith.training.sample_file import SampleFile


class SamplesRead(NamedTuple):
    """What reading the streams came to, besides the samples."""

    positions: Positions  # the offsets behind what was read
    dropped: dict[str, int]  # what became no sample, in people's words


Seen = dict[str, dict[int, str]]  # feature -> id -> string, of features whose strings are kept


def read_samples(
    job: JobConfig, part: Between, samples: SampleFile, tell: Tell, seen: Seen | None = None
) -> SamplesRead:
    """Append all samples that the job is to be fitted on, their strings to ``seen``.

    Raises ConfigError and UnavailableError.
    """
    return _read(_fitted(job), part, samples, tell, seen)


def read_judged(
    job: JobConfig, part: Between, samples: SampleFile, parts: tuple[SampleFile, SampleFile], tell: Tell
) -> SamplesRead | None:
    """Fill ``parts``, training and validation, as `fit.validation` says.

    Where the validation part comes from elsewhere it alone is read, and returned; all of ``samples`` train then.
    """
    if isinstance(job.fit.validation, OtherSamples):
        parts[0].finish()
        return _read(_of_samples(job, job.fit.validation.url), part, parts[1], tell)
    split(samples, job.fit, job.seed, parts)
    return None


def _fitted(job: JobConfig) -> JobConfig:
    """The job over the streams that are to be fitted."""
    fit = job.fit
    if fit.samples is not None and (fit.features or fit.actions):
        raise ConfigError("fit.samples and fit.features/fit.actions exclude each other: give one of the two")
    if fit.samples is not None:
        return _of_samples(job, fit.samples)
    if fit.features is not None or fit.actions is not None:
        streams = msgspec.structs.replace(job.input, samples=None, features=fit.features, actions=fit.actions)
        return msgspec.structs.replace(job, input=streams)
    return job


def _of_samples(job: JobConfig, url: str) -> JobConfig:
    streams = msgspec.structs.replace(job.input, samples=url, features=None, actions=None)
    return msgspec.structs.replace(job, input=streams)


def _read(job: JobConfig, part: Between, samples: SampleFile, tell: Tell, seen: Seen | None = None) -> SamplesRead:
    with open_bounded(job, between=part) as reader:
        for step in steps_of(reader):
            samples.append(step.batch)
            if seen is not None:
                for name, texts in step.strings.items():
                    seen.setdefault(name, {}).update(texts)
            tell("reading", len(samples), len(samples) + (reader.progress().lag or 0))
        told = reader.progress()
    samples.finish()
    positions = {parse_url(getattr(job.input, name)).name: offsets for name, offsets in told.positions.items()}
    return SamplesRead(positions, dict(told.dropped()))


def steps_of(reader: StepReader) -> Iterator[Step]:
    """Every step up to the end of bounded streams."""
    while (step := reader.next(timeout_s=1.0)) is not None:
        yield step
        if step.ended:
            return
