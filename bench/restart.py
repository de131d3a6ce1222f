"""What a trainer's restart does with a table, and every other pass over all rows, beside reading the same bytes.

    python bench/restart.py [--rows N] [--repeats N] [--job] [--folder PATH] [--json PATH]

A table of dim 16 (row-wise Adagrad, rows that expire) is saved, and then each of these runs in turn, `--repeats` times:

  read         the saved file is read: what the others are compared with; it lies in the page cache
  checksum     the file's CRC-32, as a snapshot's manifest has it
  open         Table.open of the file
  save         Table.save of the opened table, flushed to the disk
  image        delta(0): all rows for a store or a replica
  apply        the image into an empty replica's table
  apply again  the image into a replica's table that holds it
  rows         all live rows, by ascending id
  policy       Table.open under a policy that the table did not have
  sweep        every row has expired, and one sweep removes all

Median seconds, rows a second, and the ratio of the time to that of reading, with its quartiles. With ``--job`` instead
a whole job is killed and started again (`restart_job.py`), with the rows spread over four tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from machine import machine
from restart_job import TABLES, measured_job

from monolith.tables import Table, TableConfig, eviction, expiry, optimizers

DIM, TTL_S, AT_ONCE = 16, 1000, 100_000


def main() -> None:
    """Measure, and print the table."""
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="restart-", dir=options.folder))
    try:
        report = (job if options.job else passes)(folder, options)
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def passes(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What each pass over one table took."""
    seconds = measured(folder, options.rows, options.repeats)
    report: dict[str, Any] = {"machine": machine(), "rows": options.rows, "dim": DIM, "passes": []}
    print(f"{options.rows:,} rows of dim {DIM}, {options.repeats} times in turn")
    for name, spent in seconds.items():
        ratios = np.array(spent) / np.array(seconds["read"])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        median = float(np.median(spent))
        print(
            f"  {name:12} {median:8.2f} s  {options.rows / median / 1e6:8.2f} M rows/s"
            f"  {middle:6.1f}x of reading ({low:.1f} to {high:.1f})"
        )
        report["passes"].append({"name": name, "seconds": spent})
    return report


def job(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a whole job took."""
    print(f"a job with {options.rows:,} rows in {len(TABLES)} tables, killed and started again {options.repeats} times")
    seconds = measured_job(folder, options.rows, options.repeats)
    for name, spent in sorted(seconds.items(), key=lambda each: np.median(each[1])):
        print(f"  {name:18} {np.median(spent):6.2f} s after the start ({min(spent):.2f} to {max(spent):.2f})")
    return {"machine": machine(), "rows": options.rows, "job": seconds}


def measured(folder: Path, rows: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each pass, once a repeat."""
    path = filled(rows).save(folder)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for _ in range(repeats):
        data = timed("read", path.read_bytes)
        timed("checksum", lambda data=data: zlib.crc32(data))
        del data
        table = timed("open", lambda: Table.open(folder))
        timed("save", lambda table=table: table.save(folder / "again"))
        table.cut()
        image = timed("image", lambda table=table: table.delta(0))
        replica = Table(config())
        for name in ("apply", "apply again"):
            timed(name, lambda replica=replica, image=image: replica.apply(image))
        del replica, image
        timed("rows", table.rows)
        other = config(eviction=eviction.LFU(max_rows=2 * rows))
        del table
        table = timed("policy", lambda other=other: Table.open(folder, other))
        table.advance((TTL_S + 3600) * 1000)
        timed("sweep", table.sweep)
        if len(table):
            raise AssertionError(f"{len(table)} rows are left after a sweep of everything")
        del table
    return seconds


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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", action="store_true", help="kill and restart a whole job instead")
    parser.add_argument("--folder", type=Path, help="where the table is written; at first the system's for such things")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
