"""``monolith sweep JOB --set a=1,2,3``: fits with other settings and seeds, in parallel, compared by one metric."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from monolith.commands.local_stream import Bar
    from monolith.streaming.between import Between
    from monolith.sweep.report import Row
    from monolith.sweep.space import Space
    from monolith.sweep.sweep import Sweep
    from monolith.sweep.trials import Trial


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sweep",
        help="fit a job with several settings and seeds, in parallel, and compare them",
        epilog="a comma separates values, outside brackets, braces and quotes; `*` stands for every element: "
        "--set 'tables.*.optimizer.lr=0.01,0.1' --set model.hidden=[64],[128,64]",
    )
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c,d",
        help="values of a setting; one value: all trials have it",
    )
    parser.add_argument("--seeds", type=_count, default=1, metavar="N", help="run all with N seeds (default: 1)")
    parser.add_argument("--random", action="store_true", help="draw --trials combinations, also from LOW..HIGH[:log]")
    parser.add_argument("--trials", type=_count, metavar="N", help="how many combinations --random draws")
    parser.add_argument(
        "--halving", action="store_true", help="after 1, 2, 4, ... epochs, go on with the better half only"
    )
    parser.add_argument("--workers", type=_count, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--from", dest="begin", metavar="TIME", help="only events from this time on (event time)")
    parser.add_argument("--until", metavar="TIME", help="only events before this time")
    parser.add_argument("--dir", type=Path, default=Path("build/sweep"), help="folder for samples, states and results")
    parser.add_argument(
        "--keep", type=_count, metavar="N", help="keep the states of the best N combinations only (default: all)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="the picture (default: DIR/sweep.png)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Do the trials that are not done yet, then print the table and draw the picture."""
    from monolith.commands.moments import between
    from monolith.sweep.space import space_of

    space = space_of(args.set)
    part = between(args.begin, args.until)
    trials = _trials(args, space, part)
    from monolith.commands.fit import tell_left_out
    from monolith.commands.local_stream import Bar
    from monolith.sweep.readings import Readings
    from monolith.sweep.sweep import Sweep
    from monolith.sweep.trials import Ledger

    say = _to_stderr if args.json else _to_stdout
    with Ledger(args.dir) as ledger, Bar() as bar:
        readings = Readings(args.dir, part, _of(bar, "sample"), lambda read: tell_left_out(read, sys.stderr))
        sweep = Sweep(trials, ledger, readings, halves=args.halving, keep=args.keep, say=say)
        try:
            sweep.run(args.workers, _of(bar, "trial"))
        except KeyboardInterrupt:
            print(f"stopped with {sweep.told()}; the same command goes on", file=sys.stderr, flush=True)
            raise
    return _finish(args, space, sweep)


def _of(bar: Bar, unit: str) -> Callable[..., None]:
    """The bar, counting in ``unit``s."""

    def tell(label: str, done: int, total: int, note: str = "") -> None:
        bar.unit = unit
        bar(label, done, total, note)

    return tell


def _to_stdout(line: str) -> None:
    print(line, flush=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _trials(args: argparse.Namespace, space: Space, part: Between) -> list[list[Trial]]:
    """All trials. Whatever is wrong with any of them is refused here."""
    from monolith.config.load import load_job

    if args.random != (args.trials is not None):
        raise ConfigError("--random and --trials N go together: N combinations are drawn")
    base = load_job(args.job, space.fixed)
    settings = space.drawn(args.trials, base.seed) if args.random else space.grid()
    from monolith.sweep.trials import trials_of

    return trials_of(args.job, space, settings, args.seeds, args.dir, part)


def _finish(args: argparse.Namespace, space: Space, sweep: Sweep) -> int:
    """Print and draw what came of the trials. Raises InputError where none has a score."""
    from monolith.sweep.report import as_dict, table

    rows = sweep.rows()
    if not rows[0].outcomes:
        raise InputError(f"every trial failed, the first one with: {rows[0].failed[0].error}")
    if args.json:
        print(json.dumps(as_dict(rows, sweep.metric), indent=1))
    else:
        print(f"by {sweep.metric} of the validation part, best first; the mean over seeds")
        print("\n".join(table(rows, sweep.metric)))
    print(_drawn(args, rows, sweep.metric), file=sys.stderr if args.json else sys.stdout)
    best = rows[0].best
    if not args.json and best.state is not None and Path(best.state).exists():
        options = [*space.fixed, *rows[0].settings, f"seed={best.seed}", f"state={best.state}"]
        words = " ".join(f"--set {shlex.quote(option)}" for option in options)
        print(f"online from the best: monolith train {shlex.quote(str(args.job))} {words}")
    return 0


def _drawn(args: argparse.Namespace, rows: Sequence[Row], metric: str) -> str:
    """Draw the picture; say where it is, or why there is none."""
    from monolith.sweep.report import draw

    picture = args.plot or args.dir / "sweep.png"
    try:
        draw(picture, rows, metric, f"{args.job}: {metric} of the validation part")
    except ImportError as error:
        return f"no picture: {error}; pip install 'monolith-recsys[sweep]'"
    return f"written: {picture}, {args.dir / 'trials.jsonl'}"
