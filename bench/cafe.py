"""What rows of their own for hot ids are worth on a drifting stream, at a hundredth and a thousandth of the rows.

    python bench/cafe.py [--samples N] [--seeds N] [--first-seed N] [--users N] [--items N] [--shares X ...]
                         [--json PATH]

The synthetic stream (`monolith.datasets.synthetic`): users and items come and go, tastes drift, popularity follows
Zipf's law. A model is trained online, batch by batch, each scored before it is learnt from; printed is the AUC of the
second half of the stream. Rivals at the same bytes (`num_bytes()`, cells of scores included): `hashed`, and `cafe` with
half of its rows for hot ids; beside them `collisionless`, one row an id, whose ids give the shares their meaning. The
margin is cafe less hashed, seed by seed, with its mean and standard deviation. Same data, order and network for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from machine import machine, ran

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.optimizers import Adagrad
from monolith.datasets.synthetic import SyntheticConfig, SyntheticStream
from monolith.tables.batch import Bag, Batch
from monolith.tables.kinds import new_embedding
from monolith.training.learner import Learner
from monolith.training.ranking import auc

FEATURES = ("user", "item")
DIM, BATCH = 16, 256


class Stream(NamedTuple):
    """All samples, by column."""

    ids: dict[str, np.ndarray]  # (n,) int64
    labels: np.ndarray  # (n,)
    best: float  # AUC of the probabilities that made the labels, on the second half


def main() -> None:
    """Print the table."""
    options = _options()
    words = machine()
    print(words)
    found: dict[str, list[dict[str, float]]] = {str(share): [] for share in options.shares}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        stream = _stream(options, seed)
        counts = {name: len(np.unique(ids)) for name, ids in stream.ids.items()}
        whole = _run(stream, {name: {} for name in FEATURES}, seed)
        print(f"seed {seed}: {counts}, best possible {stream.best:.4f}, collisionless {whole:.4f}", flush=True)
        for share in options.shares:
            rivals = {"hashed": {n: _hashed(c, share) for n, c in counts.items()}}
            rivals["cafe"] = {n: _cafe(rivals["hashed"][n]) for n in counts}
            aucs = {name: _run(stream, tables, seed) for name, tables in rivals.items()}
            found[str(share)].append(
                {"seed": seed, **aucs, "margin": aucs["cafe"] - aucs["hashed"], "collisionless": whole}
            )
            print(f"  {share:7.2%} of the rows: hashed {aucs['hashed']:.4f}, cafe {aucs['cafe']:.4f}", flush=True)
    for share, seeds in found.items():
        margins = np.array([one["margin"] for one in seeds])
        spread = margins.std(ddof=1) if len(margins) > 1 else 0.0
        said = f"{margins.mean():+.4f} +- {spread:.4f} AUC, {len(margins)} seeds"
        print(f"{float(share):7.2%} of the rows: cafe - hashed {said}")
    if options.json is not None:
        options.json.write_text(json.dumps({**ran(words), "shares": found}, indent=1, default=str))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="others than those that settings were chosen on")
    parser.add_argument("--users", type=int, default=20_000, help="that live at any time")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.001], help="rows, of the different ids")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _stream(options: argparse.Namespace, seed: int) -> Stream:
    config = SyntheticConfig(seed=seed, users=options.users, items=options.items, zipf=1.2)
    shown = list(SyntheticStream(config).impressions(options.samples))
    ids = {name: np.array([int(one.feature.features[name]) for one in shown], np.int64) for name in FEATURES}
    labels = np.array([one.action is not None for one in shown], np.float32)
    half = len(labels) // 2
    chances = np.array([one.probability for one in shown])
    return Stream(ids, labels, auc(chances[half:], labels[half:]))


def _hashed(count: int, share: float) -> dict[str, object]:
    return {"kind": "hashed", "rows": max(2, round(count * share))}


def _cafe(hashed: dict[str, object]) -> dict[str, object]:
    """As many rows, half of them for hot ids, less what the cells take."""
    budget = new_embedding(TableConfig(name="x", dim=DIM, **hashed)).num_bytes()  # type: ignore[arg-type]
    for rows in range(int(str(hashed["rows"])), 1, -1):
        own = max(1, rows // 2)
        settings: dict[str, object] = {"kind": "cafe", "rows": rows - own, "own_rows": own}
        if new_embedding(TableConfig(name="x", dim=DIM, **settings)).num_bytes() <= budget:  # type: ignore[arg-type]
            break
    return settings


def _run(stream: Stream, kinds: dict[str, dict[str, object]], seed: int) -> float:
    """AUC of the second half of the stream, each batch scored before it is learnt from."""
    tables = [TableConfig(name=n, dim=DIM, optimizer=Adagrad(lr=0.1), seed=seed, **kinds[n]) for n in FEATURES]  # type: ignore[arg-type]
    model = ModelConfig(kind="deepfm", hidden=[32])
    learner = Learner(
        JobConfig(name="cafe", input=InputConfig(samples="memory://"), tables=tables, model=model, seed=seed)
    )
    scores = [learner.step(_batch(stream, at)).ravel() for at in range(0, len(stream.labels), BATCH)]
    half = len(stream.labels) // 2
    return auc(np.concatenate(scores)[half:], stream.labels[half:])


def _batch(stream: Stream, at: int) -> Batch:
    labels = stream.labels[at : at + BATCH, None]
    n = len(labels)
    times = np.arange(at, at + n)
    return Batch(
        bags={name: Bag(ids[at : at + n], np.ones(n, np.int32)) for name, ids in stream.ids.items()},
        dense={},
        labels=labels,
        rates=np.ones(n, np.float32),
        event_time_ms=times,
        ingestion_time_ms=times,
        groups=np.zeros(n, np.int64),
        late=np.zeros(n, np.bool_),
    )


if __name__ == "__main__":
    main()
