"""What a trainer's restart does with a table, and every other pass over all rows, beside reading the same bytes.

    python bench/restart.py [--part passes|job|both] [--rows N] [--repeats N] [--workers W] [--folder PATH]
                            [--json PATH] [--markdown PATH]

The part ``passes``: a table of dim 16 (row-wise Adagrad, rows that expire) is saved, and then each pass of `PASSES`
runs in turn, ``--repeats`` times: median seconds, rows a second, the ratio of the time to that of reading the table's
file, with its quartiles, and the most memory that the pass took beyond what was there before it, its result included.
The part ``job``: a whole job with as many rows is killed and started again (`restart_job.py`), or with ``--workers``
one process of several, and all start again (`restart_ranks.py`). Two million rows take some minutes, ten million a
quarter of an hour, 8 GiB of memory and 5 of disk.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from machine import machine
from restart_job import MILESTONES, TABLES, measured_job
from restart_ranks import measured_ranks, rank_lines
from restart_stores import snapshot_passes, store_passes

from monolith.tables import Table, TableConfig, eviction, expiry, optimizers

DIM, TTL_S, AT_ONCE = 16, 1000, 100_000
MIB = 2**20
PASSES = {
    "read": "the table's file is read; it lies in the page cache",
    "checksum": "its CRC-32, as a snapshot's manifest has it",
    "open": "`Table.open`",
    "save": "`Table.save`, flushed to the disk",
    "image": "`Table.delta(0)`: all rows for a store or a replica",
    "apply": "the image into an empty table",
    "apply again": "the image into a table that holds it",
    "rows": "`Table.rows`: all live rows by ascending id",
    "snapshot": "a snapshot is written: the table, checksums, flushes",
    "check": "every file of it against its manifest, as at each start",
    "inspect": "`monolith inspect SNAPSHOT`",
    "export": "`monolith export SNAPSHOT` to Parquet",
    "to LMDB": "the image into an LMDB store, on the disk at the end",
    "from LMDB": "the image out of it, every row checked",
    "replica": "the image into a replica's memory, which has every table twice",
    "parity": "every row of the store against the table's",
    "to Redis": "the image into a Redis server",
    "from Redis": "the image out of it, every row checked",
    "policy": "`Table.open` under a policy that the table did not have",
    "sweep": "all rows have expired, one sweep removes them",
}


@dataclass
class Spent:
    """What one pass took, once a repeat."""

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)  # at the most, beyond what was there before


def main() -> None:
    """Measure, print, and write what is asked for."""
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="restart-", dir=options.folder))
    report: dict[str, Any] = {"machine": machine(), "rows": options.rows, "repeats": options.repeats, "dim": DIM}
    lines: list[str] = []
    try:
        if options.part != "job":
            passes = measured(folder, options.rows, options.repeats)
            report["passes"] = {name: asdict(spent) for name, spent in passes.items()}
            lines += pass_lines(passes, options.rows)
        if options.part != "passes":
            lines += measured_lines(report, folder, options)
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("\n".join([*heading(report), *lines]) + "\n")


def measured_lines(report: dict[str, Any], folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Of the part ``job``, whose figures go into ``report``."""
    if options.workers > 1:
        report["ranks"] = measured_ranks(folder, options.rows, options.repeats, options.workers)
        yield from rank_lines(report["ranks"], options.workers)
    else:
        report["job"] = measured_job(folder, options.rows, options.repeats)
        yield from job_lines(report["job"])


def measured(folder: Path, rows: int, repeats: int) -> dict[str, Spent]:
    """Every pass, in the order of `PASSES`."""
    spent: dict[str, Spent] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        before = resident_mib("VmRSS", anew=True)
        start = time.perf_counter()
        result = work()
        of_pass = spent.setdefault(name, Spent())
        of_pass.seconds.append(time.perf_counter() - start)
        of_pass.mib.append(max(0.0, resident_mib("VmHWM") - before))
        return result

    path = filled(rows).save(folder)
    for _ in range(repeats):
        data = timed("read", path.read_bytes)
        timed("checksum", lambda data=data: zlib.crc32(data))
        del data
        table = timed("open", lambda: Table.open(folder))
        table_passes(timed, folder, table)
        snapshot_passes(timed, folder, table)
        store_passes(timed, folder, table)
        del table
        other = config(eviction=eviction.LFU(max_rows=2 * rows))
        table = timed("policy", lambda other=other: Table.open(folder, other))
        table.advance((TTL_S + 3600) * 1000)
        timed("sweep", table.sweep)
        if len(table):
            raise AssertionError(f"{len(table)} rows are left after a sweep of everything")
        del table
    return spent


def table_passes(timed: Callable[[str, Callable[[], Any]], Any], folder: Path, table: Table) -> None:
    """Those that need the table alone. Closes its sequence."""
    timed("save", lambda: table.save(folder / "again"))
    shutil.rmtree(folder / "again")
    table.cut()
    image = timed("image", lambda: table.delta(0))
    replica = Table(config())
    for name in ("apply", "apply again"):
        timed(name, partial(replica.apply, image))
    del replica, image
    timed("rows", table.rows)


def resident_mib(name: str, *, anew: bool = False) -> float:
    """Memory now (VmRSS) or at the most (VmHWM), which ``anew`` starts again. 0 where the system does not tell."""
    with suppress(OSError):
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def config(**settings: Any) -> TableConfig:
    """The table's, with some settings changed."""
    optimizer = optimizers.RowWiseAdagrad(lr=0.05)
    return TableConfig(name="ids", dim=DIM, optimizer=optimizer, expiry=expiry.Idle(ttl_s=TTL_S), **settings)


def filled(rows: int) -> Table:
    """A table of so many rows of ids that were drawn."""
    table, rng = Table(config()), np.random.default_rng(1)
    while (left := rows - len(table)) > 0:
        table.observe(rng.integers(-(2**62), 2**62, min(left, AT_ONCE)), event_time_ms=1000)
    return table


def pass_lines(passes: dict[str, Spent], rows: int) -> Iterator[str]:
    """The table of the passes."""
    yield f"## Passes over one table of {rows:,} rows\n"
    yield "| pass | what it is | seconds | M rows/s | times as long as reading | MiB more |"
    yield "| --- | --- | --: | --: | --: | --: |"
    for name, spent in passes.items():
        ratios = np.array(spent.seconds) / np.array(passes["read"].seconds)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        median = float(np.median(spent.seconds))
        figures = f"{median:.2f} | {rows / median / 1e6:.2f} | {middle:.1f} ({low:.1f} to {high:.1f})"
        yield f"| {name} | {PASSES[name]} | {figures} | {max(spent.mib):,.0f} |"


def job_lines(seconds: dict[str, list[float]]) -> Iterator[str]:
    """The table of the job's milestones."""
    yield f"\n## A job with as many rows in {len(TABLES)} tables, killed and started again\n"
    yield "| until | seconds: median | from | to |"
    yield "| --- | --: | --: | --: |"
    for name, what in MILESTONES.items():
        spent = seconds[name]
        yield f"| {what} | {np.median(spent):.1f} | {min(spent):.1f} | {max(spent):.1f} |"


def heading(report: dict[str, Any]) -> Iterator[str]:
    """What the page is, and on what machine it was measured."""
    on = report["machine"]
    yield "# How long a restart takes\n"
    yield f"Written by `python bench/restart.py --rows {report['rows']} --repeats {report['repeats']}` on"
    yield f"{datetime.now():%d %B %Y}: {on['processor']}, {on['cores']} cores, {on['memory_gib']} GiB, at a load of"
    yield f"{on['load_1min']} by other programs. Medians; in brackets the quartiles. The last column is the most memory"
    yield "that a pass took beyond what was there before it, its result included.\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("passes", "job", "both"), default="both")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of the part `job`, of which one is killed")
    parser.add_argument("--folder", type=Path, help="where everything is written; default: the system's")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--markdown", type=Path, help="write a page to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
