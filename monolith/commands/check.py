"""``monolith check JOB``: what a job would do, said without doing it.

Only reads: no lock is taken that a running trainer would meet, nothing is written, no broker is told a position.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import MonolithError

if TYPE_CHECKING:
    from monolith.config import JobConfig

SAMPLE = 2_000  # records of each stream that are looked at


class Findings:
    """What was found: lines for people, warnings, and faults for which the job would not run."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.warnings: list[str] = []
        self.faults: list[str] = []

    def warn(self, text: str) -> None:
        """Something that is allowed, but hardly meant."""
        self.warnings.append(text)

    def fault(self, text: str) -> None:
        """Something for which the job would not run, or learn nothing."""
        self.faults.append(text)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("check", help="say what a job would do without running it; exit 1 if it would not")
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument(
        "--records", type=int, default=SAMPLE, help=f"records of each stream to look at (default: {SAMPLE:,})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print everything that is found; 1 where the job would not run."""
    from monolith.config.load import load_job

    job = load_job(args.job, args.set)
    found = Findings(lambda line: print(line, flush=True))
    check(job, found, records=args.records)
    for kind, texts in (("warning", found.warnings), ("fault", found.faults)):
        for text in texts:
            found.show(f"{kind}: {text}")
    if found.faults:
        found.show(f"the job would not run: {_counted(found.faults, 'fault')}")
        return 1
    found.show("the job would run" + (f"; {_counted(found.warnings, 'warning')}" if found.warnings else ""))
    return 0


def _counted(texts: list[str], word: str) -> str:
    return f"{len(texts)} {word}{'s' if len(texts) != 1 else ''}"


def check(job: JobConfig, found: Findings, *, records: int = SAMPLE) -> None:
    """Have ``found`` hold what there is to say about ``job``."""
    from monolith.commands.check_model import check_device, check_model
    from monolith.commands.check_state import check_state, check_store
    from monolith.commands.check_streams import check_streams
    from monolith.commands.check_tables import check_tables
    from monolith.config.advice import advice

    found.show(f"job {job.name}: {_model(job)}")
    for sentence in advice(job):
        found.warn(sentence)
    parts: tuple[Callable[[JobConfig, Findings], None], ...] = (
        check_device,
        check_model,
        check_tables,
        partial(check_streams, records=records),
        check_store,
        check_state,
    )
    for part in parts:
        try:
            part(job, found)
        except (MonolithError, OSError) as error:  # that nobody in there had more to say about
            found.fault(str(error))


def _model(job: JobConfig) -> str:
    tasks = ", ".join(f"{task.name} ({task.loss})" for task in job.labels)
    dense = [feature.name for feature in job.features if feature.name not in job.feature_names()]
    parts = [f"{job.model.kind} over {len(job.tables)} tables", f"learns {tasks}"]
    parts += [f"dense: {', '.join(dense)}"] if dense else []
    return "; ".join([*parts, *_rhythm(job)])


def _rhythm(job: JobConfig) -> Iterator[str]:
    train = job.train
    yield f"batches of {train.batch_size}, steps of {train.step_records} records"
    if job.store is not None:
        yield f"a delta every {train.publish_every_s:g} s, a snapshot every {train.snapshot_every_s:g} s"
    else:
        yield f"a snapshot every {train.snapshot_every_s:g} s, nothing published"
