"""What a row costs in memory beyond its values and its optimizer's state: resident memory against what stats() says.

    python bench/table_memory.py [--rows N ...] [--json PATH]

Each case runs in a process of its own, which reads its resident memory before the table and after each training step of
20,000 new ids (dim 16, row-wise Adagrad), and the peak that the kernel saw. Per row, in bytes:

  resident    at the end: resident memory without values and state, which leaves key, index, times, sequence marks,
              slack, and what the process allocated for steps
  worst       the largest of that between two steps from 1 M rows on (or from the end on, if that is less), and `peak`
              what the kernel saw within them, at the end's rows
  stats()     what the table says of itself, by kind; agreement is its sum, values and state included, to the resident

Then rows expire, are swept, and as many new ones come, three times: resident memory after each filling to that after
the first, and what grew. Tombstones are forgotten in between, as after 4,096 deltas. The rivals: FBGEMM's table, which
has no ids and its size from the start, and torchrec's managed collision, which gives ids to such a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from machine import machine

from monolith.tables import Table, TableConfig, expiry, optimizers

DIM, IDS, LR, EPS = 16, 20_000, 0.05, 1e-8
COUNTED_FROM = 1_000_000  # rows
ROUNDS, TTL_MS, KEPT_SEQUENCES = 3, 1000, 4096
KINDS = ("tail", "index", "counters", "tombstones", "scratch")


def main() -> None:
    """Run each case in a process of its own, or, as such a process, the one that was asked for."""
    options = parse()
    if options.case:
        print(json.dumps(CASES[options.case](options.rows[0])))
        return
    report: dict[str, Any] = {"machine": machine(), "dim": DIM, "growth": [], "reuse": [], "rivals": []}
    print(f"bytes a row beyond values and state, dim {DIM}, row-wise Adagrad, each case in a fresh process")
    for rows in options.rows:
        report["growth"].append(alone("growth", rows))
        print(growth_text(report["growth"][-1]), flush=True)
    smallest = min(options.rows)
    report["reuse"] = alone("reuse", smallest)
    ratios = ", ".join(f"{ratio:.3f}" for ratio in report["reuse"]["resident_to_first"])
    grown = ", ".join(f"{kind} {more:.1f}" for kind, more in report["reuse"]["grown"].items())
    print(f"  {smallest:>10,} rows expired, swept and filled again: resident to that of the first filling {ratios}")
    print(f"             bytes a row that were added since the first filling, by stats(): {grown}")
    for case in ("FBGEMM TBE", "managed collision"):
        report["rivals"].append({"name": case, **alone(case, smallest)})
        print(rival_text(report["rivals"][-1]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rows) < IDS:
        parser.error(f"--rows must be at least {IDS}")
    return options


def alone(case: str, rows: int) -> dict[str, Any]:
    """What the case measured in a fresh process."""
    command = [sys.executable, __file__, "--case", case, "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def growth(rows: int) -> dict[str, Any]:
    """Our table from empty to ``rows``."""
    train(new_table(), steps(2 * IDS))  # code and buffers that every process has
    base, table, worst = resident(), new_table(), 0.0
    for ids in steps(rows):
        train(table, [ids])
        stats = table.stats()
        beyond = resident() - base - stats.bytes_values - stats.bytes_state
        if stats.rows >= min(COUNTED_FROM, rows):
            worst = max(worst, beyond / stats.rows)
    by_kind = {kind: getattr(stats, f"bytes_{kind}") for kind in KINDS}
    useful = stats.bytes_values + stats.bytes_state
    return {
        "rows": stats.rows,
        "values_and_state": useful / stats.rows,
        "resident": beyond / stats.rows,
        "worst": worst,
        "peak": (peak() - base - useful) / stats.rows,
        "stats": {kind: held / stats.rows for kind, held in by_kind.items()},
        "overhead_by_stats": stats.bytes_overhead / stats.rows,
        "agreement": (useful + sum(by_kind.values())) / (useful + beyond),
    }


def reuse(rows: int) -> dict[str, Any]:
    """Fill, let everything expire, sweep, and fill again with other ids."""
    train(new_table(), steps(2 * IDS))
    base, table, held = resident(), new_table(expires=True), []
    first = table.stats()
    for round_number in range(ROUNDS + 1):
        now_ms = round_number * 2 * TTL_MS
        table.advance(now_ms)
        table.sweep()
        for _ in range(KEPT_SEQUENCES + 1):
            table.cut()
        train(table, steps(rows, seed=round_number), now_ms)
        held.append(resident() - base)
        first = first if round_number else table.stats()
    stats = table.stats()
    return {
        "rows": stats.rows,
        "free_rows": stats.free_rows,
        "expired": stats.expired,
        "grown": {
            kind: (getattr(stats, f"bytes_{kind}") - getattr(first, f"bytes_{kind}")) / stats.rows
            for kind in ("values", "state", *KINDS)
        },
        "resident_to_first": [each / held[0] for each in held[1:]],
    }


def new_table(*, expires: bool = False) -> Table:
    """An empty one."""
    rule = optimizers.RowWiseAdagrad(lr=LR, eps=EPS)
    if expires:
        return Table(TableConfig(name="bench", dim=DIM, optimizer=rule, expiry=expiry.Idle(ttl_s=TTL_MS / 1000)))
    return Table(TableConfig(name="bench", dim=DIM, optimizer=rule))


def train(table: Table, batches: Any, event_time_ms: int = 0) -> None:
    """One step a batch."""
    grads = np.full((IDS, DIM), 1e-3, np.float32)
    for ids in batches:
        table.step(ids, event_time_ms=event_time_ms).apply_gradients(grads[: len(ids)])


def steps(rows: int, seed: int = 0) -> Iterator[np.ndarray]:
    """``rows`` ids, in batches; managed collision takes no negative ones."""
    rng = np.random.default_rng(seed)
    for first in range(0, rows, IDS):
        yield rng.integers(0, 2**62, min(IDS, rows - first), dtype=np.int64)


def fbgemm(rows: int) -> dict[str, Any]:
    """FBGEMM's table, every row of which was trained."""
    import torch
    from contenders import Batch, Tbe

    def touch(table: Any, count: int) -> None:
        for first in range(0, count, IDS):
            numbers = np.arange(first, min(first + IDS, count))
            table.step(Batch(numbers, numbers, torch.full((len(numbers), DIM), 1e-3)))

    touch(Tbe(IDS, DIM, 1), IDS)
    base, table = resident(), Tbe(rows, DIM, 1)
    touch(table, rows)
    useful = rows * 4 * (DIM + 1)
    return {"rows": rows, "resident": (resident() - base - useful) / rows, "peak": (peak() - base - useful) / rows}


def managed_collision(rows: int) -> dict[str, Any]:
    """The map of torchrec from ids to row numbers, without the table behind it."""
    from contenders import ManagedCollision, Tbe

    table = Tbe(IDS, DIM, 1)  # not counted
    ManagedCollision(np.concatenate(list(steps(IDS))), table)
    keys = np.concatenate(list(steps(rows)))
    base = resident()
    remap = ManagedCollision(keys, table)
    return {"rows": remap.remap._zch_size - 1, "resident": (resident() - base) / rows, "peak": (peak() - base) / rows}


CASES = {"growth": growth, "reuse": reuse, "FBGEMM TBE": fbgemm, "managed collision": managed_collision}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most of them so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def growth_text(case: dict[str, Any]) -> str:
    """Two lines."""
    kinds = ", ".join(f"{kind} {held:.1f}" for kind, held in case["stats"].items())
    return (
        f"  {case['rows']:>10,} rows: resident {case['resident']:.1f}, worst {case['worst']:.1f}, peak "
        f"{case['peak']:.1f} (values and state {case['values_and_state']:.0f})\n"
        f"             stats(): {case['overhead_by_stats']:.1f} without scratch ({kinds}); stats() to resident, values "
        f"and state included, {case['agreement']:.3f}"
    )


def rival_text(case: dict[str, Any]) -> str:
    """One line."""
    return f"  {case['rows']:>10,} rows: {case['name']} resident {case['resident']:.1f}, peak {case['peak']:.1f}"


if __name__ == "__main__":
    main()
