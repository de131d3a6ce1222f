"""What 16-bit values cost in AUC: one model on MovieLens, its table in float32, bfloat16 and float16.

    python bench/storage.py [--data ml1m|ml100k] [--folder PATH] [--seeds N] [--epochs N] [--json PATH]

A factorization machine of user and movie (a weight and a vector of 16 an id, Adagrad) learns from four fifths of the
ratings, in an order of the seed's, whether a rating is 4 or more; AUC is on the last fifth. Each seed has its own
split, order and first values, the same for the three storages. A line gives the mean AUC and the difference to float32
of the same seed: mean, standard error, and the seeds' range. Ratings are read from ../shared/data or --folder, which is
not part of the project; without it there is nothing to run, and it says so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.tables import Table, TableConfig, optimizers

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STORAGES = ("float32", "bfloat16", "float16")
DIM, BATCH, LR = 17, 512, 0.05

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def main() -> None:
    """Train every storage on every seed and print the differences."""
    options = parse()
    path = Path(options.folder) / options.data / "ratings.parquet"
    if not path.exists():
        print(f"skipped: it needs the MovieLens ratings in {path}, which cannot be redistributed")
        return
    ids, labels = ratings(path)
    print(
        f"{options.data}: {len(labels):,} ratings, {options.seeds} seeds, {options.epochs} epochs, dim {DIM}, Adagrad"
    )
    aucs = np.array([[run(ids, labels, s, seed, options.epochs) for s in STORAGES] for seed in range(options.seeds)])
    results = [summary(storage, column, aucs[:, 0]) for storage, column in zip(STORAGES, aucs.T, strict=True)]
    for result in results:
        print(text(result))
    if options.json:
        Path(options.json).write_text(json.dumps({**vars(options), "storages": results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["ml1m", "ml100k"], default="ml1m")
    parser.add_argument("--folder", default=str(DATA), help="where <data>/ratings.parquet is")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    return options


def ratings(path: Path) -> tuple[Ids, Floats]:
    """User and movie of each rating, (n, 2) with movies as negative ids, and whether it is 4 or more, (n,)."""
    import pyarrow.parquet as pq

    columns = {name: pq.read_table(path).column(name).to_numpy() for name in ("user_id", "movie_id", "rating")}
    ids = np.stack([columns["user_id"].astype(np.int64), -1 - columns["movie_id"].astype(np.int64)], axis=1)
    return ids, (columns["rating"] >= 4).astype(np.float32)


def run(ids: Ids, labels: Floats, storage: Any, seed: int, epochs: int) -> float:
    """AUC of one training."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    train, test = np.split(order, [len(order) * 4 // 5])
    config = TableConfig(name="ids", dim=DIM, storage=storage, seed=seed, optimizer=optimizers.Adagrad(lr=LR))
    table = Table(config)
    for _ in range(epochs):
        for batch in np.split(train, range(BATCH, len(train), BATCH)):
            step(table, ids[batch], labels[batch])
        train = rng.permutation(train)
    return auc(labels[test], logits(table.lookup(ids[test].ravel()))[0])


def step(table: Table, ids: Ids, labels: Floats) -> None:
    """One step on the mean loss of a batch, its ids (n, 2)."""
    flat = ids.ravel()
    table.observe(flat)
    score, grads = logits(table.lookup(flat))
    error = (1 / (1 + np.exp(-score)) - labels) / len(labels)
    table.apply_gradients(flat, (grads * error[:, None, None]).reshape(-1, DIM).astype(np.float32))


def logits(rows: Floats) -> tuple[Floats, Floats]:
    """The score of each pair of ``rows`` (2n, dim), (n,), and its gradient with respect to them, (n, 2, dim)."""
    pairs = rows.reshape(-1, 2, DIM)
    score = pairs[:, :, 0].sum(axis=1) + (pairs[:, 0, 1:] * pairs[:, 1, 1:]).sum(axis=1)
    grads = pairs[:, ::-1].copy()
    grads[:, :, 0] = 1
    return score, grads


def auc(labels: Floats, scores: Floats) -> float:
    """The share of pairs of a 1 and a 0 that are in order, ties as a half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = labels == 1
    n = int(ones.sum())
    return float((ranks[ones].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


def summary(storage: str, aucs: npt.NDArray[np.float64], plain: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The figures of one storage; differences are to float32 of the same seed."""
    differences = aucs - plain
    return {
        "storage": storage,
        "auc": float(aucs.mean()),
        "difference": float(differences.mean()),
        "standard_error": float(differences.std(ddof=1) / len(aucs) ** 0.5),
        "least": float(differences.min()),
        "most": float(differences.max()),
    }


def text(result: dict[str, Any]) -> str:
    """One line of the report."""
    line = f"  {result['storage']:9s} AUC {result['auc']:.5f}"
    if result["storage"] == "float32":
        return line
    spread = f"+- {result['standard_error']:.5f}, {result['least']:+.5f} to {result['most']:+.5f}"
    return f"{line}   to float32 {result['difference']:+.5f} ({spread})"


if __name__ == "__main__":
    main()
