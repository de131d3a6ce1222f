"""Publishing a model by parts, as ranks do it, beside publishing it whole: an image, then a delta, into LMDB and Redis.

    python bench/parts.py [--rows N] [--dim N] [--parts 2,4] [--turns N]

The parts are staged in this one process, one after the other, so a rank's time is that of one part with a processor
to itself. Printed are the least and the most of --turns: of `Store.apply`, of staging one part (mean of all), and of
the commit, which rank 0 makes. Redis is a server of its own that keeps nothing on disk; without the program, its lines
are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
from restart_stores import redis_server

from monolith.card import ModelCard
from monolith.serving.store import Store, open_store
from monolith.tables.delta import Delta, ModelDelta
from monolith.tables.split import Owners, split_ids

CHANGED = 20  # of so many rows one is in the delta


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--parts", default="2,4", help="numbers of ranks")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    ids = np.unique(np.random.default_rng(1).integers(-(2**62), 2**62, options.rows))
    values = np.random.default_rng(2).random((len(ids), options.dim), np.float32)
    deltas = [_delta(0, 1, ids, values), _delta(1, 2, ids[::CHANGED], values[::CHANGED])]
    card = ModelCard(model="bench", lineage="run", tables={"table": options.dim}, features=[])
    for kind in ("lmdb", "redis"):
        if kind == "redis" and not shutil.which("redis-server"):
            continue
        found: dict[str, list[float]] = {}
        for _ in range(options.turns):
            for parts in (1, *map(int, options.parts.split(","))):
                _turn(kind, card, deltas, parts, found)
        for what, seconds in sorted(found.items()):
            print(f"  {kind:<6} {what:<26} {min(seconds):7.3f} to {max(seconds):7.3f} s")


def _delta(base: int, sequence: int, ids: np.ndarray, values: np.ndarray) -> ModelDelta:
    table = Delta(base, sequence, ids, values, np.zeros(0, np.int64))
    return ModelDelta(base, sequence, sequence, sequence, {"table": table}, b"")


def _turn(kind: str, card: ModelCard, deltas: list[ModelDelta], parts: int, found: dict[str, list[float]]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_server() if kind == "redis" else nullcontext(f"lmdb://{folder}") as url,
        closing(open_store(url, card.model)) as store,
    ):
        generation = store.take_over(card).generation
        for what, delta in zip(("image", "delta"), deltas, strict=True):
            for step, seconds in _published(store, delta, parts, generation, card.lineage).items():
                found.setdefault(f"{what}, {step}", []).append(seconds)


def _published(store: Store, delta: ModelDelta, parts: int, generation: int, lineage: str) -> dict[str, float]:
    begun = time.perf_counter()
    if parts == 1:
        store.apply(delta, generation, lineage)
        return {"whole": time.perf_counter() - begun}
    own = _divided(delta.tables["table"], parts)
    ticket = store.begin(delta.base_sequence, delta.sequence, parts, generation, lineage)
    assert ticket is not None
    begun = time.perf_counter()
    receipts = [store.stage(ticket, part, {"table": table}) for part, table in enumerate(own)]
    staged = time.perf_counter()
    store.commit(ticket, receipts, delta)
    return {f"{parts} parts: one": (staged - begun) / parts, f"{parts} parts: commit": time.perf_counter() - staged}


def _divided(table: Delta, parts: int) -> list[Delta]:
    owners = Owners.evenly(parts)
    return [
        dataclasses.replace(table, ids=table.ids[own], values=table.values[own], buckets=owners.buckets(part))
        for part, own in enumerate(split_ids(table.ids, owners).parts())
    ]


if __name__ == "__main__":
    main()
