"""A training step of our table beside others, all in this process and in turn; ours hashes, admits and grows.

    python bench/table.py [--json PATH] [--large] [--quick] [--ids N] [--repeats N]

Forward reads the rows of a batch of ids (64-bit ids for those that take them, else their row numbers), one id a bag;
backward applies a gradient to each. Row-wise Adagrad, float32, one thread, unless a name says otherwise:

  module           our EmbeddingBagCollection, autograd and all Python included: the headline
  table            our Table.step and apply_gradients, what the module calls
  FBGEMM TBE       SplitTableBatchedEmbeddingBags on the CPU: no hashing, a fixed number of rows
  managed coll.    torchrec's MCHManagedCollisionModule (LFU, evicting every 10th step) in front of that TBE
  torch SparseAdam torch.nn.EmbeddingBag(sparse=True) and SparseAdam: another optimizer, with 2 * dim floats of state
  memory bound     an index line read, the row read, and the row read and written, with nothing computed

Each line has median milliseconds and the ratio of module to it (above 1: ours is faster) with the quartiles of the
ratios of neighbouring runs. The order changes with each repeat, since whoever runs finds the cache as the last left it.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from monolith.config.table import TableConfig
from monolith.tables import optimizers
from monolith.tables.features import Bag
from monolith.training import EmbeddingBagCollection

LR, EPS = 0.05, 1e-8
ZIPF = 1.05
Seconds = tuple[float, float]  # forward, backward


class Module:
    """Our collection with one table that has a row for each key, under autograd."""

    name = "module"

    def __init__(self, keys: np.ndarray, dim: int) -> None:
        config = TableConfig(name="bench", dim=dim, optimizer=optimizers.RowWiseAdagrad(lr=LR, eps=EPS))
        self.collection = EmbeddingBagCollection([config])
        self.table = self.collection.tables["bench"]
        for part in np.array_split(keys, max(1, len(keys) // 100_000)):
            self.table.observe(part)

    def step(self, ids: np.ndarray, _: np.ndarray, grads: torch.Tensor) -> Seconds:
        """One step, timed."""
        bags = {"bench": Bag(ids, np.ones(len(ids), np.int32))}
        return timed(lambda: self.collection.forward_bags(bags, 1)["bench"], lambda out: out.backward(grads))


class Bare:
    """The same table without the module."""

    name = "table"

    def __init__(self, module: Module) -> None:
        self.table = module.table

    def step(self, ids: np.ndarray, _: np.ndarray, grads: torch.Tensor) -> Seconds:
        """One step, timed."""
        gradients = grads.numpy()
        return timed(lambda: self.table.step(ids, event_time_ms=1), lambda step: step.apply_gradients(gradients))


class Tbe:
    """FBGEMM's table of as many rows."""

    name = "FBGEMM TBE"

    def __init__(self, rows: int, dim: int) -> None:
        place = [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)]
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            place, optimizer=OptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=LR, eps=EPS
        )
        self.table.init_embedding_weights_uniform(-0.05, 0.05)

    def step(self, _: np.ndarray, rows: np.ndarray, grads: torch.Tensor) -> Seconds:
        """One step, timed."""
        indices, offsets = torch.from_numpy(rows), torch.arange(len(rows) + 1)
        return timed(lambda: self.table(indices, offsets), lambda out: out.backward(grads))


class ManagedCollision:
    """Ids remapped to row numbers by torchrec, then FBGEMM's table."""

    name = "managed coll."

    def __init__(self, keys: np.ndarray, table: Tbe) -> None:
        from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule

        self.table = table
        self.remap = MCHManagedCollisionModule(
            zch_size=len(keys) + 1,  # one row is shared by the ids without a row
            device=torch.device("cpu"),
            eviction_policy=LFU_EvictionPolicy(),
            eviction_interval=10,
            input_hash_size=2**62,
        ).train()
        for part in np.array_split(keys, 20):
            self.rows_of(part)

    def rows_of(self, ids: np.ndarray) -> torch.Tensor:
        """The row number of each id."""
        from torchrec.sparse.jagged_tensor import JaggedTensor

        jagged = JaggedTensor(torch.from_numpy(ids), lengths=torch.ones(len(ids), dtype=torch.int32))
        features = self.remap.preprocess({"bench": jagged})
        self.remap.profile(features)
        return self.remap.remap(features)["bench"].values()

    def step(self, ids: np.ndarray, _: np.ndarray, grads: torch.Tensor) -> Seconds:
        """One step, timed."""
        offsets = torch.arange(len(ids) + 1)
        last = self.remap._zch_size - 2  # the shared row has no place in the table of as many rows as keys
        return timed(
            lambda: self.table.table(self.rows_of(ids).clamp_(max=last), offsets), lambda out: out.backward(grads)
        )


class SparseAdam:
    """The table that torch itself has, and its optimizer for sparse gradients."""

    name = "torch SparseAdam"

    def __init__(self, rows: int, dim: int) -> None:
        self.table = torch.nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)
        self.optimizer = torch.optim.SparseAdam(self.table.parameters(), lr=LR)

    def step(self, _: np.ndarray, rows: np.ndarray, grads: torch.Tensor) -> Seconds:
        """One step, timed."""
        indices, offsets = torch.from_numpy(rows), torch.arange(len(rows))
        return timed(lambda: self.table(indices, offsets), lambda out: self.update(out, grads))

    def update(self, out: torch.Tensor, grads: torch.Tensor) -> None:
        """The backward half."""
        self.optimizer.zero_grad()
        out.backward(grads)
        self.optimizer.step()


class MemoryBound:
    """Only the memory traffic, in C++."""

    name = "memory bound"

    def __init__(self, library: ctypes.CDLL, rows: int, dim: int) -> None:
        self.library, self.stride = library, 4 * dim + 20  # row-wise Adagrad: 4 bytes of state; 16 bytes of tail
        self.index, self.rows = library.allocate(rows * 22), library.allocate(rows * self.stride)

    def step(self, _: np.ndarray, rows: np.ndarray, __: torch.Tensor) -> Seconds:
        """One step, timed."""
        seconds = (ctypes.c_double * 2)()
        pointer = rows.ctypes.data_as(ctypes.c_void_p)
        self.library.memory_bound(self.index, self.rows, self.stride, pointer, len(rows), seconds)
        return seconds[0], seconds[1]

    def __del__(self) -> None:
        self.library.release(self.index)
        self.library.release(self.rows)


def main() -> None:
    """Time all on both spreads of ids, and say what came out."""
    options = parse()
    torch.set_num_threads(1)
    library = compiled()
    print(f"training step of {options.ids:,} ids, row-wise Adagrad, 1 thread, ms (module against: ratio, quartiles)")
    results = [case for rows, dim, full in sizes(options) for case in cases(options, library, rows, dim, full=full)]
    if options.json:
        report = {"machine": platform.machine(), "torch": torch.__version__, **vars(options), "cases": results}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--large", action="store_true", help="20 M rows of dim 16 as well")
    parser.add_argument("--quick", action="store_true", help="only the headline: 2 M rows of dim 16")
    parser.add_argument("--ids", type=int, default=160_000, help="ids a step")
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def sizes(options: argparse.Namespace) -> Iterator[tuple[int, int, bool]]:
    """Rows, dim, and whether the slow rivals run too; the headline first."""
    yield 2_000_000, 16, not options.quick
    if not options.quick:
        yield from ((100_000, dim, False) for dim in (8, 16, 64, 128))
        yield from ((2_000_000, dim, False) for dim in (8, 64, 128))
    if options.large:
        yield 20_000_000, 16, False


def cases(
    options: argparse.Namespace, library: ctypes.CDLL, rows: int, dim: int, *, full: bool
) -> Iterator[dict[str, Any]]:
    """Both spreads of ids over one size of table."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**62, rows, dtype=np.int64)  # managed collision takes no negative ids
    contenders = built(library, keys, dim, full=full)
    for spread, draw in (("uniform", uniform), (f"Zipf {ZIPF}", zipf)):
        batches = draw(rng, rows, options.ids)
        times: dict[str, list[Seconds]] = {contender.name: [] for contender in contenders}
        grads = torch.full((options.ids, dim), 1e-3)
        for repeat in range(options.repeats + 2):
            numbers = next(batches)
            ids = keys[numbers]
            turn = repeat % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                times[contender.name].append(contender.step(ids, numbers, grads))
        case = figures({name: np.array(pairs[2:]) for name, pairs in times.items()})  # the first runs warm up
        result = {"rows": rows, "dim": dim, "spread": spread, "contenders": case}
        print(text(result), flush=True)
        yield result


def built(library: ctypes.CDLL, keys: np.ndarray, dim: int, *, full: bool) -> list[Any]:
    """Those who take part, ours first."""
    module, tbe = Module(keys, dim), Tbe(len(keys), dim)
    slow = [ManagedCollision(keys, tbe), SparseAdam(len(keys), dim)] if full else []
    return [module, Bare(module), tbe, *slow, MemoryBound(library, len(keys), dim)]


def compiled() -> ctypes.CDLL:
    """The library of the memory bound."""
    source = Path(__file__).with_name("memory_bound.cpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory_bound.so"
        subprocess.run(["c++", "-O3", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    library.allocate.restype = ctypes.c_void_p
    library.allocate.argtypes = [ctypes.c_size_t]
    library.release.argtypes = [ctypes.c_void_p]
    sizes, pointers = ctypes.c_size_t, ctypes.c_void_p
    library.memory_bound.argtypes = [pointers, pointers, sizes, pointers, sizes, pointers]
    library.memory_bound.restype = ctypes.c_uint64
    return library


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


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Seconds:
    """Seconds of the two halves of a step."""
    start = time.perf_counter()
    out = forward()
    middle = time.perf_counter()
    backward(out)
    return middle - start, time.perf_counter() - middle


def figures(times: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Medians of each one's forward, backward and step, and the module's ratio to it, from (repeats, 2) seconds."""
    ours = times["module"].sum(axis=1)
    result = {}
    for name, pairs in times.items():
        low, ratio, high = np.quantile(pairs.sum(axis=1) / ours, [0.25, 0.5, 0.75])
        columns = (*pairs.T, pairs.sum(axis=1))
        medians = [float(np.median(column) * 1e3) for column in columns]
        result[name] = dict(zip(("forward_ms", "backward_ms", "step_ms"), medians, strict=True))
        result[name] |= {"ratio": float(ratio), "ratio_quartiles": [float(low), float(high)]}
    return result


def text(result: dict[str, Any]) -> str:
    """One line for the module against FBGEMM, and one for every other."""
    cases = result["contenders"]
    ours, tbe = cases["module"], cases["FBGEMM TBE"]
    low, high = tbe["ratio_quartiles"]
    head = (
        f"{result['rows']:>10,} rows, dim {result['dim']:<3} {result['spread']:<9}  ours {ours['step_ms']:6.1f}   "
        f"FBGEMM TBE {tbe['step_ms']:6.1f}   {tbe['ratio']:.2f}x ({low:.2f}-{high:.2f})"
    )
    return "\n".join(itertools.chain([head], (line(name, case) for name, case in cases.items())))


def line(name: str, case: dict[str, Any]) -> str:
    """One contender's figures."""
    low, high = case["ratio_quartiles"]
    ratio = "" if name == "module" else f"   {case['ratio']:6.2f}x ({low:.2f}-{high:.2f})"
    parts = f"forward {case['forward_ms']:6.1f}   backward {case['backward_ms']:6.1f}   step {case['step_ms']:6.1f}"
    return f"    {name:<16} {parts}{ratio}"


if __name__ == "__main__":
    main()
