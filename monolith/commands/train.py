"""``monolith train JOB``: the training daemon."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monolith.commands.progress import Progress, Starting
    from monolith.config import JobConfig


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train a job until its streams end, or until stopped")
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--quiet", action="store_true", help="no progress line and no last page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Go on where the state folder says; SIGTERM and SIGINT end with a snapshot, and exit 0."""
    from monolith.config.load import load_job

    job = load_job(args.job, args.set)  # before torch loads: a mistake in the job is told at once
    from monolith.commands.progress import Progress, Starting

    with (
        Starting(sys.stderr, "loading torch", enabled=not args.quiet) as starting,
        Progress(sys.stderr, enabled=not args.quiet) as progress,
    ):
        try:
            _train(job, starting, progress)
        finally:
            if progress.last is not None and not args.quiet:
                from monolith.commands.last_page import last_page

                print("\n".join(last_page(job, progress.last)), flush=True)
    return 0


def _train(job: JobConfig, starting: Starting, progress: Progress) -> None:
    from monolith.commands.assembly import open_trainer

    starting.doing = "opening streams and store, reading the newest snapshot, exporting the network"
    with open_trainer(job, observers=[lambda _: starting.end(), progress]) as trainer:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: trainer.stop())
        trainer.run()
