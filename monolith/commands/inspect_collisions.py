"""``monolith inspect collisions LOG``: which ids of a log share rows in a table with a fixed number of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.commands.local_stream import Bar
    from monolith.config import TableConfig
    from monolith.tables.collisions import FeatureCollisions, SeenIds
    from monolith.whatif.source import Input

DESCRIPTION = """How often ids of a log share rows in a hashed, qr or unified table, and with ids of which feature.

Ids of one feature in a row (intra) cannot be told apart there; ids of two features (inter) mostly can. Nothing is
trained: rows are found by hashes of the ids alone. See docs/embeddings.md."""

_HEADS = (
    "feature",
    "ids",
    "occurrences",
    "probes",
    "rows read",
    "expected",
    "evenness p",
    "intra",
    "inter",
    "one vector",
)
_LEGEND = (
    "rows read, expected: different rows that the ids read, and how many they would if each row were as likely;",
    "  evenness p: how often chance alone spreads ids as unevenly (below 0.0001: the ids' hashes are at fault).",
    "intra, inter: share of reads whose row another id of the same, or of another feature reads / by occurrences.",
    "one vector: share of ids that read just the rows of another id of their feature.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on its parser."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "log", nargs="?", metavar="LOG",
        help="feature events or samples: log:// parquet:// kafka:// (up to its present end) or a log's folder; "
        "default: the job's own",
    )  # fmt: skip
    parser.add_argument(
        "--job", type=Path, metavar="JOB.yaml", required=True, help="tables and features are this job's"
    )
    parser.add_argument("--table", metavar="NAME", help="the table (default: the job's only one that shares rows)")
    parser.add_argument("--actions", metavar="URL", help="join with these actions (default: the job's)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting of the job")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is shared."""
    from monolith.commands.local_stream import Bar
    from monolith.config.load import load_job
    from monolith.tables.collisions import collisions
    from monolith.whatif.source import with_job

    given = with_job(load_job(args.job, args.set), args.log, args.actions)
    table = _pick(given.job.tables, args.table, given.job.name)
    with Bar("record") as bar:
        found = collisions(table, _seen(given, table, bar))
    if args.json:
        print(
            json.dumps({"table": table.name, "features": {name: asdict(one) for name, one in found.items()}}, indent=1)
        )
    else:
        print("\n".join(_lines(table, found)))
    return 0


def _pick(tables: list[TableConfig], name: str | None, job: str) -> TableConfig:
    from monolith.config.document import nearest
    from monolith.config.kinds import SHARES_ROWS

    shared = {table.name: table for table in tables if table.kind in SHARES_ROWS}
    names = ", ".join(shared)
    if not shared:
        raise ConfigError(f"job {job!r} has no table whose ids share rows: of kind hashed, qr or unified")
    if name is None and len(shared) > 1:
        raise ConfigError(f"which table of job {job!r}? Give --table: {names}")
    if name is not None and name not in shared:
        text = (
            "has a row for each id"
            if name in [t.name for t in tables]
            else f"is none of the job's{nearest(name, list(shared))}"
        )
        raise ConfigError(f"--table {name} {text}; tables whose ids share rows: {names}")
    return shared[name or names]


def _seen(given: Input, table: TableConfig, bar: Bar) -> dict[str, SeenIds]:
    from monolith.streaming.bounded import open_bounded
    from monolith.tables.collisions import SeenIds

    seen = {name: SeenIds() for name in table.feature_names()}
    with open_bounded(given.job, unjoined=given.unjoined) as reader:
        number, done, total, ended = 0, 0, 0, False
        while not ended:
            step = reader.next(timeout_s=0.1)
            if step is None:
                continue
            if step.number > number:  # else it only says that the streams are at their end
                for name, ids in seen.items():
                    ids.add(step.batch.bags[name].ids)
            number, done, ended = step.number, done + step.records, step.ended
            total = total or done + (reader.progress().lag or 0)
            bar("reading", done, max(done, total), "")
    return seen


def _lines(table: TableConfig, found: dict[str, FeatureCollisions]) -> list[str]:
    cells = [list(_HEADS), *(_cells(name, one) for name, one in found.items())]
    widths = [max(len(row[k]) for row in cells) for k in range(len(_HEADS))]
    rows = [
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in cells
    ]
    from monolith.config.kinds import kind_of
    from monolith.tables.fixed import part_rows

    return [f"table {table.name}: {table.kind}, {sum(part_rows(kind_of(table))):,} rows", "", *rows, "", *_LEGEND]


def _cells(name: str, one: FeatureCollisions) -> list[str]:
    return [
        name,
        f"{one.ids:,}",
        f"{one.occurrences:,}",
        f"{one.probes}",
        f"{one.rows:,}",
        f"{one.expected_rows:,.0f}",
        "" if one.occupancy_p is None else f"{one.occupancy_p:.2g}",
        f"{one.intra:.1%} / {one.intra_occurrences:.1%}",
        f"{one.inter:.1%} / {one.inter_occurrences:.1%}",
        f"{one.alike:.1%}",
    ]
