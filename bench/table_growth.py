"""Does a growing table pause? Training steps from an empty table to millions of rows, each timed.

    python bench/table_growth.py [--rows N] [--rival-rows N] [--ids N] [--repeats N] [--json PATH]

Half of the ids of a step are new and half are drawn from those seen so far, as where users keep
coming; a step observes, reads and applies gradients (row-wise Adagrad, dim 16, one thread). Then the same ids again,
observed only. The rival does the same with what one would write without a table of this kind: a dict from id to row
number and float32 arrays that are copied to twice their size when they are full. That is a plain doubling hash table;
it stops at --rival-rows, since its pauses only get longer, and a dict of 20 million ids takes many minutes.

Printed are the median, the 99th percentile and the worst step, and worst / median with its range over the repeats. What
a table does in a step is the same in every repeat, what the machine does in between is not; so the figures of the
steps' least times over the repeats are printed too, by the clock and as processor time (the step's own thread, the
kernel's work for it included), and what the worst of these did: rows, index, pages that came. A huge page is two
megabytes to clear, and far more work where a hypervisor has to find the memory first: the first repeat pays for that.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from machine import machine

from monolith.tables import Table, TableConfig, optimizers

DIM, LR, EPS = 16, 0.05, 1e-8
RIVAL = "doubling"
FIRST = 1000  # rows before which nothing is counted: there a step is cheap and its worst is the clock's
Step = Callable[[np.ndarray, np.ndarray], None]


class Doubling:
    """A dict and arrays that double: row-wise Adagrad in NumPy."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.values, self.state = np.empty((1024, DIM), np.float32), np.zeros(1024, np.float32)

    def step(self, ids: np.ndarray, grads: np.ndarray) -> None:
        """Admit, read and update."""
        rows = self.rows_of(ids)
        self.values[rows]  # what forward reads
        unique, inverse = np.unique(rows, return_inverse=True)
        sums = np.zeros((len(unique), DIM), np.float32)
        np.add.at(sums, inverse, grads)
        self.state[unique] += np.square(sums).mean(axis=1)
        self.values[unique] -= LR * sums / (np.sqrt(self.state[unique]) + EPS)[:, None]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The row number of each id, new ones included."""
        numbers = self.numbers
        rows = np.array([numbers.setdefault(key, len(numbers)) for key in ids.tolist()])
        while len(numbers) > len(self.state):
            more = np.random.default_rng(len(self.state)).uniform(-0.05, 0.05, self.values.shape).astype(np.float32)
            self.values = np.concatenate([self.values, more])
            self.state = np.concatenate([self.state, np.zeros_like(self.state)])
        return rows


def main() -> None:
    """Grow each as often as wanted, in turn."""
    options = parse()
    report: dict[str, Any] = {"machine": machine(), **vars(options)}
    sizes = f"{options.rows:,} rows (doubling: {options.rival_rows:,})"
    print(f"growth from empty to {sizes}, dim {DIM}, {options.ids:,} ids a step, half of them new")
    runs: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in ("ours", "ours, observe only", RIVAL)}
    for _ in range(options.repeats):
        for name, each in runs.items():
            each.append(grown(name, options))
    report["contenders"] = {name: figures(each, options) for name, each in runs.items()}
    for name, result in report["contenders"].items():
        print(text(name, result), flush=True)
    ours, rival = (report["contenders"][name]["least"]["worst_over_median"] for name in ("ours", RIVAL))
    report["ratio"] = rival / ours
    print(f"  worst / median of doubling is {rival / ours:.1f} times that of ours")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rival-rows", type=int, default=5_000_000, help="at which the rival stops, if not before")
    parser.add_argument("--ids", type=int, default=20_000, help="ids a step, an even number")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.ids < 2 or options.ids % 2 or options.repeats < 2 or min(options.rows, options.rival_rows) < options.ids:
        parser.error("--ids must be even and at least 2, --repeats at least 2 (for a spread), rows at least --ids")
    options.rival_rows = min(options.rows, options.rival_rows)
    return options


def grown(name: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """One growth, each step: seconds by clock and by processor, rows after it, pages it got, bytes of the index."""
    table = Table(TableConfig(name="bench", dim=DIM, optimizer=optimizers.RowWiseAdagrad(lr=LR, eps=EPS)))
    steps: dict[str, Step] = {
        "ours": lambda ids, grads: table.step(ids).apply_gradients(grads),
        "ours, observe only": lambda ids, _: table.observe(ids),
        RIVAL: Doubling().step,
    }
    step, grads = steps[name], np.full((options.ids, DIM), 1e-3, np.float32)
    records = []
    for rows, ids in batches(options.rival_rows if name == RIVAL else options.rows, options.ids):
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        cpu = time.thread_time()
        step(ids, grads)
        cpu, seconds = time.thread_time() - cpu, time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        records.append((seconds, cpu, rows, faults, table.stats().bytes_index))
    return dict(zip(("seconds", "cpu", "rows", "faults", "index"), np.array(records).T, strict=True))


def batches(end: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows after the step, up to ``end``, and its ids, new and old in any order."""
    rng = np.random.default_rng(0)
    half = count // 2
    keys = rng.integers(-(2**63), 2**63, end, dtype=np.int64)
    for seen in range(0, end - half + 1, half):
        new = keys[seen : seen + half]
        old = keys[rng.integers(0, seen + half, half)]
        yield seen + half, rng.permutation(np.concatenate([new, old]))


def figures(runs: list[dict[str, np.ndarray]], options: argparse.Namespace) -> dict[str, Any]:
    """Of each repeat, and of the steps' least times over the repeats."""
    skip = FIRST * 2 // options.ids + 1
    seconds = np.array([run["seconds"][skip:] for run in runs])
    return {
        "repeats": [of_steps(each) for each in seconds],
        "least": of_steps(seconds.min(axis=0)),
        "least_cpu": of_steps(np.min([run["cpu"][skip:] for run in runs], axis=0)),
        "worst_step": what_happened(runs[0], skip + int(seconds.min(axis=0).argmax())),
    }


def of_steps(seconds: np.ndarray) -> dict[str, float]:
    """Milliseconds."""
    median, late, worst = np.quantile(seconds * 1e3, [0.5, 0.99, 1.0])
    return {
        "median_ms": float(median),
        "p99_ms": float(late),
        "worst_ms": float(worst),
        "worst_over_median": float(worst / median),
    }


def what_happened(run: dict[str, np.ndarray], step: int) -> dict[str, int]:
    """Of one step, what it was given and what grew."""
    return {
        "rows": int(run["rows"][step]),
        "page_faults": int(run["faults"][step]),
        "usual_page_faults": int(np.median(run["faults"])),
        "index_bytes_added": int(run["index"][step] - run["index"][step - 1]),
    }


def text(name: str, result: dict[str, Any]) -> str:
    """Two lines for one contender."""
    least, worst = result["least"], result["worst_step"]
    ratios = [each["worst_over_median"] for each in result["repeats"]]
    medians, worsts = ([each[key] for each in result["repeats"]] for key in ("median_ms", "worst_ms"))
    cpu = result["least_cpu"]
    return (
        f"  {name:<18} median {np.median(medians):7.2f} ms   worst {np.median(worsts):8.2f} ms   worst / median "
        f"{np.median(ratios):6.1f} ({min(ratios):.1f}-{max(ratios):.1f})\n"
        f"    least of repeats median {least['median_ms']:7.2f} ms   p99 {least['p99_ms']:.2f} ms   worst "
        f"{least['worst_ms']:8.2f} ms   worst / median {least['worst_over_median']:6.1f}: at "
        f"{worst['rows']:,} rows, {worst['page_faults']} page faults (usual {worst['usual_page_faults']}), "
        f"index +{worst['index_bytes_added']:,} bytes\n"
        f"    processor time   median {cpu['median_ms']:7.2f} ms   p99 {cpu['p99_ms']:.2f} ms   worst "
        f"{cpu['worst_ms']:8.2f} ms   worst / median {cpu['worst_over_median']:6.1f}"
    )


if __name__ == "__main__":
    main()
