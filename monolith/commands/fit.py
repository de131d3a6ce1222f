"""``monolith fit JOB``: epochs over bounded data, with early stopping; ``monolith train`` goes on from the best."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from monolith.commands.local_stream import Bar
    from monolith.config import JobConfig
    from monolith.streaming.between import Between
    from monolith.streaming.journal import Positions
    from monolith.streaming.runner import Step
    from monolith.streaming.steps import StepReader
    from monolith.training.fitting import Epoch
    from monolith.training.sample_file import SampleFile

SCRATCH = "fit.tmp"

Seen = dict[str, dict[int, str]]  # feature -> id -> string


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fit",
        help="train epochs over bounded data and keep the best; `train` then goes on online from it",
        epilog="the job's section `fit` says data, validation part, metric and patience",
    )
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--from", dest="begin", metavar="TIME", help="only events from this time on (event time)")
    parser.add_argument("--until", metavar="TIME", help="only events before this time; `train` begins there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the scores after each epoch; leave the best state as the start of the job's run."""
    from monolith.commands.local_stream import Bar
    from monolith.commands.moments import between
    from monolith.config.load import load_job

    job = load_job(args.job, args.set)
    part = between(args.begin, args.until)
    from monolith.training.start import check_not_begun

    state = Path(job.state)
    check_not_begun(state)
    scratch = state / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a fit that was killed
    scratch.mkdir(parents=True)
    try:
        with Bar() as bar, ExitStack() as files:
            _fit(job, part, scratch, bar, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _fit(job: JobConfig, part: Between, scratch: Path, bar: Bar, files: ExitStack) -> None:
    from monolith.config.fit import LastPart
    from monolith.tables.kept_strings import KeptStrings
    from monolith.training.fitting import Fitter
    from monolith.training.start import About, write_start

    seen: Seen = {}
    train, validation, positions = _parts(job, part, scratch, bar, files, seen)
    print(f"{job.name}: {len(train):,} samples to train, {len(validation):,} to judge", flush=True)
    fitter = Fitter(job, train, validation, scratch / "best", bar)
    epochs: list[Epoch] = []
    for epoch in fitter.epochs():
        epochs.append(epoch)
        print(_line(epoch, job.fit.epochs, len(train)), flush=True)
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    if isinstance(job.fit.validation, LastPart):
        fitter.learn_validation()
    strings = KeptStrings(fitter.learner.features)
    strings.take(seen, fitter.learner.tables)
    about = About(f"monolith fit, epoch {best} of {len(epochs)} by {fitter.metric}", positions)
    write_start(Path(job.state), job, fitter.learner, about, strings)
    rows = ", ".join(f"{name} {len(table):,}" for name, table in fitter.learner.tables.items())
    print(f"epoch {best} is kept in {Path(job.state) / 'start'} (rows: {rows}); `monolith train` goes on from it")


def _parts(
    job: JobConfig, part: Between, scratch: Path, bar: Bar, files: ExitStack, seen: Seen
) -> tuple[SampleFile, SampleFile, Positions]:
    """Training and validation samples, and where a run begins that reads the same streams.

    Strings that are kept go into ``seen``: all of them, since only the last epoch knows which ids have rows.
    """
    from monolith.config.fit import OtherSamples
    from monolith.training.fitting import split
    from monolith.training.sample_file import SampleFile

    def new(name: str) -> SampleFile:
        return files.enter_context(SampleFile(scratch / name))

    samples = new("samples")
    positions = _read(_fitted(job), part, samples, bar, seen)
    if isinstance(job.fit.validation, OtherSamples):
        validation = new("validation")
        _read(_of_samples(job, job.fit.validation.url), part, validation, bar, {})
        return samples, validation, positions
    train, validation = new("train"), new("validation")
    split(samples, job.fit, job.seed, (train, validation))
    return train, validation, positions


def _fitted(job: JobConfig) -> JobConfig:
    """The job over the streams that are to be fitted."""
    from monolith.errors import ConfigError

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


def _read(job: JobConfig, part: Between, samples: SampleFile, bar: Bar, seen: Seen) -> Positions:
    """Append all samples of the job's streams, their strings to ``seen``; returns the offsets behind what was read."""
    from monolith.streaming.bounded import open_bounded
    from monolith.streaming.source import parse_url

    with open_bounded(job, between=part) as reader:
        for step in _steps(reader):
            samples.append(step.batch)
            for name, texts in step.strings.items():
                seen.setdefault(name, {}).update(texts)
            bar("reading", len(samples), len(samples) + (reader.progress().lag or 0))
        told = reader.progress()
    samples.finish()
    if dropped := told.dropped():
        print("left out: " + "; ".join(f"{what} {count:,}" for what, count in dropped.items()), flush=True)
    return {parse_url(getattr(job.input, name)).name: offsets for name, offsets in told.positions.items()}


def _steps(reader: StepReader) -> Iterator[Step]:
    while (step := reader.next(timeout_s=1.0)) is not None:
        yield step
        if step.ended:
            return


def _line(epoch: Epoch, most: int, samples: int) -> str:
    from monolith.commands.evaluate import scores_text

    scores = "; ".join(f"{task} {scores_text(result)}" for task, result in epoch.scores.items())
    rate = f"{samples / max(epoch.seconds, 1e-9):,.0f} samples/s"
    return f"epoch {epoch.number}/{most}  {scores}  {rate}{'  best' if epoch.is_best else ''}"
