"""Training on two processes beside one: our divided collection, and torchrec's sharded static tables.

    python bench/sharded.py [--ranks W] [--batch N] [--rows N] [--ids uniform|zipf] [--steps N] [--turns N]
                            [--json PATH]

26 features of one id a sample, a table of dim 16 for each, row-wise Adagrad (torchrec: its fused one), an MLP of
416-256-64-1 under DistributedDataParallel with SGD. Each process has one thread, and a batch of its own. In one run,
alternating, --steps at a time:

  ours W=1         EmbeddingBagCollection in rank 0, while other ranks wait
  ours             ShardedEmbeddingBagCollection: sums by rank, the next batch's ids sent before this batch's dense part
  ours bfloat16    the same, rows and gradients in bfloat16 on their way
  ours exact       the same in float32, every gradient by itself, so that no bit depends on W
  torchrec table   EmbeddingBagCollection under DistributedModelParallel, table-wise
  torchrec row     the same, row-wise

Printed are samples a second of all ranks together (median and quartiles over turns), the share of the step that a rank
spends in communication (waiting for slower ranks is in it), the ratios to ours at W=1 and to the better of torchrec's,
and samples for each second of processor time of all ranks, which other programs on the machine change the least.
torchrec's tables do no hashing, and hold rows for exactly the ids there are; ours begin with all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
import torch
import torch.distributed as dist
from machine import machine

from monolith.tables import TableConfig, optimizers, set_threads
from monolith.tables.batch import Bag
from monolith.training import EmbeddingBagCollection

FEATURES, DIM, LR = 26, 16, 0.01
NAMES = [f"f{k}" for k in range(FEATURES)]
BATCHES = 8  # different ones, in turn
Run = Callable[[int], None]


class Dense(torch.nn.Module):
    """What follows the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (FEATURES * DIM, 256, 64)
        layers: list[torch.nn.Module] = []
        for width, out in pairwise(sizes):
            layers += [torch.nn.Linear(width, out), torch.nn.ReLU()]
        self.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))

    def forward(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        logits = self.mlp(vectors).squeeze(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


class Data:
    """The batches of this rank, as bags and as KeyedJaggedTensors."""

    def __init__(self, rank: int, batch: int, rows: int, kind: str) -> None:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        rng = np.random.default_rng(rank)
        ones = np.ones(batch, np.int32)
        self.bags, self.jagged = [], []
        for _ in range(BATCHES):
            drawn = rng.integers(0, rows, (FEATURES, batch)) if kind == "uniform" else rng.zipf(1.05, (FEATURES, batch))
            ids = (drawn % rows).astype(np.int64)
            self.bags.append({name: Bag(column, ones) for name, column in zip(NAMES, ids, strict=True)})
            values = torch.from_numpy(ids.reshape(-1))
            lengths = torch.ones(FEATURES * batch, dtype=torch.int32)
            self.jagged.append(KeyedJaggedTensor(keys=NAMES, values=values, lengths=lengths))
        self.labels = torch.from_numpy(rng.integers(0, 2, batch).astype(np.float32))


class Clock:
    """Seconds that this rank spends in collective calls that it waits for."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, False
        for name in ("all_to_all_single", "all_gather", "all_reduce", "reduce_scatter", "all_gather_into_tensor"):
            if hasattr(dist, name):
                setattr(dist, name, self._timed(getattr(dist, name)))

        dist.Work.wait = self._timed(dist.Work.wait)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return call(*arguments, **options)
            self._inside, begun = True, time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - begun

        return timed


def tables() -> list[TableConfig]:
    """Of ours."""
    return [TableConfig(name=name, dim=DIM, optimizer=optimizers.RowWiseAdagrad(lr=LR)) for name in NAMES]


def alone(data: Data, rows: int) -> Run:
    """Ours in one process."""
    ebc, dense = EmbeddingBagCollection(tables()), Dense()
    for table in ebc.tables.values():
        table.observe(np.arange(rows, dtype=np.int64))
    optimizer = torch.optim.SGD(dense.parameters(), lr=LR)

    def step(number: int) -> None:
        loss = dense(ebc.forward_matrix(data.bags[number % BATCHES]), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def divided(data: Data, rows: int, **options: Any) -> Run:
    """Ours on all ranks."""
    from monolith.tables.split import split_unique
    from monolith.training.sharding import ShardedEmbeddingBagCollection
    from monolith.training.sharding.module import vectors_of

    ebc = ShardedEmbeddingBagCollection(tables(), **options)
    for part in ebc.collection.parts:
        every = np.arange(rows, dtype=np.int64)
        part.table.observe(every[split_unique(every, part.division.owners).of(part.part)])
    dense = torch.nn.parallel.DistributedDataParallel(Dense())
    optimizer = torch.optim.SGD(dense.parameters(), lr=LR)
    ahead: list[Any] = []

    def ask(number: int) -> Any:
        bags = data.bags[number % BATCHES]
        return ebc.collection.ask([bags[out.feature] for out in ebc.outputs])

    def step(number: int) -> None:
        asking = ahead.pop() if ahead else ask(number)
        vectors = vectors_of(ebc.collection.forward(asking), ebc._anchor, average=True)
        following = ask(number + 1)
        loss = dense(vectors, data.labels)
        following.begin()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ahead.append(following)

    return step


def theirs(data: Data, rows: int, kind: str) -> Run:
    """Static tables of torchrec on all ranks."""
    sharded = static_tables(rows, kind)
    dense = [value for name, value in sharded.named_parameters() if name.startswith("dense")]
    optimizer = torch.optim.SGD(dense, lr=LR)

    def step(number: int) -> None:
        loss = sharded(data.jagged[number % BATCHES], data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def static_tables(rows: int, kind: str) -> torch.nn.Module:
    """The network over torchrec's tables of ``rows`` rows, divided by ``row`` or with a table whole on a rank."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
    from torchrec.distributed.types import ShardingPlan

    model, ranks = static_model(rows), dist.get_world_size()
    sharder = EmbeddingBagCollectionSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": LR}
    )
    how = {name: row_wise() if kind == "row" else table_wise(rank=k % ranks) for k, name in enumerate(NAMES)}
    if kind == "row":
        sharder.sharding_types = lambda _: ["row_wise"]
    plan = construct_module_sharding_plan(
        model.ebc, how, sharder, local_size=ranks, world_size=ranks, device_type="cpu"
    )
    return DistributedModelParallel(
        model, sharders=[sharder], plan=ShardingPlan({"ebc": plan}), device=torch.device("cpu")
    )


def static_model(rows: int) -> torch.nn.Module:
    """The network over tables of torchrec that have no memory yet."""
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection as Static

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            configs = [
                EmbeddingBagConfig(name=n, embedding_dim=DIM, num_embeddings=rows, feature_names=[n]) for n in NAMES
            ]
            self.ebc, self.dense = Static(tables=configs, device=torch.device("meta")), Dense()

        def forward(self, jagged: Any, labels: torch.Tensor) -> torch.Tensor:
            return self.dense(self.ebc(jagged).values(), labels)

    return Model()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Turns of each contender, in an order that goes round; the same number of steps on every rank."""
    rank, ranks, clock = dist.get_rank(), dist.get_world_size(), Clock()
    data = Data(rank, options.batch, options.rows, options.ids)
    contenders: dict[str, tuple[Run, bool]] = {
        "ours W=1": (alone(data, options.rows) if rank == 0 else lambda _: None, True),
        "ours": (divided(data, options.rows), False),
        "ours bfloat16": (divided(data, options.rows, wire="bfloat16"), False),
        "ours exact": (divided(data, options.rows, exact=True), False),
        "torchrec table": (theirs(data, options.rows, "table"), False),
        "torchrec row": (theirs(data, options.rows, "row"), False),
    }
    told: dict[str, Any] = {name: {"samples_s": [], "samples_cpu_s": [], "communication": []} for name in contenders}
    names = list(contenders)
    for turn in range(-1, options.turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run, single = contenders[name]
            steps = options.steps if turn >= 0 else 4
            dist.barrier()
            clock.seconds, begun, cpu = 0.0, time.perf_counter(), time.process_time()
            for number in range(steps):
                run(number)
            own = time.perf_counter() - begun
            dist.barrier()
            seconds = time.perf_counter() - begun
            busy = torch.tensor(time.process_time() - cpu, dtype=torch.float64)
            dist.all_reduce(busy)
            if turn >= 0:
                samples = options.batch * (1 if single else ranks) * steps
                told[name]["samples_s"].append(samples / seconds)
                told[name]["samples_cpu_s"].append(samples / busy.item())
                told[name]["communication"].append(clock.seconds / own)
    return told


def report(told: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what came out."""
    median = {name: float(np.median(each["samples_s"])) for name, each in told.items()}
    rival = max(median["torchrec table"], median["torchrec row"])
    print(
        f"{FEATURES} features, dim {DIM}, batch {options.batch:,} a rank, {options.rows:,} rows a table, {options.ids} "
        f"ids, {options.ranks} ranks of one thread each"
    )
    for name, each in told.items():
        low, high = np.quantile(each["samples_s"], [0.25, 0.75])
        print(
            f"  {name:<15}{median[name] / 1000:>8.1f} k samples/s ({low / 1000:.1f} to {high / 1000:.1f}), "
            f"{np.median(each['communication']):.0%} communication, {median[name] / median['ours W=1']:.2f}x ours W=1, "
            f"{median[name] / rival:.2f}x torchrec, {np.median(each['samples_cpu_s']) / 1000:.1f} k a CPU second"
        )
    print(f"programs that wanted a core in the last minute: {machine()['load_1min']} of {machine()['cores']}")


def one_rank(options: argparse.Namespace) -> None:
    """One process of the group."""
    torch.set_num_threads(1)
    set_threads(1)
    dist.init_process_group("gloo")
    told = measured(options)
    if dist.get_rank() == 0:
        report(told, options)
        if options.json:
            figures = {"machine": machine(), **vars(options), "contenders": told}
            Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the processes, each of which is this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4_096, help="samples a rank and step")
    parser.add_argument("--rows", type=int, default=50_000, help="of each table")
    parser.add_argument("--ids", choices=("uniform", "zipf"), default="uniform")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    if "RANK" in os.environ:
        one_rank(options)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(options.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, __file__, *sys.argv[1:]]
    started = [
        subprocess.Popen(command, env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"})
        for rank in range(options.ranks)
    ]
    sys.exit(max(process.wait() for process in started))


if __name__ == "__main__":
    main()
