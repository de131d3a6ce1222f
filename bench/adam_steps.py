"""Adam's two step counts, online: the bias of a row's moments is corrected by the row's own steps, or the table's.

    python bench/adam_steps.py FOLDER... [--kind adam|rowwise_adam] [--models fm,deepfm] [--lrs 0.001,0.01] [--batch N]
                               [--seeds N] [--json PATH]

A FOLDER holds MovieLens as Parquet: ratings (user_id, movie_id, rating, and timestamp if there is one) and users
(gender, age, occupation, zip). Ratings come in order of their timestamp; without one, users come in descending order,
which in MovieLens-1M is near to the order in which they arrived. A rating of 4 or 5 is a positive.

Every batch is scored, then learnt from, once. Printed is the AUC over the last fifth of the stream for each learning
rate and count, the mean over the seeds with the least and the largest, and beside it torch's own SparseAdam (which
counts the steps of the table) on the same samples from the same kind of start. The dense part is the same in all:
Adam, lr 0.001.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from monolith.config import ModelConfig
from monolith.config.optimizers import Adam, RowWiseAdam
from monolith.config.table import TableConfig
from monolith.tables.batch import Bag
from monolith.training import EmbeddingBagCollection
from monolith.training.models.deepfm import DeepFM
from monolith.training.models.fm import FM
from monolith.training.ranking import auc

FEATURES = ["user", "movie", "gender", "age", "occupation", "zip"]
DIM = 17  # a first-order weight and 16 factors
START = 0.05  # rows start in +- this
JUDGED = 0.2  # of the stream, at its end
DEEP = ModelConfig(kind="deepfm", hidden=[128, 64])
LIKED = 4  # a rating from here on is a positive
KINDS = {"adam": Adam, "rowwise_adam": RowWiseAdam}
Embed = Callable[[np.ndarray], dict[str, torch.Tensor]]
Contender = tuple[Embed, Callable[[], None]]  # ids (batch, features) to vectors; what follows backward


def main() -> None:
    """Run the grid and print it, a line a learning rate."""
    options = parse()
    torch.set_num_threads(1)
    results = []
    for folder in options.folders:
        ids, labels = stream(folder)
        for model in options.models:
            print(f"\n{folder.name} {model} {options.kind}, {len(ids):,} ratings, {options.batch} an update")
            for lr in options.lrs:
                results.append(line(options, folder.name, model, lr, ids, labels))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="adam")
    parser.add_argument("--models", type=lambda text: text.split(","), default=["fm", "deepfm"])
    parser.add_argument(
        "--lrs", type=lambda text: [float(lr) for lr in text.split(",")], default=[1e-3, 3e-3, 1e-2, 3e-2]
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def line(
    options: argparse.Namespace, name: str, model: str, lr: float, ids: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """One learning rate: every count, every seed."""
    kind = KINDS[options.kind]
    contenders: dict[str, Callable[[int], Contender]] = {
        "row": lambda seed: ours(kind(lr=lr, steps="row"), seed),
        "table": lambda seed: ours(kind(lr=lr, steps="table"), seed),
        "SparseAdam": lambda seed: torchs(lr, seed, ids),
    }
    begun, areas = time.monotonic(), {}
    for count, make in contenders.items():
        areas[count] = [online(make(seed), model, seed, ids, labels, options.batch) for seed in range(options.seeds)]
    shown = "   ".join(f"{c} {np.mean(a):.3f} ({min(a):.3f} to {max(a):.3f})" for c, a in areas.items())
    print(f"  lr {lr:<6g} {shown}   {time.monotonic() - begun:.0f} s", flush=True)
    return {"data": name, "model": model, "kind": options.kind, "lr": lr, "batch": options.batch, "auc": areas}


def stream(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n, features), from 0 in each column, and labels (n,), in the order of the stream."""
    ratings, users = (pq.read_table(folder / f"{name}.parquet").to_pydict() for name in ("ratings", "users"))
    user, movie = np.array(ratings["user_id"]), np.array(ratings["movie_id"])
    keys = [movie, user, ratings["timestamp"]] if "timestamp" in ratings else [-user]
    order = np.lexsort(keys)
    row_of = dict(zip(users["user_id"], range(len(users["user_id"])), strict=True))
    rows = np.array([row_of[each] for each in user[order].tolist()])
    columns = [user[order], movie[order], *(np.array(users[name])[rows] for name in FEATURES[2:])]
    ids = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)
    return ids.astype(np.int64), (np.array(ratings["rating"])[order] >= LIKED).astype(np.float32)


def online(contender: Contender, model: str, seed: int, ids: np.ndarray, labels: np.ndarray, batch: int) -> float:
    """The AUC over the last part of the stream, each sample scored before it is learnt from."""
    embed, step = contender
    torch.manual_seed(seed)
    network = FM(FEATURES, {}) if model == "fm" else DeepFM(dict.fromkeys(FEATURES, DIM), {}, DEEP, 1)
    dense = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    scores = np.empty(len(ids), np.float32)
    for first in range(0, len(ids), batch):
        part = slice(first, first + batch)
        logits = network(embed(ids[part]))
        dense.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[part])).backward()
        dense.step()
        step()
        scores[part] = logits.detach().numpy()
    judged = slice(int(len(ids) * (1 - JUDGED)), None)
    return auc(scores[judged], labels[judged])


def ours(rule: Adam | RowWiseAdam, seed: int) -> Contender:
    """Our collection; its tables step themselves."""
    collection = EmbeddingBagCollection([TableConfig(name=n, dim=DIM, optimizer=rule, seed=seed) for n in FEATURES])

    def embed(batch: np.ndarray) -> dict[str, torch.Tensor]:
        ones = np.ones(len(batch), np.int32)
        bags = {name: Bag(np.ascontiguousarray(batch[:, k]), ones) for k, name in enumerate(FEATURES)}
        return collection.forward_bags(bags)

    return embed, lambda: None


def torchs(lr: float, seed: int, ids: np.ndarray) -> Contender:
    """Embeddings of torch with SparseAdam."""
    torch.manual_seed(1000 + seed)
    tables = [torch.nn.Embedding(int(ids[:, k].max()) + 1, DIM, sparse=True) for k in range(len(FEATURES))]
    for table in tables:
        torch.nn.init.uniform_(table.weight, -START, START)
    optimizer = torch.optim.SparseAdam([table.weight for table in tables], lr=lr)

    def embed(batch: np.ndarray) -> dict[str, torch.Tensor]:
        optimizer.zero_grad()
        return {name: tables[k](torch.from_numpy(batch[:, k].copy())) for k, name in enumerate(FEATURES)}

    return embed, optimizer.step


if __name__ == "__main__":
    main()
