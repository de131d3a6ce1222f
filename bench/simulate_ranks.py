"""What many ranks would send, counted on one machine: bytes, ids and skew of a step, beside the cost model's.

    python bench/simulate_ranks.py [--ranks W,W,...] [--batch N] [--features N] [--dim N] [--rows N] [--steps N]
                                   [--ids uniform|zipf] [--exponent A] [--exact] [--wire TYPE] [--hot K,K,...]
                                   [--json PATH]

Every rank is a thread with the code of a rank (`ShardedCollection`); only what would cross the network is copied. Each
brings a batch of --batch samples, one id a feature, out of --rows ids a feature, by Zipf's law with --exponent or
uniform; a feature is a table of width --dim with row-wise Adagrad. Each step is a forward and a backward.

Under torchrun (`torchrun --nproc-per-node=W bench/simulate_ranks.py ...`) ranks are its processes, over gloo.

Printed for each number of ranks, a rank and step: ids asked for, each once; bytes to other ranks in ids and in vectors
(rows and gradients), and whether the cost model of `docs/scale.md` makes the same of the draws alone; the largest of a
rank to the mean, of bytes sent, of ids that a rank is asked for, of the occurrences behind these, and of rows that it
holds; processor time of the tables' part; and for each K of --hot, which share of the ids asked of other ranks are
among the K hottest of all features together. It exits with 1 where model and library differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from machine import machine

from monolith.tables import TableConfig, optimizers, set_threads
from monolith.tables.batch import Bag
from monolith.tables.buckets import BUCKETS
from monolith.tables.collection import Output
from monolith.tables.split import Owners, buckets_of
from monolith.training.sharding import ShardedCollection
from monolith.training.sharding.division import Division
from monolith.training.sharding.questions import HEAD
from monolith.training.sharding.simulated import run_ranks
from monolith.training.sharding.transport import Transport

Ints = npt.NDArray[np.int64]


class Draws:
    """Every rank's ids of every step, (steps, features, batch); id 0 is the hottest of its feature."""

    def __init__(self, options: argparse.Namespace, ranks: int) -> None:
        shares = 1.0 / np.arange(1, options.rows + 1) ** (options.exponent if options.ids == "zipf" else 0.0)
        ends = np.cumsum(shares) / shares.sum()
        shape = (options.steps, options.features, options.batch)
        self.ranks = ranks
        self.of_rank: list[Ints] = [
            np.searchsorted(ends[:-1], np.random.default_rng(rank).random(shape)).astype(np.int64)
            for rank in range(ranks)
        ]


class Pairs:
    """What ranks ask of one another in all steps, (ranks, ranks) each: asker, owner. From the draws alone."""

    def __init__(self, draws: Draws, owners: Owners, hot: list[int]) -> None:
        shape = (draws.ranks, draws.ranks)
        self.ids, self.occurrences = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.hot = {hottest: np.zeros(shape, np.int64) for hottest in hot}  # of the ids, the hottest of each feature
        for asker, steps in enumerate(draws.of_rank):
            for ids in steps.reshape(-1, steps.shape[2]):
                unique, counts = np.unique(ids, return_counts=True)
                owner = owners.of_bucket[buckets_of(unique)]
                self.ids[asker] += np.bincount(owner, minlength=draws.ranks)
                self.occurrences[asker] += np.bincount(owner, counts, draws.ranks).astype(np.int64)
                for hottest, pairs in self.hot.items():
                    pairs[asker] += np.bincount(owner[unique < hottest], minlength=draws.ranks)


def modelled(pairs: Pairs, options: argparse.Namespace) -> tuple[Ints, Ints]:
    """The cost model: bytes of ids, and of vectors, that each rank sends to others in all, (ranks,) and (ranks,)."""
    ranks = len(pairs.ids)
    sizes = options.features * (3 if options.exact else 2)  # ids, occurrences; and with --exact these by feature
    heads = options.steps * (ranks - 1) * (HEAD + options.features + sizes)
    ids, occurrences = between(pairs.ids), between(pairs.occurrences)
    sent = ids + occurrences if options.exact else ids
    gradients = occurrences if options.exact else ids
    value_bytes = {"float32": 4, "bfloat16": 2, "float16": 2}[options.wire]
    return 8 * (sent.sum(axis=1) + heads), value_bytes * options.dim * (ids.sum(axis=0) + gradients.sum(axis=1))


def between(pairs: Ints) -> Ints:
    """(ranks, ranks) without what ranks ask of themselves."""
    return pairs * (1 - np.eye(len(pairs), dtype=np.int64))


def trained(options: argparse.Namespace, steps: Ints, transport: Transport) -> Ints:
    """What one rank sent to others, in ids and in vectors, and the rows that it holds after all steps, (3,)."""
    names = [f"f{k}" for k in range(options.features)]
    configs = [TableConfig(name=name, dim=options.dim, optimizer=optimizers.RowWiseAdagrad(lr=0.01)) for name in names]
    outputs = [Output(name, name, name) for name in names]
    ones = np.ones(options.batch, np.int32)
    collection = ShardedCollection(configs, outputs, transport, exact=options.exact)
    for ids in steps:
        step = collection.forward([Bag(column, ones) for column in ids])
        step.apply_matrix(np.full_like(step.vectors, 0.01), shared_by=transport.ranks)
    rows = sum(len(part.table) for part in collection.parts)
    return np.array([transport.id_bytes, transport.vector_bytes, rows], np.int64)


def simulated(options: argparse.Namespace, draws: Draws) -> tuple[Ints, float]:
    """`trained` of every rank, each a thread, (ranks, 3); and the processor time in all, in seconds."""
    begun = time.process_time()
    told = run_ranks(
        draws.ranks, lambda transport: trained(options, draws.of_rank[transport.rank], transport), options.wire
    )
    return np.stack(told), time.process_time() - begun


def real(options: argparse.Namespace, draws: Draws) -> tuple[Ints, float]:
    """The same, where this process is a rank."""
    transport, begun = Transport(None, options.wire), time.process_time()
    told = trained(options, draws.of_rank[transport.rank], transport)
    cpu_us = np.array([1e6 * (time.process_time() - begun)]).astype(np.int64)
    return transport.gather(told), float(transport.gather(cpu_us).sum()) / 1e6


def measured(options: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """One number of ranks: numbers a rank and step; of skews, the largest of a rank to the mean."""
    draws = Draws(options, ranks)
    told, cpu_s = (real if dist.is_initialized() else simulated)(options, draws)
    owners = Division(TableConfig(name="any", dim=options.dim), ranks).owners
    pairs = Pairs(draws, owners, [hottest // options.features for hottest in options.hot])
    ids, vectors, rows = told.T
    per = ranks * options.steps
    remote = max(int(between(pairs.ids).sum()), 1)
    return {
        "ranks": ranks,
        "unique": int(pairs.ids.sum()) / per,
        "id_bytes": int(ids.sum()) / per,
        "vector_bytes": int(vectors.sum()) / per,
        "as_modelled": bool(np.array_equal(np.stack(modelled(pairs, options)), [ids, vectors])),
        "sent_skew": skew(ids + vectors),
        "asked_skew": skew(pairs.ids.sum(axis=0)),
        "occurrences_skew": skew(pairs.occurrences.sum(axis=0)),
        "rows_skew": skew(rows),
        "cpu_ms": 1000 * cpu_s / per,
        "hot": dict(zip(options.hot, [int(between(each).sum()) / remote for each in pairs.hot.values()], strict=True)),
    }


def skew(of_ranks: Ints) -> float:
    """The largest to the mean; 1 where there is nothing."""
    return float(of_ranks.max() / of_ranks.mean()) if of_ranks.any() else 1.0


def report(told: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print what came out."""
    which = f"Zipf {options.exponent}" if options.ids == "zipf" else "uniform"
    print(
        f"{options.features} features, dim {options.dim}, {options.rows:,} ids a feature ({which}), batch "
        f"{options.batch:,} a rank, {options.wire}{', exact' if options.exact else ''}; a rank and step:"
    )
    print("ranks  unique ids  MB ids  MB vectors  model  skew: sent  asked  occurrences  rows  CPU ms  of the hottest")
    for each in told:
        hot = ", ".join(f"{hottest:,}: {share:.1%}" for hottest, share in each["hot"].items())
        model = "same" if each["as_modelled"] else "OTHER"
        print(
            f"{each['ranks']:>5}{each['unique']:>12,.0f}{each['id_bytes'] / 1e6:>8.2f}"
            f"{each['vector_bytes'] / 1e6:>12.2f}{model:>7}{each['sent_skew']:>12.2f}{each['asked_skew']:>7.2f}"
            f"{each['occurrences_skew']:>13.2f}{each['rows_skew']:>6.2f}{each['cpu_ms']:>8.1f}  {hot}"
        )
    print(f"programs that wanted a core in the last minute: {machine()['load_1min']} of {machine()['cores']}")


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=numbers, default=[1, 2, 4, 8, 16, 32, 64], help="separated by commas")
    parser.add_argument("--batch", type=count, default=512, help="samples a rank and step")
    parser.add_argument("--features", type=count, default=26)
    parser.add_argument("--dim", type=count, default=16)
    parser.add_argument("--rows", type=count, default=50_000, help="ids that a feature has")
    parser.add_argument("--ids", choices=("uniform", "zipf"), default="zipf")
    parser.add_argument("--exponent", type=positive, default=1.05, help="of Zipf's law")
    parser.add_argument("--steps", type=count, default=2)
    parser.add_argument("--exact", action="store_true", help="every occurrence's gradient by itself")
    parser.add_argument("--wire", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--hot", type=numbers, default=[260, 2_600, 26_000], help="separated by commas")
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    if most := [ranks for ranks in options.ranks if ranks > BUCKETS]:
        parser.error(f"--ranks: saw {most[0]}; allowed: 1 to {BUCKETS}, the buckets of a table")
    return options


def count(text: str) -> int:
    """A number of things, of which there is at least one."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"saw {text!r}; allowed: 1 or more")
    return int(text)


def numbers(text: str) -> list[int]:
    """Numbers between commas."""
    return [count(each) for each in text.split(",")]


def positive(text: str) -> float:
    """An exponent."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"saw {text!r}; allowed: a number above 0")
    return value


def main() -> None:
    """Count, and exit with 1 where the model and the library differ."""
    options = parsed()
    set_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        options.ranks = [dist.get_world_size()]
    told = [measured(options, ranks) for ranks in options.ranks]
    if int(os.environ.get("RANK", 0)):
        return
    report(told, options)
    if options.json:
        figures = {"machine": machine(), **vars(options), "counted": told}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(each["as_modelled"] for each in told) else 1)


if __name__ == "__main__":
    main()
