"""``monolith optembed JOB --bytes N``: which rows and columns a job's tables need, within a number of bytes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from monolith.commands.local_stream import Bar
    from monolith.optembed.compression import Options
    from monolith.optembed.outcome import Outcome
    from monolith.optembed.stages import Asked


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "optembed",
        help="find the rows and columns that tables need within N bytes, and train what is left anew",
        epilog="tables of `kind: optembed` are searched; the same command goes on after an interruption",
    )
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument(
        "--bytes", type=_count, required=True, metavar="N", help="all searched tables together, at most"
    )
    parser.add_argument("--dir", type=Path, default=Path("build/optembed"), help="folder of all stages and results")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--from", dest="begin", metavar="TIME", help="only events from this time on (event time)")
    parser.add_argument("--until", metavar="TIME", help="only events before this time")
    parser.add_argument("--generations", type=_count, default=30, metavar="N", help="of the search (default: 30)")
    parser.add_argument("--population", type=_count, default=20, metavar="N", help="of a generation (default: 20)")
    parser.add_argument(
        "--search-samples", type=_count, metavar="N", help="judge candidates by the first N of the validation part"
    )
    parser.add_argument("--alpha", type=_rate, default=1e-4, help="how much thresholds are pulled up (default: 1e-4)")
    parser.add_argument("--threshold-lr", type=_rate, default=1e-2, help="rate of the thresholds (default: 1e-2)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no finite number of at least 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Do what is missing of the stages; print and draw what came of them."""
    from monolith.commands.moments import between
    from monolith.config.load import load_job
    from monolith.optembed.compression import Options
    from monolith.optembed.stages import Asked

    asked = Asked(args.job, args.set, load_job(args.job, args.set), between(args.begin, args.until), args.dir)
    options = Options(args.bytes, args.alpha, args.threshold_lr, args.generations, args.population, args.search_samples)
    outcome = _done(asked, options, _to_stderr if args.json else _to_stdout)
    if args.json:
        import msgspec

        print(json.dumps(msgspec.to_builtins(outcome), indent=1))
        return 0
    _print(asked, options, outcome)
    return 0


def _done(asked: Asked, options: Options, say: Callable[[str], None]) -> Outcome:
    from monolith.commands.fit import tell_left_out
    from monolith.commands.local_stream import Bar
    from monolith.growing import alone
    from monolith.optembed.stages import WRITES, Stages
    from monolith.sweep.readings import Readings

    with Bar() as bar:
        stages = Stages(asked, options, _units(bar), say)
        with alone(asked.folder, WRITES):
            stages.check_plan()
            readings = Readings(asked.folder, asked.part, bar, lambda read: tell_left_out(read, sys.stderr))
            try:
                return stages.run(readings.of(asked.job))
            except KeyboardInterrupt:
                print("stopped; the same command goes on", file=sys.stderr, flush=True)
                raise


def _units(bar: Bar) -> Callable[[str, int, int], None]:
    """The bar; the search counts in candidates."""

    def tell(label: str, done: int, total: int) -> None:
        bar.unit = "candidate" if label == "search" else "sample"
        bar(label, done, total)

    return tell


def _to_stdout(line: str) -> None:
    print(line, flush=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(asked: Asked, options: Options, outcome: Outcome) -> None:
    from monolith.optembed.report import lines

    folder = asked.folder / f"bytes-{options.max_bytes}"
    print("\n".join(lines(outcome)))
    print(_drawn(asked, folder, outcome.metric))
    print(f"to serve it: monolith train {folder / 'serving.yaml'}")
    print(f"to go on online: monolith train {folder / 'online.yaml'}")


def _drawn(asked: Asked, folder: Path, metric: str) -> str:
    """Draw the search; say where it is, or why there is no picture."""
    from monolith.optembed.report import draw
    from monolith.optembed.search import LOG, read_log

    picture = folder / "search.png"
    try:
        draw(picture, read_log(folder / LOG), metric, f"{asked.job_file}: {metric} of the validation part")
    except ImportError as error:
        return f"no picture: {error}; pip install 'monolith-recsys[bench]'"
    return f"written: {picture}, {folder / LOG}"
