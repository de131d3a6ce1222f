"""``monolith rollback JOB --to STEP|TIME``: serve an earlier version again, and go on training from there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.commands.inspect import moment, size
from monolith.commands.moments import moment_ms
from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.training.rollback import Kept
    from monolith.training.trainer import Trainer


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("rollback", help="serve an earlier version again, and go on training from there")
    parser.add_argument("job", type=Path, help="the job file (YAML), whose trainer is stopped")
    parser.add_argument(
        "--to",
        metavar="STEP|TIME",
        help="a kept snapshot's step, or a time (UTC): the newest that was written by then. Without it, list them",
    )
    parser.add_argument(
        "--from-now",
        action="store_true",
        help="go on at the streams' ends: what was written since the snapshot is not trained on again",
    )
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say what there is to go back to; or go back, publish, and say what became of the rest."""
    from monolith.config.load import load_job
    from monolith.training.rollback import check_no_rollback, is_under_way, kept

    job = load_job(args.job, args.set)
    state = Path(job.state)
    if is_under_way(state):
        if args.to is not None:
            check_no_rollback(state)
        print("going on with the rollback that was interrupted")
        return _roll_back(job, None, from_now=False)
    found = kept(state)
    if not found:
        raise ConfigError(f"{state} holds no snapshot to go back to; train.milestone_every_s keeps some for longer")
    if args.to is not None:
        chosen = _chosen(found, args.to)
        if job.store is not None and not chosen.sequence:
            raise ConfigError(
                f"step {chosen.step} is from before the first publish, so nothing of it can be served: go back to a "
                f"later one, or begin anew with another `state`"
            )
        return _roll_back(job, chosen.path, from_now=args.from_now)
    if args.from_now:
        raise ConfigError("--from-now says where a run goes on that goes back: give --to as well")
    print("\n".join(_lines(found)))
    return 0


def _chosen(found: list[Kept], to: str) -> Kept:
    if to.isdecimal():
        chosen = [one for one in found if one.step == int(to)]
        if len({(one.lineage, one.step) for one in chosen}) > 1:
            times = ", ".join(moment(one.written_ms) for one in chosen)
            raise ConfigError(f"--to {to}: the folder has that step of several runs; name a time: {times}")
    else:
        until_ms = moment_ms(to) + 999  # times are shown to the second
        chosen = [one for one in found if one.written_ms <= until_ms]
    if not chosen:
        first, last = found[0], found[-1]
        raise ConfigError(
            f"--to {to}: no snapshot is kept of that; the oldest is step {first.step} of {moment(first.written_ms)}, "
            f"the newest step {last.step} of {moment(last.written_ms)}"
        )
    return chosen[-1]


def _lines(found: list[Kept]) -> Iterator[str]:
    from monolith.disk import bytes_below

    yield f"{'step':>10}  {'sequence':>8}  {'written':<23}  {'streams read up to':<23}  {'size':>10}"
    for one in found:
        watermark = "unknown" if one.watermark_ms is None else moment(one.watermark_ms)
        kind = "  milestone" if one.is_milestone else ""
        yield (
            f"{one.step:>10,}  {one.sequence:>8,}  {moment(one.written_ms):<23}  {watermark:<23}  "
            f"{size(bytes_below(one.path)):>10}{kind}"
        )
    yield "go back with --to STEP, or --to TIME (the newest that was written by then)"


def _roll_back(job: JobConfig, to: Path | None, *, from_now: bool) -> int:
    from monolith.commands.assembly import run_eras
    from monolith.config.references import check_late
    from monolith.disk import files_for
    from monolith.training.rollback import resume, roll_back

    check_late(job, "input", "store")
    with files_for(job.files):
        if to is None:
            about, aside = resume(Path(job.state))
        else:
            about, aside = roll_back(job, to, begin="end" if from_now else "kept")
    print("\n".join([f"begins {about.origin}", *(f"  {one}" for one in about.report)]), flush=True)
    trainer = run_eras(job, _publish)
    print(f"what the run had made since is in {aside}; remove it when nobody wants it any more")
    if trainer.publisher is None:
        print("the job has no store; `monolith train` goes on from here")
        return 0
    if trainer.publisher.held_sequence < trainer.sequence:
        print("the store does not answer: it serves what it has until `monolith train` goes on from here")
        return 1
    print(f"the store has sequence {trainer.sequence} again; `monolith train` goes on from here")
    return 0


def _publish(trainer: Trainer) -> None:
    """What a trainer does that is stopped as it starts."""
    trainer.stop()
    trainer.run()
