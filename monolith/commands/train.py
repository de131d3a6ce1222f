"""``monolith train JOB``: the training daemon."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.commands.ranks import MAX_RESTARTS, is_launched, is_stop_meant, run_rank, run_workers
from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.commands.progress import Progress, Starting
    from monolith.config import JobConfig
    from monolith.training.sharding.orders import Channel
    from monolith.training.trainer import Trainer


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train a job until its streams end, or until stopped")
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--quiet", action="store_true", help="no progress line and no last page")
    parser.add_argument(
        "--dashboard",
        metavar="[HOST:]PORT",
        help="serve a live page, /metrics (Prometheus) and /health; without HOST to this machine alone",
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write the curves for TensorBoard too")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="SNAPSHOT",
        help="begin with what fits of another run's model: its snapshot's folder, or its state folder (the newest)",
    )
    parser.add_argument(
        "--from-beginning",
        action="store_true",
        help="with --from: read the streams from their beginnings, not from where that run stood",
    )
    parser.add_argument(
        "--workers", type=int, metavar="W", help="train on W processes of this machine, under torchrun; see sharding.md"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        metavar="N",
        help=f"with --workers: start all again so many times when one of them ends with an error ({MAX_RESTARTS})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Go on where the state folder says; SIGTERM and SIGINT end with a snapshot, and exit 0."""
    from monolith.config.load import load_job

    job = load_job(args.job, args.set)  # before torch loads: a mistake in the job is told at once
    if args.from_beginning and args.source is None:
        raise ConfigError("--from-beginning says where a run begins that starts --from another run's model: give that")
    _check_workers(args.workers, args.max_restarts)
    if args.workers is not None:
        return run_workers(job, args)
    if is_launched():
        return run_rank(job, partial(_run, job, args))
    _run(job, args)
    return 0


def _check_workers(workers: int | None, max_restarts: int | None) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: give the number of processes, 1 or more")
    if workers is not None and is_launched():
        raise ConfigError(
            "--workers starts torchrun, which has started this process: give --nproc-per-node to torchrun"
        )
    if max_restarts is not None and workers is None:
        raise ConfigError("--max-restarts belongs to --workers: give that too, or give it to torchrun")
    if max_restarts is not None and max_restarts < 0:
        raise ConfigError(f"--max-restarts {max_restarts}: give how often all may start again, 0 or more")


def _run(job: JobConfig, args: argparse.Namespace, channel: Channel | None = None) -> None:
    """Train; with a ``channel`` as rank 0 of several processes."""
    from monolith.commands.progress import Progress, Starting

    shows = not args.quiet
    with Starting(sys.stderr, "loading torch", enabled=shows) as starting, Progress(sys.stderr, enabled=shows) as bar:
        try:
            _train(job, args, channel, starting, bar)
        finally:
            if bar.last is not None and shows:
                from monolith.commands.last_page import last_page

                print("\n".join(last_page(job, bar.last)), flush=True)


def _train(
    job: JobConfig, args: argparse.Namespace, channel: Channel | None, starting: Starting, bar: Progress
) -> None:
    from monolith.commands.assembly import run_eras
    from monolith.dashboard.observers import observing

    if args.source is not None:
        starting.doing = f"reading {args.source}"
        _begin(job, args.source, from_beginning=args.from_beginning, shows=not args.quiet)
    starting.doing = "opening streams and store, reading the newest snapshot, exporting the network"
    with observing(job, args.dashboard, args.tensorboard) as observers:
        run_eras(
            job,
            (_Stoppable() if channel is None else _Stoppable(is_stop_meant)).run,
            observers=[lambda _: starting.end(), bar, *observers],
            **({} if channel is None else _leading(channel)),
        )


def _leading(channel: Channel) -> dict[str, Any]:
    """How `run_eras` makes what all ranks have a hand in."""
    from monolith.training.sharding.reading import Leading

    leading = Leading(channel)
    return {"new_learner": leading.new_learner, "open_steps": leading.open_steps}


def _begin(job: JobConfig, source: Path, *, from_beginning: bool, shows: bool) -> None:
    """Write what the run begins from, and say what was taken."""
    from monolith.config.references import check_late
    from monolith.disk import files_for
    from monolith.training.start import has_begun
    from monolith.training.warm_start import warm_start

    check_late(job, "input")
    goes_on = has_begun(Path(job.state))
    with files_for(job.files):
        about = warm_start(job, source, begin="beginning" if from_beginning else "kept")
    if shows and goes_on:
        print(f"{job.state} has begun {about.origin}; the run goes on", flush=True)
    elif shows:
        print("\n".join([f"begins {about.origin}", *(f"  {one}" for one in about.report)]), flush=True)


class _Stoppable:
    """Hands SIGTERM and SIGINT to the trainer that runs, from when the first one does until the process ends."""

    def __init__(self, is_meant: Callable[[], bool] = lambda: True) -> None:
        """``is_meant`` says, when a signal comes, whether it asks for the end of the run."""
        self._is_meant = is_meant
        self._trainer: Trainer | None = None
        self._told = False

    def run(self, trainer: Trainer) -> None:
        """Run it until it ends, or one of the signals comes; one that came while no trainer ran counts too."""
        self._trainer = trainer
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if self._told:
            trainer.stop()
        try:
            trainer.run()
        finally:
            self._trainer = None  # signals may come until the process ends, and need no trainer by then

    def _stop(self, *_: object) -> None:
        if not self._is_meant():
            return
        self._told = True
        if self._trainer is not None:
            self._trainer.stop()
