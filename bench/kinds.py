"""What each kind of table takes and costs: bytes to answer, and samples a second of a whole training step.

    python bench/kinds.py [--batch N] [--ids N] [--share X] [--rounds N] [--only KIND ...] [--json PATH]
    python bench/kinds.py --tbe [--batch N] [--ids N] [--share X] [--rounds N] [--json PATH]

The job of bench/stream.py, DeepFM over 8 features whose ids are Zipf-distributed, with its tables of each kind in turn,
in one process: collisionless (the rival), hashed to a share of the ids, quotient-remainder, which tells as many apart
in about twice the root of that many rows, and one unified table of as many rows as all hashed ones have, under an MLP,
with the hashed ones under an MLP beside it; and cafe, of about as many bytes as hashed, half of its rows for hot ids.
Bytes are `num_bytes()` of all tables: rows, the words beside them, and
the index; optimizer states apart. Speed is CPU time of the step's thread, a turn of one kind after a turn of the next;
printed are the median ratio to collisionless of neighbouring turns and its quartiles.

``--tbe`` steps the unified table's rows alone, forward and backward under autograd with row-wise Adagrad, ids hashed
before either: our native rows against FBGEMM's TBE of as many rows, by wall time on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from machine import machine
from stream import START_MS, job_of

from monolith.tables.batch import Bag, Batch
from monolith.training.learner import Learner

FEATURES = 8
TURN = 16  # steps


def main() -> None:
    """Print the table."""
    options = _options()
    words = machine()
    print(words)
    if options.tbe:
        from tbe_rows import compare  # who has no FBGEMM measures the rest

        found = compare(FEATURES, options)
        if options.json is not None:
            options.json.write_text(json.dumps({"machine": words, "rows": found}, indent=1))
        return
    kinds = {name: made for name, made in _kinds(options).items() if name in options.only or not options.only}
    learners = {name: _learner(name, settings, options.batch) for name, settings in kinds.items()}
    batches = _batches(options.batch, options.ids)
    _turn(learners, batches, 4 * TURN)
    seconds = [_turn(learners, batches, TURN) for _ in range(options.rounds)]
    found = {name: _line(name, learner, seconds, options.batch) for name, learner in learners.items()}
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": words, "kinds": found}, indent=1, default=str))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--ids", type=int, default=200_000, help="different ids of a feature, at most")
    parser.add_argument("--share", type=float, default=0.1, help="rows of a hashed table, as a share of the ids")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=[], metavar="KIND", help="of these alone; the first is the rival")
    parser.add_argument("--tbe", action="store_true", help="compare the rows of a unified table with FBGEMM's")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _kinds(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    hashed = max(1, round(options.ids * options.share))
    kinds: dict[str, dict[str, object]] = {"collisionless": {}, "hashed": {"kind": "hashed", "rows": hashed}}
    for combine in ("product", "sum", "concat"):
        kinds[f"qr, {combine}"] = {"kind": "qr", "rows": options.ids, "combine": combine}
    half = round(0.43 * hashed)  # a score's cell takes a third of a row of 16
    kinds["cafe"] = {"kind": "cafe", "rows": half, "own_rows": half}
    kinds["hashed, mlp"] = {"kind": "hashed", "rows": hashed}
    kinds["unified, mlp"] = {"kind": "unified", "rows": FEATURES * hashed}
    return kinds


def _learner(name: str, settings: dict[str, object], batch: int) -> Learner:
    job = job_of(FEATURES, batch)
    tables = [msgspec.structs.replace(table, dim=16, **settings) for table in job.tables]
    if settings.get("kind") == "unified":
        names = [table.name for table in tables]
        tables = [msgspec.structs.replace(tables[0], name="all", features=names)]
    model = msgspec.structs.replace(job.model, kind="mlp") if name.endswith("mlp") else job.model
    return Learner(msgspec.structs.replace(job, tables=tables, model=model))


def _batches(size: int, ids: int) -> Iterator[Batch]:
    rng, ones = np.random.default_rng(0), np.ones(size, np.int32)
    for number in range(1_000_000):
        times = START_MS + number * size + np.arange(size)
        yield Batch(
            bags={f"f{k}": Bag(rng.zipf(1.2, size) % ids, ones) for k in range(FEATURES)},
            dense={},
            labels=(rng.random((size, 1)) < 0.2).astype(np.float32),
            rates=np.ones(size, np.float32),
            event_time_ms=times,
            ingestion_time_ms=times,
            groups=np.zeros(size, np.int64),
            late=np.zeros(size, np.bool_),
        )


def _turn(learners: dict[str, Learner], batches: Iterator[Batch], steps: int) -> dict[str, float]:
    """Seconds of the same steps, by kind."""
    some, taken = list(islice(batches, steps)), {}
    for name, learner in learners.items():
        start = time.thread_time()
        for batch in some:
            learner.step(batch)
        taken[name] = time.thread_time() - start
    return taken


def _line(name: str, learner: Learner, seconds: list[dict[str, float]], batch: int) -> dict[str, float]:
    tables = learner.tables.values()
    rows, taken = sum(map(len, tables)), sum(table.num_bytes() for table in tables)
    state = sum(table.stats().bytes_state for table in tables)
    rival = next(iter(seconds[0]))
    low, middle, high = np.quantile([turn[rival] / turn[name] for turn in seconds], (0.25, 0.5, 0.75))
    rate = batch * TURN / float(np.median([turn[name] for turn in seconds]))
    print(
        f"{name:14} {rows:9,} rows {taken / 1e6:8.3f} MB to answer, {state / 1e6:7.3f} MB of state; "
        f"{rate:9,.0f} samples/s, {middle:.2f}x {rival} ({low:.2f} to {high:.2f})"
    )
    return {"rows": rows, "bytes": taken, "state_bytes": state, "samples_s": rate, "ratio": float(middle)}


if __name__ == "__main__":
    main()
