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
    from monolith.streaming.steps import StepReader
    from monolith.training.fitting import Epoch
    from monolith.training.sample_file import SampleFile

SCRATCH = "fit.tmp"


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
    from monolith.commands.assembly import state_folder
    from monolith.disk import files_for, remedy
    from monolith.errors import UnavailableError
    from monolith.streaming.journal import held
    from monolith.training.start import check_not_begun

    with files_for(job.files):
        state = state_folder(job)
        with held(state / "journal"):  # a second process would read its samples into the same scratch folder
            check_not_begun(state)
            scratch = state / SCRATCH
            shutil.rmtree(scratch, ignore_errors=True)  # of a fit that was killed
            try:
                scratch.mkdir()
                with Bar() as bar, ExitStack() as files:
                    _fit(job, part, scratch, bar, files)
            except OSError as error:
                if error.errno is None:
                    raise
                raise UnavailableError(
                    f"cannot write samples and states of the fit to {scratch}: {error}; {remedy(error)}"
                ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _fit(job: JobConfig, part: Between, scratch: Path, bar: Bar, files: ExitStack) -> None:
    from monolith.config.fit import LastPart
    from monolith.training.fitting import Fitter
    from monolith.training.start import About, write_start

    train, validation, positions = _parts(job, part, scratch, bar, files)
    print(f"{job.name}: {len(train):,} samples to train, {len(validation):,} to judge", flush=True)
    fitter = Fitter(job, train, validation, scratch / "best", bar)
    epochs: list[Epoch] = []
    for epoch in fitter.epochs():
        epochs.append(epoch)
        print(_line(epoch, job.fit.epochs, len(train)), flush=True)
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    if isinstance(job.fit.validation, LastPart):
        fitter.learn_validation()
    about = About(f"monolith fit, epoch {best} of {len(epochs)} by {fitter.metric}", positions)
    write_start(Path(job.state), job, fitter.learner, about)
    rows = ", ".join(f"{name} {len(table):,}" for name, table in fitter.learner.tables.items())
    print(f"epoch {best} is kept in {Path(job.state) / 'start'} (rows: {rows}); `monolith train` goes on from it")


def _parts(
    job: JobConfig, part: Between, scratch: Path, bar: Bar, files: ExitStack
) -> tuple[SampleFile, SampleFile, Positions]:
    """Training and validation samples, and where a run begins that reads the same streams."""
    from monolith.config.fit import OtherSamples
    from monolith.training.fitting import split
    from monolith.training.sample_file import SampleFile

    def new(name: str) -> SampleFile:
        return files.enter_context(SampleFile(scratch / name))

    samples = new("samples")
    positions = _read(_fitted(job), part, samples, bar)
    if isinstance(job.fit.validation, OtherSamples):
        validation = new("validation")
        _read(_of_samples(job, job.fit.validation.url), part, validation, bar)
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


def _read(job: JobConfig, part: Between, samples: SampleFile, bar: Bar) -> Positions:
    """Append all samples of the job's streams; returns the offsets behind what was read."""
    from monolith.streaming.bounded import open_bounded
    from monolith.streaming.source import parse_url

    with open_bounded(job, between=part) as reader:
        for batch in _batches(reader):
            samples.append(batch)
            bar("reading", len(samples), len(samples) + (reader.progress().lag or 0))
        told = reader.progress()
    samples.finish()
    if dropped := told.dropped():
        print("left out: " + "; ".join(f"{what} {count:,}" for what, count in dropped.items()), flush=True)
    return {parse_url(getattr(job.input, name)).name: offsets for name, offsets in told.positions.items()}


def _batches(reader: StepReader) -> Iterator[Any]:
    while (step := reader.next(timeout_s=1.0)) is not None:
        yield step.batch
        if step.ended:
            return


def _line(epoch: Epoch, most: int, samples: int) -> str:
    from monolith.commands.evaluate import scores_text

    scores = "; ".join(f"{task} {scores_text(result)}" for task, result in epoch.scores.items())
    rate = f"{samples / max(epoch.seconds, 1e-9):,.0f} samples/s"
    return f"epoch {epoch.number}/{most}  {scores}  {rate}{'  best' if epoch.is_best else ''}"
