"""``monolith replay JOB --journal DIR --state NEW``: repeat a live run, step by step, to the same bits.

The settings that decide bits are those of the journal, in each step those that it was made with; what else the job
says (streams, store, memory) is the job's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.training.snapshot import Snapshot


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("replay", help="repeat a live run from its step journal, to the same bits")
    parser.add_argument("job", type=Path, help="the job file that ran")
    parser.add_argument(
        "--journal", type=Path, help="the run's journal folder (default: that of the job's state folder)"
    )
    parser.add_argument("--state", type=Path, required=True, help="a new state folder for the replay")
    parser.add_argument(
        "--from",
        type=Path,
        dest="start",
        metavar="SNAPSHOT",
        help="begin behind this snapshot of the run (default: at step 1)",
    )
    parser.add_argument("--store", help="publish to this store as well (default: none)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print how far it came, and whether the run's own snapshot of that step, if there is one, has the same bits."""
    from monolith.config.load import load_job

    job = load_job(args.job, args.set)
    live_state = Path(job.state)
    journal = args.journal or live_state / "journal"
    if args.state.exists() and any(args.state.iterdir()):
        raise ConfigError(f"--state {args.state} is not empty; a replay starts from nothing, name a new folder")
    if not journal.is_dir():
        raise ConfigError(f"there is no journal in {journal}; give --journal, the folder `journal` of the run's state")
    overrides = [*args.set, f"state={args.state}", f"store={args.store or 'null'}"]
    from monolith.commands.assembly import run_eras
    from monolith.commands.compare import compare_snapshots, same_history
    from monolith.training.snapshot import open_snapshot

    start = open_snapshot(args.start) if args.start is not None else None
    trainer = run_eras(load_job(args.job, overrides), replay=journal, start=start)
    made = trainer.step - (start.manifest.step if start else 0)
    print(f"replayed {made} steps, sequence {trainer.sequence}, {trainer.metrics.samples} samples")
    mine, theirs = trainer.snapshots.path(trainer.step), live_state / "snapshots" / f"{trainer.step:012d}"
    if not theirs.is_dir():
        print(f"the run kept no snapshot of step {mine.name} in {theirs.parent}: nothing to compare with")
        return 0
    differences = compare_snapshots(mine, theirs)
    if differences:
        print("DIFFERS: " + "; ".join(differences))
        if reasons := _reasons_of_ranks(job, open_snapshot(theirs)):
            print(f"as is to be expected, for one process does not make the bits of this run: {'; '.join(reasons)}")
        return 1
    print("identical to the run's snapshot, bit by bit")
    if not same_history(mine, theirs):
        print(
            "but for its history: the run came to this state by other settings, which an older build did not journal, "
            "or without records that its streams had lost"
        )
    return 0


def _reasons_of_ranks(job: JobConfig, snapshot: Snapshot) -> list[str]:
    """Why one process does not make the bits of a run on several, if that is what ``snapshot`` is of."""
    import msgspec

    from monolith.config.eviction import Unlimited
    from monolith.training.snapshot import RANKS

    if RANKS not in snapshot.manifest.files:
        return []
    ranks, rules = msgspec.json.decode(snapshot.read(RANKS), type=int), job.sharding
    reasons = [f"{ranks} processes added gradients (sharding.exact: false)"] if ranks > 1 and not rules.exact else []
    if rules.wire != "float32":
        reasons.append(f"sharding.wire is {rules.wire}")
    limited = [table.name for table in job.tables if not isinstance(table.eviction, Unlimited)]
    return [*reasons, *(f"table {name!r} has a limit, by parts" for name in limited)]
