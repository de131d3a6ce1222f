"""A training step of a collection of several tables on one thread and on more, in turn.

    python bench/threads.py [--threads N] [--ids N] [--rows N] [--repeats N] [--json PATH]

What a step gains by threads depends on how its ids are spread over the tables: they may all be in one, in some of one
size, or mostly in one beside small ones. Each line has the median milliseconds of forward and backward together on one
thread and on N (2 by default), the ratio (above 1: N threads are faster) with the quartiles of the ratios of runs that
came one after the other, and the same for a look-up. Row-wise Adagrad, dim 16, float32, one id a bag in the smallest
tables and as many more in larger ones; tables have rows in proportion to their ids. The two take turns at being first,
and each step has ids of its own.

Where other programs want the cores, threads wait for them. So each line ends with the ratio of the least times that
either number of threads took, in which others had the smallest part; the last line says how many programs there were.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from machine import machine

from monolith.tables import Table, TableConfig, optimizers, set_threads
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output

DIM = 16
WARM_UP = 2  # repeats
CASES = {  # the share of the ids that each table has
    "1 table": [1.0],
    "2 tables": [0.5, 0.5],
    "3 tables": [1 / 3] * 3,
    "8 tables": [1 / 8] * 8,
    "26 tables": [1 / 26] * 26,
    "1 large, 1 small": [0.9, 0.1],
    "1 large, 7 small": [0.79] + [0.03] * 7,
}


def main() -> None:
    """Time each collection, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ids", type=int, default=160_000, help="ids a step, in all tables")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows, in all tables")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), **vars(options), "cases": {}}
    print(f"{options.ids:,} ids a step, {options.rows:,} rows, ms on 1 and on {options.threads} threads")
    for name, shares in CASES.items():
        seconds = timed(Gathering(shares, options.rows, options.ids), options.threads, options.repeats)
        report["cases"][name] = {what: figures(seconds[:, :, n]) for n, what in enumerate(("step", "look-up"))}
        print(f"  {name:<18}{line(report['cases'][name])}", flush=True)
    print(f"programs that wanted a core in the last minute: {machine()['load_1min']} of {report['machine']['cores']}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


class Gathering:
    """A collection, each of its tables with a share of the rows and of a step's ids."""

    def __init__(self, shares: list[float], rows: int, ids: int) -> None:
        self.rng = np.random.default_rng(0)
        self.ids = [round(ids * share) for share in shares]
        self.rows = [round(rows * share) for share in shares]
        names = [f"table{n}" for n in range(len(shares))]
        rule = optimizers.RowWiseAdagrad(lr=0.05)
        tables = {name: Table(TableConfig(name=name, dim=DIM, optimizer=rule)) for name in names}
        for table, count in zip(tables.values(), self.rows, strict=True):
            table.observe(np.arange(count))
        self.collection = Collection(tables, [Output(name, name, name) for name in names])

    def run(self) -> tuple[float, float]:
        """Seconds of a step, and of a look-up."""
        samples = min(self.ids)
        bags = []
        for rows, ids in zip(self.rows, self.ids, strict=True):
            lengths = np.full(samples, ids // samples, np.int32)
            bags.append(Bag(self.rng.integers(0, rows, int(lengths.sum())), lengths))
        grads: list[Any] = [np.full((samples, DIM), 1e-3, np.float32) for _ in bags]
        start = time.perf_counter()
        self.collection.forward(bags, 1).apply_gradients(grads)
        middle = time.perf_counter()
        self.collection.lookup(bags)
        return middle - start, time.perf_counter() - middle


def timed(gathering: Gathering, threads: int, repeats: int) -> np.ndarray:
    """Seconds, (repeats, 2 numbers of threads, 2: step and look-up)."""
    times = np.zeros((repeats + WARM_UP, 2, 2))
    for repeat in range(repeats + WARM_UP):
        for which in (0, 1) if repeat % 2 else (1, 0):
            set_threads((1, threads)[which])
            gathering.run()  # the first call makes the threads
            times[repeat, which] = gathering.run()
    set_threads(1)
    return times[WARM_UP:]


def figures(times: np.ndarray) -> dict[str, Any]:
    """Medians and ratios, from (repeats, 2) seconds."""
    low, ratio, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    one, more = np.median(times, axis=0) * 1e3
    least, least_of_more = times.min(axis=0)
    return {
        "ms": float(one),
        "ms_on_threads": float(more),
        "ratio": float(ratio),
        "quartiles": [float(low), float(high)],
        "ratio_of_least": float(least / least_of_more),
    }


def line(case: dict[str, dict[str, Any]]) -> str:
    """One collection's figures."""
    return "   ".join(
        f"{what} {of['ms']:6.1f} {of['ms_on_threads']:6.1f}   {of['ratio']:.2f}x "
        f"({of['quartiles'][0]:.2f}-{of['quartiles'][1]:.2f}), least {of['ratio_of_least']:.2f}x"
        for what, of in case.items()
    )


if __name__ == "__main__":
    main()
