"""``monolith bench online``: what online learning is worth, on one stream, four ways, with a plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure against rivals and controls")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    online = benches.add_parser("online", help="the same model frozen, one pass, online and warm: AUC, GAUC, plot")
    online.add_argument("--data", choices=["ml-100k", "synthetic"], default="ml-100k")
    online.add_argument("--events", type=int, help="impressions (default: all of ml-100k, 100,000 synthetic ones)")
    online.add_argument("--job", type=Path, help="job file (default: the demo's for the data)")
    online.add_argument("--share", type=float, default=0.8, help="share of the stream that comes before the cut")
    online.add_argument("--dir", type=Path, default=Path("build/bench-online"), help="folder for logs and results")
    online.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    online.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; leave ``online.png`` and ``online.json`` in the folder."""
    from monolith.commands.local_stream import Bar, fresh_folder, local_sets, urls_of, write_stream
    from monolith.config.load import load_job
    from monolith.datasets.impressions import timeline
    from monolith.datasets.streams import JOBS, open_stream

    stream = open_stream(args.data, args.events)
    job = load_job(args.job or JOBS[args.data], [*local_sets(args.dir), *args.set])
    fresh_folder(args.dir)
    print(f"{stream.name}: {stream.count:,} impressions, {stream.origin}")
    write_stream(urls_of(job), timeline(stream.start()), sum(1 for _ in timeline(stream.start())))
    from monolith.datasets.online import compare, read_steps, split_at
    from monolith.datasets.online_report import as_dict, plot, table, with_best

    split = split_at(read_steps(job, args.dir / "journal"), stream.cut_ms(args.share))
    with Bar() as bar:
        comparison = compare(job, split, bar)
    if stream.generated:
        comparison = with_best(comparison, stream.probabilities(split.test_keys))
    print("\n".join(table(comparison)))
    plot(
        comparison,
        args.dir / "online.png",
        f"{stream.name}, {job.model.kind}: AUC after {args.share:.0%} of the stream",
    )
    (args.dir / "online.json").write_text(json.dumps(as_dict(comparison), indent=1) + "\n")
    print(f"written: {args.dir / 'online.png'}, {args.dir / 'online.json'}")
    return 0
