"""``monolith bench online``: what online learning is worth, on one stream, four ways, with a plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.datasets.online import Comparison

DEFAULT = "ml-100k"


def add_parser(benches: Any) -> None:
    """Declare the bench."""
    online = benches.add_parser("online", help="the same model frozen, one pass, online and warm: AUC, GAUC, plot")
    online.add_argument(
        "own", nargs="?", type=Path, metavar="JOB", help="a job of yours, on its own streams, which are only read"
    )
    online.add_argument(
        "--data", choices=[DEFAULT, "synthetic"], help=f"a known stream (default without JOB: {DEFAULT})"
    )
    online.add_argument("--events", type=int, help="impressions (default: all of ml-100k, 100,000 synthetic ones)")
    online.add_argument("--job", type=Path, help="job file for --data (default: the demo's)")
    online.add_argument("--share", type=float, default=0.8, help="share of the stream that comes before the cut")
    online.add_argument("--from", dest="begin", metavar="TIME", help="JOB: only events from this time on (event time)")
    online.add_argument("--until", metavar="TIME", help="JOB: only events before this time")
    online.add_argument("--dir", type=Path, default=Path("build/bench-online"), help="folder for logs and results")
    online.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    online.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; leave ``online.png`` and ``online.json`` in the folder."""
    if not 0 < args.share < 1:
        raise ConfigError(f"--share {args.share:g}: allowed is more than 0 and less than 1")
    if args.own is None and (args.begin or args.until):
        raise ConfigError("--from and --until cut the streams of a job of your own: give its file")
    return _run_named(args) if args.own is None else _run_own(args)


def _run_own(args: argparse.Namespace) -> int:
    """The job's own streams, up to their present ends; its state and its store are not touched."""
    for option in ("data", "events", "job"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} is for the known streams; {args.own} is compared on its own")
    from monolith.commands.local_stream import Bar, fresh_folder
    from monolith.commands.moments import between
    from monolith.config.load import load_job

    job = load_job(args.own, args.set)
    part = between(args.begin, args.until)
    from monolith.datasets.online import check_comparable, compare, cut_of, read_bounded, split_at
    from monolith.datasets.online_report import about_gauc

    check_comparable(job)
    fresh_folder(args.dir)
    with Bar() as bar:
        steps, dropped = read_bounded(job, part, bar)
        print(f"{job.name}: {sum(len(step.batch) for step in steps):,} samples of its own streams", flush=True)
        if dropped:
            print("left out: " + "; ".join(f"{what} {count:,}" for what, count in dropped.items()), flush=True)
        comparison = compare(job, split_at(steps, cut_of(steps, args.share)), bar)
    _tell(args, job, job.name, comparison)
    note = about_gauc(comparison, job.train.group_by, is_read=job.train.group_by in job.feature_names())
    if note is not None:
        print(note)
    return 0


def _run_named(args: argparse.Namespace) -> int:
    from monolith.commands.local_stream import Bar, fresh_folder, local_sets, urls_of, write_stream
    from monolith.config.load import load_job
    from monolith.datasets.impressions import timeline
    from monolith.datasets.streams import JOBS, open_stream

    data = args.data or DEFAULT
    stream = open_stream(data, args.events)
    job = load_job(args.job or JOBS[data], [*local_sets(args.dir), *args.set])
    fresh_folder(args.dir)
    print(f"{stream.name}: {stream.count:,} impressions, {stream.origin}")
    write_stream(urls_of(job), timeline(stream.start()), sum(1 for _ in timeline(stream.start())))
    from monolith.datasets.online import compare, read_steps, split_at
    from monolith.datasets.online_report import with_best

    split = split_at(read_steps(job, args.dir / "journal"), stream.cut_ms(args.share))
    with Bar() as bar:
        comparison = compare(job, split, bar)
    if stream.generated:
        comparison = with_best(comparison, stream.probabilities(split.test_keys))
    _tell(args, job, stream.name, comparison)
    return 0


def _tell(args: argparse.Namespace, job: JobConfig, name: str, comparison: Comparison) -> None:
    from monolith.datasets.online_report import as_dict, plot, table

    print("\n".join(table(comparison)))
    plot(comparison, args.dir / "online.png", f"{name}, {job.model.kind}: AUC after {args.share:.0%} of the stream")
    (args.dir / "online.json").write_text(json.dumps(as_dict(comparison), indent=1) + "\n")
    print(f"written: {args.dir / 'online.png'}, {args.dir / 'online.json'}")
