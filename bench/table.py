"""A training step of our table beside others, all in this process and in turn; ours hashes, admits and grows.

    python bench/table.py [--quick | --full] [--json PATH] [--ids N] [--repeats N]

Forward reads the rows of a batch of ids (64-bit ids for those that take them, else their row numbers), one id a bag;
backward applies a gradient to each. Row-wise Adagrad, float32; each on as many threads as the line says:

  module           our EmbeddingBagCollection, autograd and all Python included: the headline
  table            our Table.step and apply_gradients, without torch
  FBGEMM TBE       SplitTableBatchedEmbeddingBags on the CPU: no hashing, a fixed number of rows
  FBGEMM TBE, two  the same, where two features of half the batch each read the table
  managed coll.    torchrec's MCHManagedCollisionModule (LFU, evicting every 10th step) in front of the latter
  torch SparseAdam torch.nn.EmbeddingBag(sparse=True) and SparseAdam: another optimizer, with 2 * dim floats of state
  memory bound     an index line read, the row read, and the row read and written, with nothing computed

FBGEMM's backward has two codes for one result. A table of one feature goes through a kernel that FBGEMM generates,
which changes between SSE and AVX instructions six times a row; where the processor pays for each change, as some of
Intel's do, a row costs up to 0.4 microseconds more. A table of several features goes through plain C++ without them, on
one thread. Both run, pooled (FBGEMM's backward for sequences is several times slower), and the ratio in a headline is
to the faster. Torch's memory comes in huge pages, like ours.

Each line has median milliseconds and the ratio of module to it (above 1: ours is faster) with the quartiles of the
ratios of neighbouring runs. Managed collision's evicting step and its mean are said as well, since a median hides them.
The order changes with each repeat, and each has a batch of its own, so that nobody finds its rows in the cache. At the
end: what torch and Python add to a step of 16 ids, and look-ups without training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages; it looks when it is loaded
sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
import torch
from contenders import Bare, Batch, Bound, ManagedCollision, Module, Seconds, SparseAdam, Tbe
from machine import machine

from monolith.tables import set_threads

ZIPF = 1.05
TBES = ("FBGEMM TBE", "FBGEMM TBE, two")
EVICTING_EVERY = 10  # steps of managed collision
WARM_UP = 2  # repeats
HEADLINE = (2_000_000, 16)


def main() -> None:
    """Time all on both spreads of ids, and say what came out."""
    options = parse()
    report: dict[str, Any] = {"machine": machine(), **vars(options)}
    print(f"training step of {options.ids:,} ids, row-wise Adagrad, ms (module against: ratio, quartiles)")
    report["cases"] = [case for size in sizes(options) for case in cases(options, *size)]
    report["overhead_us"] = overhead()
    if not options.quick:
        report["lookups"] = list(lookups(options))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="only the headline: 2 M rows of dim 16")
    which.add_argument("--full", action="store_true", help="every size, 20 M rows as well, each on 1 and on 2 threads")
    parser.add_argument("--ids", type=int, default=160_000, help="ids a step, an even number")
    parser.add_argument("--repeats", type=int, default=20, help="a multiple of 10")
    options = parser.parse_args()
    if options.ids < 2 or options.ids % 2 or options.repeats < 1 or options.repeats % EVICTING_EVERY:
        parser.error("--ids must be even and at least 2, --repeats a multiple of 10")
    return options


def sizes(options: argparse.Namespace) -> Iterator[tuple[int, int, tuple[int, ...], bool]]:
    """Rows, dim, numbers of threads, and whether the slow rivals run too; the headline first."""
    yield *HEADLINE, (1, 2), not options.quick
    if options.full:
        others = [(rows, dim) for rows in (100_000, 2_000_000) for dim in (8, 16, 64, 128)]
        yield from ((*size, (1, 2), False) for size in others if size != HEADLINE)
        yield 20_000_000, 16, (1, 2), False
    elif not options.quick:
        yield from ((*size, (1,), False) for size in ((100_000, 16), (2_000_000, 8), (2_000_000, 64)))


def cases(
    options: argparse.Namespace, rows: int, dim: int, threads: tuple[int, ...], slow: bool
) -> Iterator[dict[str, Any]]:
    """Both spreads of ids over one size of table, on each number of threads."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**62, rows, dtype=np.int64)  # managed collision takes no negative ids
    contenders = built(keys, dim, slow)
    for count in threads:
        use_threads(count)
        contenders[-1].memory.use(count, options.ids)
        taking_part = [c for c in contenders if count == 1 or not isinstance(c, ManagedCollision | SparseAdam)]
        for spread, draw in (("uniform", uniform), (f"Zipf {ZIPF}", zipf)):
            times = run(taking_part, keys, draw(rng, rows, options.ids), torch.full((options.ids, dim), 1e-3), options)
            case = {"rows": rows, "dim": dim, "threads": count, "spread": spread, "contenders": figures(times)}
            print(text(case), flush=True)
            yield case
    use_threads(1)


def built(keys: np.ndarray, dim: int, slow: bool) -> list[Any]:
    """Those who take part, ours first and the bound last."""
    module = Module(keys, dim)
    tbes = [Tbe(len(keys), dim, features) for features in (1, 2)]
    rivals = [ManagedCollision(keys, tbes[1]), SparseAdam(len(keys), dim)] if slow else []
    return [module, Bare(module), *tbes, *rivals, Bound(module)]


def use_threads(count: int) -> None:
    """Ours and torch's."""
    set_threads(count)
    torch.set_num_threads(count)


def run(
    contenders: list[Any],
    keys: np.ndarray,
    numbers: Iterator[np.ndarray],
    grads: torch.Tensor,
    options: argparse.Namespace,
) -> dict[str, np.ndarray]:
    """Seconds of each contender's forward and backward in each repeat, (repeats, 2)."""
    times: dict[str, list[Seconds]] = {contender.name: [] for contender in contenders}
    for repeat in range(options.repeats + WARM_UP):
        turn = repeat % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            drawn = next(numbers)
            times[contender.name].append(contender.step(Batch(keys[drawn], drawn, grads)))
    return {name: np.array(pairs[WARM_UP:]) for name, pairs in times.items()}


def uniform(rng: np.random.Generator, rows: int, ids: int) -> Iterator[np.ndarray]:
    """Batches of row numbers, every row as likely as any other."""
    while True:
        yield rng.integers(0, rows, ids)


def zipf(rng: np.random.Generator, rows: int, ids: int) -> Iterator[np.ndarray]:
    """Ranks drawn with weight ``rank ** -ZIPF``, scattered over the rows."""
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF)
    scattered = rng.permutation(rows)
    while True:
        yield scattered[np.searchsorted(cumulative, rng.random(ids) * cumulative[-1])]


def figures(times: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Each one's milliseconds, and the module's ratio to it, from (repeats, 2) seconds."""
    ours = times["module"].sum(axis=1)
    result = {}
    for name, halves in times.items():
        steps = halves.sum(axis=1)
        forward, backward = np.median(halves, axis=0) * 1e3
        low, ratio, high = np.quantile(steps / ours, [0.25, 0.5, 0.75])
        result[name] = {
            "forward_ms": float(forward),
            "backward_ms": float(backward),
            "step_ms": float(np.median(steps) * 1e3),
            "mean_step_ms": float(steps.mean() * 1e3),
            "best_step_ms": float(steps.min() * 1e3),
            "worst_step_ms": float(steps.max() * 1e3),
            "ratio": float(ratio),
            "ratio_quartiles": [float(low), float(high)],
            "ratio_of_means": float(steps.mean() / ours.mean()),
        }
    return result


def faster_tbe(contenders: dict[str, Any]) -> dict[str, Any]:
    """The figures of the faster of FBGEMM's two codes."""
    return min((contenders[name] for name in TBES), key=lambda figures: figures["step_ms"])


def text(case: dict[str, Any]) -> str:
    """One line for the module against FBGEMM, and one for every contender."""
    contenders = case["contenders"]
    ours, tbe = contenders["module"], faster_tbe(contenders)
    low, high = tbe["ratio_quartiles"]
    threads = f"{case['threads']} thread{'s' if case['threads'] > 1 else ''}"
    head = (
        f"{case['rows']:>10,} rows, dim {case['dim']:<3} {case['spread']:<9} {threads:<9} ours {ours['step_ms']:6.1f}  "
        f"faster TBE {tbe['step_ms']:6.1f}   {tbe['ratio']:.2f}x ({low:.2f}-{high:.2f})"
    )
    return "\n".join([head, *(line(name, figures) for name, figures in contenders.items())])


def line(name: str, case: dict[str, Any]) -> str:
    """One contender's figures."""
    low, high = case["ratio_quartiles"]
    ratio = "" if name == "module" else f"   {case['ratio']:6.2f}x ({low:.2f}-{high:.2f})"
    parts = f"forward {case['forward_ms']:6.1f}   backward {case['backward_ms']:6.1f}   step {case['step_ms']:6.1f}"
    if name == ManagedCollision.name:
        ratio += (
            f"; evicting {case['worst_step_ms']:.0f}, mean {case['mean_step_ms']:.0f}, {case['ratio_of_means']:.1f}x"
        )
    return f"    {name:<16} {parts}{ratio}"


def overhead() -> dict[str, float]:
    """Microseconds of a step of 16 ids, module and table: what is between them is torch and Python."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**62, 1000, dtype=np.int64)
    module = Module(keys, HEADLINE[1])
    bare, grads, times = Bare(module), torch.full((16, HEADLINE[1]), 1e-3), []
    for _ in range(2000):
        batch = Batch(rng.choice(keys, 16), np.empty(0, np.int64), grads)
        times.append((sum(module.step(batch)), sum(bare.step(batch))))
    whole, table = np.median(times, axis=0) * 1e6
    print(f"a step of 16 ids: module {whole:.0f} us, table {table:.0f} us; torch and Python add {whole - table:.0f} us")
    return {"module": float(whole), "table": float(table), "added": float(whole - table)}


def lookups(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Ids a second and thread, looked up in 1 M rows of dim 16 without training, beside FBGEMM's forward."""
    rows, dim, rng = 1_000_000, 16, np.random.default_rng(0)
    keys = rng.integers(0, 2**62, rows, dtype=np.int64)
    table, tbe = Module(keys, dim).table, Tbe(rows, dim, 1).table
    out, offsets = np.empty((options.ids, dim), np.float32), torch.arange(options.ids + 1)
    for threads in (1, 2):
        use_threads(threads)
        for spread, draw in (("uniform", uniform), (f"Zipf {ZIPF}", zipf)):
            times, numbers = [], draw(rng, rows, options.ids)
            for _ in range(3 * options.repeats):
                ids, indices = keys[next(numbers)], torch.from_numpy(next(numbers))
                start = time.perf_counter()
                table.lookup(ids, out=out)
                middle = time.perf_counter()
                with torch.no_grad():
                    tbe(indices, offsets)
                times.append((middle - start, time.perf_counter() - middle))
            yield lookup_figures(np.array(times[3:]), options.ids, threads, spread)
    use_threads(1)


def lookup_figures(times: np.ndarray, ids: int, threads: int, spread: str) -> dict[str, Any]:
    """Million ids a second and thread, printed and returned, from (repeats, 2) seconds of ours and FBGEMM's."""
    ours, tbe = (np.quantile(ids / column / 1e6 / threads, [0.25, 0.5, 0.75]) for column in times.T)
    print(
        f"look-up only, 1,000,000 rows, dim 16, {spread:<9} {threads} thread(s), million ids a second and thread: ours "
        f"{ours[1]:.1f} ({ours[0]:.1f}-{ours[2]:.1f}), FBGEMM TBE {tbe[1]:.1f} ({tbe[0]:.1f}-{tbe[2]:.1f})",
        flush=True,
    )
    return {"threads": threads, "spread": spread, "ours": ours.tolist(), "FBGEMM TBE": tbe.tolist()}


if __name__ == "__main__":
    main()
