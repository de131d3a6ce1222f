"""What it costs to keep a table's rows in a file: the same training on a table in memory and on one in a file, in turn.

    python bench/file_backed.py FOLDER [--rows N] [--dim N] [--batch N] [--turns N] [--only file]

FOLDER is on the disk to be measured. Both tables hold the same rows; a turn is 20 steps (observe, look up, apply
gradients by row-wise Adagrad) of one table, then the same of the other, which goes first alternating. Printed are ids a
second of each and the ratio file / memory with its quartiles, for ids that are drawn evenly (every row as likely, the
worst case) and by Zipf's law (as ids of people and things come).

The file is in the page cache as far as there is memory. For a table larger than memory give the process less of it, and
leave the table in memory out (one line):

    systemd-run --user --scope -p MemoryMax=1G -p MemorySwapMax=0
        python bench/file_backed.py FOLDER --rows 30000000 --only file
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from monolith.tables import Table, TableConfig, memory, optimizers

STEPS = 20  # of a turn
FILL = 100_000  # rows added in one call


def filled(rows: int, dim: int, where: memory.Memory) -> Table:
    """A table of ``rows`` rows."""
    config = TableConfig(name="user", dim=dim, optimizer=optimizers.RowWiseAdagrad(), memory=where)
    table = Table(config)
    for first in range(0, rows, FILL):
        table.observe(np.arange(first, min(first + FILL, rows)))
    return table


def batches(rng: np.random.Generator, rows: int, size: int, *, zipf: bool) -> list[np.ndarray]:
    """The ids of one turn's steps."""
    if not zipf:
        return [rng.integers(0, rows, size) for _ in range(STEPS)]
    spread = 0x9E3779B1  # popular rows do not lie side by side
    return [rng.zipf(1.2, size) * spread % rows for _ in range(STEPS)]


def seconds(table: Table, ids: list[np.ndarray], grads: np.ndarray) -> float:
    """How long the steps take."""
    start = time.perf_counter()
    for batch in ids:
        table.step(batch).apply_gradients(grads)
    return time.perf_counter() - start


def measure(tables: dict[str, Table], options: argparse.Namespace, *, zipf: bool) -> None:
    """Print one line for the tables."""
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((options.batch, options.dim)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in tables}
    for turn in range(options.turns + 1):
        ids = batches(rng, options.rows, options.batch, zipf=zipf)
        for name in list(tables)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(tables[name], ids, grads))
    for each in times.values():
        del each[0]  # the first turn warms up
    print(f"{'zipf' if zipf else 'even':5}", end="")
    for name, each in times.items():
        low, middle, high = np.quantile(STEPS * options.batch / np.array(each) / 1e6, [0.25, 0.5, 0.75])
        print(f"  {name} {middle:.2f} M ids/s ({low:.2f} to {high:.2f})", end="")
    if len(times) == 2:
        low, middle, high = np.quantile(np.array(times["memory"]) / np.array(times["file"]), [0.25, 0.5, 0.75])
        print(f"  file / memory {middle:.2f} ({low:.2f} to {high:.2f})", end="")
    print()


def main() -> None:
    """Fill the tables, then time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", choices=["file"])
    options = parser.parse_args()
    places: dict[str, memory.Memory] = {"memory": memory.Ram(), "file": memory.File(options.folder)}
    wanted = [options.only] if options.only else list(places)
    tables = {}
    for name in wanted:
        start = time.perf_counter()
        tables[name] = filled(options.rows, options.dim, places[name])
        print(f"{name}: {options.rows / (time.perf_counter() - start) / 1e6:.2f} M rows/s filled")
    for zipf in (False, True):
        measure(tables, options, zipf=zipf)
    print(f"major page faults: {resource.getrusage(resource.RUSAGE_SELF).ru_majflt}")


if __name__ == "__main__":
    main()
