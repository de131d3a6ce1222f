"""``monolith inspect policy LOG``: what other admission, expiry and eviction rules would keep, cost and remove."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.commands.local_stream import Bar
    from monolith.whatif.comparison import Comparison, OpenReader
    from monolith.whatif.source import Input

DESCRIPTION = """Comparison a log through one table's rules, without a model, under several settings at once.

Each of --admission, --expiry and --vary may be given several times: all combinations are run in one pass. A value is
written as in the job file, or in short: always, min_count:3, 'min_count:{count: 5, half_life_s: 1d}', idle:7d. What is
not varied is as the job has it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on its parser."""
    from monolith.whatif.settings import policy_keys

    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "log", nargs="?", metavar="LOG",
        help="feature events or samples: log:// parquet:// kafka:// (up to its present end) or a log's folder; "
        "default: the job's own",
    )  # fmt: skip
    parser.add_argument("--job", type=Path, metavar="JOB.yaml", help="tables, features, joins and rules are this job's")
    parser.add_argument("--table", metavar="NAME", help="the table (default: the job's only one)")
    parser.add_argument("--feature", action="append", default=[], metavar="NAME", help="without --job: ids of these")
    parser.add_argument("--actions", metavar="URL", help="join with these actions (default: the job's)")
    parser.add_argument("--journal", type=Path, metavar="DIR", help="take the steps of a run of --job from its journal")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting of the job")
    for key in policy_keys():
        parser.add_argument(f"--{key}", action="append", default=[], metavar="RULE", help=f"run with this {key}")
    parser.add_argument(
        "--vary", action="append", default=[], metavar="KEY=VALUE", help="run with this value of any key of the table"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw hit rate against bytes")
    parser.add_argument("--json", action="store_true", help="print JSON, with every counter, instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what each setting came to."""
    from monolith.commands.local_stream import Bar
    from monolith.whatif.plot import Mark, write_svg
    from monolith.whatif.report import as_dict, hit_share, lines
    from monolith.whatif.settings import policy_keys

    if args.plot is not None and args.plot.suffix.lower() != ".svg":
        raise ConfigError(f"--plot {args.plot}: the plot is an SVG, name a file that ends in .svg")
    with Bar("record") as bar:
        found = _compare(args, bar)
    print(json.dumps(as_dict(found), indent=1) if args.json else "\n".join(lines(found, policy_keys())))
    if args.plot is not None:
        marks = [Mark(outcome.setting.label, outcome.bytes, hit_share(found, outcome)) for outcome in found.outcomes]
        write_svg(args.plot, f"table {found.table.name}: {found.lookups:,} look-ups, {len(marks)} settings", marks)
    return 0


def _compare(args: argparse.Namespace, bar: Bar) -> Comparison:
    from monolith.whatif.comparison import compare
    from monolith.whatif.settings import policy_keys, settings, vary_axes
    from monolith.whatif.source import pick_table

    given = _input(args)
    table = pick_table(given.job, args.table)
    axes = {key: texts for key in policy_keys() if (texts := getattr(args, key))}
    varied = vary_axes(args.vary)
    if twice := axes.keys() & varied.keys():
        raise ConfigError(f"--vary {min(twice)}=...: give its values by --{min(twice)} alone, or by --vary alone")
    found = settings(table, axes | varied)
    return compare(
        given.job,
        table,
        found,
        _opener(given, args.journal),
        publishes=args.journal is not None,
        progress=lambda done, total: bar("comparing", done, total, f"settings {len(found)}"),
    )


def _input(args: argparse.Namespace) -> Input:
    from monolith.config.load import load_job
    from monolith.whatif.source import with_job, without_job

    if args.job is not None:
        if args.feature:
            raise ConfigError(f"--feature {args.feature[0]}: with --job the features are those of the job's table")
        return with_job(load_job(args.job, args.set), args.log, args.actions)
    if args.log is None:
        raise ConfigError("give LOG, or --job for the job's own streams")
    for option in ("actions", "journal"):
        if (value := getattr(args, option)) is not None:
            raise ConfigError(f"--{option} {value} needs --job, which says how events are joined")
    return without_job(args.log, args.table, args.feature, args.set)


def _opener(given: Input, journal: Path | None) -> OpenReader:
    from monolith.streaming.bounded import open_bounded
    from monolith.whatif.source import open_recorded

    if journal is None:
        return lambda on_shown: open_bounded(given.job, unjoined=given.unjoined, on_shown=on_shown)
    return lambda on_shown: open_recorded(given, journal, on_shown)
