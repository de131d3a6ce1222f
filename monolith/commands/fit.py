"""``monolith fit JOB``: epochs over bounded data, with early stopping; ``monolith train`` goes on from the best."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from monolith.commands.local_stream import Bar
    from monolith.config import JobConfig
    from monolith.streaming.between import Between
    from monolith.streaming.journal import Positions
    from monolith.training.fit_input import SamplesRead, Seen
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


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what runs meanwhile as an exception does, so that nothing is left behind."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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

    with files_for(job.files), _unwound_by_sigterm():
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
    from monolith.training.fitting import Fitter, write_fitted

    seen: Seen = {}
    train, validation, positions = _parts(job, part, scratch, bar, files, seen)
    print(f"{job.name}: {len(train):,} samples to train, {len(validation):,} to judge", flush=True)
    fitter = Fitter(job, train, validation, scratch / "best", bar)
    epochs: list[Epoch] = []
    for epoch in fitter.epochs():
        epochs.append(epoch)
        print(_line(epoch, job.fit.epochs, len(train)), flush=True)
    best = write_fitted(fitter, epochs, positions, seen)
    rows = ", ".join(f"{name} {len(table):,}" for name, table in fitter.learner.tables.items())
    print(f"epoch {best} is kept in {Path(job.state) / 'start'} (rows: {rows}); `monolith train` goes on from it")


def _parts(
    job: JobConfig, part: Between, scratch: Path, bar: Bar, files: ExitStack, seen: Seen
) -> tuple[SampleFile, SampleFile, Positions]:
    """Training and validation samples, and where a run begins that reads the same streams.

    Strings that are kept go into ``seen``: all of them, since only the last epoch knows which ids have rows.
    """
    from monolith.training.fit_input import read_judged, read_samples
    from monolith.training.sample_file import SampleFile

    samples, train, validation = (
        files.enter_context(SampleFile(scratch / name)) for name in ("samples", "train", "validation")
    )
    read = read_samples(job, part, samples, bar, seen)
    tell_left_out(read)
    if (judged := read_judged(job, part, samples, (train, validation), bar)) is not None:
        tell_left_out(judged)
        return samples, validation, read.positions
    return train, validation, read.positions


def tell_left_out(read: SamplesRead, to: TextIO | None = None) -> None:
    """Say what became no sample, and why; ``to`` standard output where nothing else is given."""
    if read.dropped:
        text = "; ".join(f"{what} {count:,}" for what, count in read.dropped.items())
        print(f"left out: {text}", file=to, flush=True)


def _line(epoch: Epoch, most: int, samples: int) -> str:
    from monolith.commands.evaluate import scores_text

    scores = "; ".join(f"{task} {scores_text(result)}" for task, result in epoch.scores.items())
    rate = f"{samples / max(epoch.seconds, 1e-9):,.0f} samples/s"
    return f"epoch {epoch.number}/{most}  {scores}  {rate}{'  best' if epoch.is_best else ''}"
