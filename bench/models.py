"""Held-out AUC of each model, trained by this project and by plain torch with the same settings.

    python bench/models.py [--data planted|ml100k] [--models KIND ...] [--seeds N] [--samples N] [--epochs N]
                           [--norm none|batch|layer] [--dropout P] [--folder PATH] [--json PATH]

Plain torch is `nn.Embedding` (dense, a row for every id) and networks written out here, with torch.optim.Adagrad for
the rows and Adam for the network, initial values of the same distributions, the same batches in the same order. Ours is
the `Learner` that `monolith train` runs. All seeds have the same data and split; each has its own order, which its two
runs share, and initial values, which they do not. A line gives both mean AUCs over the seeds with plain torch's
standard deviation from seed to seed, and the difference by seed: mean, standard error and range.

The planted data: users and items with weights and vectors whose inner product matters, an hour that shifts items, and
two numbers, one of which matters through its square. Ratings of ml100k are read from ../shared/data or --folder, which
is not part of the project; without it there is nothing to run, and it says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from monolith.config import DenseOptimizerConfig, FeatureConfig, InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.optimizers import Adagrad
from monolith.tables.batch import Bag, Batch
from monolith.training.learner import Learner

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
KINDS = ("lr", "fm", "deepfm", "widedeep", "mlp", "dcnv2", "dlrm")
DIM, HIDDEN, BATCH = 8, [32, 16], 128
ROW_LR, DENSE_LR, SCALE = 0.05, 0.01, 0.05  # SCALE: rows begin uniform in +-SCALE, as in TableConfig

Floats = npt.NDArray[np.float32]


class Data(NamedTuple):
    """Samples in order; the last fifth is held out."""

    ids: dict[str, npt.NDArray[np.int64]]  # feature -> (n,)
    dense: Floats  # (n, width)
    labels: Floats  # (n,)

    @property
    def cut(self) -> int:
        """Where the held-out part begins."""
        return len(self.labels) * 4 // 5


def main() -> None:
    """Train every model on every seed both ways and print the differences."""
    options = parse()
    if options.data == "ml100k" and not ratings_file(options).exists():
        print(f"skipped: it needs the MovieLens ratings in {ratings_file(options)}, which cannot be redistributed")
        return
    print(f"{options.data}: {options.seeds} seeds, {options.epochs} epochs, dim {DIM}, MLP {HIDDEN}, batch {BATCH}")
    results = [compared(kind, options) for kind in options.models]
    if options.json:
        Path(options.json).write_text(json.dumps({**vars(options), "models": results}, indent=1) + "\n")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["planted", "ml100k"], default="planted")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=40_000, help="of the planted data")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", default=str(DATA), help="where ml100k/ratings.parquet is")
    parser.add_argument("--norm", choices=["none", "batch", "layer"], default="none")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args(words)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    return options


def compared(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both AUCs of each seed, printed."""
    data = planted(options.samples) if options.data == "planted" else ratings(ratings_file(options))
    aucs = np.array([pair(kind, options, data, seed) for seed in range(options.seeds)])  # (seeds, ours and plain)
    difference = aucs[:, 0] - aucs[:, 1]
    spread, error = aucs[:, 1].std(ddof=1), difference.std(ddof=1) / len(difference) ** 0.5
    print(
        f"  {kind:9s} ours {aucs[:, 0].mean():.4f}  plain torch {aucs[:, 1].mean():.4f} (+- {spread:.4f})  difference "
        f"{difference.mean():+.4f} +- {error:.4f} ({difference.min():+.4f} to {difference.max():+.4f})",
        flush=True,
    )
    return {"kind": kind, "ours": aucs[:, 0].tolist(), "plain": aucs[:, 1].tolist()}


def pair(kind: str, options: argparse.Namespace, data: Data, seed: int) -> tuple[float, float]:
    """Held-out AUC of ours and of plain torch."""
    orders = [np.random.default_rng([seed, e]).permutation(data.cut) for e in range(options.epochs)]
    config = model_config(kind, options)
    held = data.labels[data.cut :]
    return auc(held, ours(config, data, orders, seed)), auc(held, plain(config, data, orders, seed))


def model_config(kind: str, options: argparse.Namespace) -> ModelConfig:
    """The settings that both are given."""
    if kind in ("lr", "fm"):
        return ModelConfig(kind=kind)
    bottom = {"bottom": [16]} if kind == "dlrm" else {}
    return ModelConfig(kind=kind, hidden=HIDDEN, norm=options.norm, dropout=options.dropout, **bottom)


def dims(kind: str, features: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Table -> feature and dim: what each kind takes, as much alike as may be."""
    wide = {"lr": 1, "fm": DIM + 1, "deepfm": DIM + 1}.get(kind, DIM)
    tables = {name: {"feature": name, "dim": wide} for name in features}
    if kind == "widedeep":
        tables |= {f"{name}_weight": {"feature": name, "dim": 1} for name in features}
    return tables


# --- data -------------------------------------------------------------------------------------------------------------


def planted(n: int) -> Data:
    """Labels drawn from a known logit; ids are as seldom and as frequent as Zipf's law has them."""
    rng = np.random.default_rng(7)
    sizes = {"user": max(20, n // 60), "item": max(20, n // 120), "hour": 24}
    ids = {
        name: rng.integers(0, size, n) if name == "hour" else (rng.zipf(1.3, n) * 7919) % size
        for name, size in sizes.items()
    }
    weights = {name: rng.normal(0, 0.5, size) for name, size in sizes.items()}
    factors = {name: rng.normal(0, 0.7, (size, 3)) for name, size in sizes.items()}
    dense = rng.normal(0, 1, (n, 2)).astype(np.float32)
    logit = sum(weights[name][ids[name]] for name in sizes)
    for a, b in (("user", "item"), ("item", "hour")):
        logit = logit + (factors[a][ids[a]] * factors[b][ids[b]]).sum(axis=1)
    logit = logit + 0.4 * dense[:, 0] + 0.5 * (dense[:, 1] ** 2 - 1)
    return Data(ids, dense, (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32))


def ratings_file(options: argparse.Namespace) -> Path:
    """Where the ratings are."""
    return Path(options.folder) / "ml100k" / "ratings.parquet"


def ratings(path: Path) -> Data:
    """Whether a rating is 4 or more, of user, movie and hour of the day, in a random order; the day as a number."""
    import pyarrow.parquet as pq

    names = ("user_id", "movie_id", "rating", "timestamp")
    user, movie, rating, time = (pq.read_table(path).column(name).to_numpy().astype(np.int64) for name in names)
    order = np.random.default_rng(8).permutation(len(user))
    day = ((time - time.mean()) / time.std()).astype(np.float32)
    ids = {"user": user[order], "item": movie[order], "hour": (time[order] // 3600) % 24}
    return Data(ids, day[order, None], (rating[order] >= 4).astype(np.float32))


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(config: ModelConfig, data: Data, orders: list[npt.NDArray[np.int64]], seed: int) -> Floats:
    """Held-out scores of a `Learner`."""
    job = JobConfig(
        name="bench",
        input=InputConfig(samples="memory://samples"),
        tables=[
            TableConfig(name=name, features=[t["feature"]], dim=t["dim"], optimizer=Adagrad(lr=ROW_LR), seed=seed)
            for name, t in dims(config.kind, data.ids).items()
        ],
        features=[FeatureConfig(name="numbers", type="float", width=data.dense.shape[1])],
        model=config,
        dense_optimizer=DenseOptimizerConfig(lr=DENSE_LR),
        seed=seed,
    )
    learner = Learner(job)
    for rows in batches(orders):
        learner.step(batch_of(data, rows))
    return learner.score(batch_of(data, np.arange(data.cut, len(data.labels))))


def batch_of(data: Data, rows: npt.NDArray[np.int64]) -> Batch:
    """The samples as the trainer gets them."""
    n = len(rows)
    ones, zeros = np.ones(n, np.int32), np.zeros(n, np.int64)
    return Batch(
        bags={name: Bag(ids[rows], ones) for name, ids in data.ids.items()},
        dense={"numbers": data.dense[rows]},
        labels=data.labels[rows, None],
        rates=np.ones(n, np.float32),
        event_time_ms=zeros,
        ingestion_time_ms=zeros,
        groups=zeros,
        late=np.zeros(n, np.bool_),
    )


def batches(orders: list[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.int64]]:
    """The samples of each step."""
    for order in orders:
        yield from np.split(order, range(BATCH, len(order), BATCH))


# --- plain torch ------------------------------------------------------------------------------------------------------


def plain(config: ModelConfig, data: Data, orders: list[npt.NDArray[np.int64]], seed: int) -> Floats:
    """Held-out scores of what a torch user would write."""
    torch.manual_seed(1000 + seed)
    tables = dims(config.kind, data.ids)
    rows = nn.ModuleDict(
        {name: nn.Embedding(int(data.ids[t["feature"]].max()) + 1, t["dim"]) for name, t in tables.items()}
    )
    for table in rows.values():
        nn.init.uniform_(table.weight, -SCALE, SCALE)
    net = Plain(config, {name: t["dim"] for name, t in tables.items()}, data.dense.shape[1])
    optimizers = [torch.optim.Adagrad(rows.parameters(), ROW_LR), torch.optim.Adam(net.parameters(), DENSE_LR)]
    inputs = {name: torch.tensor(data.ids[t["feature"]]) for name, t in tables.items()}
    dense, labels = torch.tensor(data.dense), torch.tensor(data.labels)

    def logits(places: Tensor) -> Tensor:
        result: Tensor = net({name: rows[name](ids[places]) for name, ids in inputs.items()}, dense[places])
        return result

    for places in map(torch.tensor, batches(orders)):
        loss = nn.functional.binary_cross_entropy_with_logits(logits(places), labels[places])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    net.eval()
    with torch.no_grad():
        return logits(torch.arange(data.cut, len(labels))).numpy()


class Plain(nn.Module):
    """All models in torch's own words, from vectors by table and dense numbers to logits."""

    def __init__(self, config: ModelConfig, widths: dict[str, int], dense: int) -> None:
        super().__init__()
        self.kind, self.bias = config.kind, nn.Parameter(torch.zeros(1))
        self.linear = nn.Linear(dense, 1, bias=False)
        deep = [dim - (config.kind == "deepfm") for dim in widths.values() if dim > 1]
        everything = sum(deep) + dense
        if config.kind == "dcnv2":
            self.cross = nn.ModuleList(nn.Linear(everything, everything) for _ in range(config.cross_layers))
            self.mlp = layers(everything, config.hidden, config)
            self.last = nn.Linear(everything + config.hidden[-1], 1)
        elif config.kind == "dlrm":
            self.bottom = layers(dense, [*config.bottom, DIM], config)
            pairs = (len(deep) + 1) * len(deep) // 2
            self.mlp = nn.Sequential(layers(DIM + pairs, config.hidden, config), nn.Linear(config.hidden[-1], 1))
        elif config.kind in ("deepfm", "widedeep", "mlp"):
            last = nn.Linear(config.hidden[-1], 1, bias=config.kind == "mlp")
            self.mlp = nn.Sequential(layers(everything, config.hidden, config), last)

    def forward(self, vectors: dict[str, Tensor], dense: Tensor) -> Tensor:
        """Logits, (batch,)."""
        each = list(vectors.values())
        if self.kind == "mlp":
            return self.mlp(torch.cat([*each, dense], 1)).squeeze(1)
        if self.kind in ("dcnv2", "dlrm"):
            return (self.dcnv2 if self.kind == "dcnv2" else self.dlrm)(each, dense).squeeze(1)
        logits = self.bias + self.linear(dense).squeeze(1)
        if self.kind in ("lr", "fm", "deepfm"):
            logits = logits + sum(vector[:, 0] for vector in each)
        if self.kind in ("fm", "deepfm"):
            logits = logits + sum((a[:, 1:] * b[:, 1:]).sum(1) for a, b in combinations(each, 2))
        if self.kind == "deepfm":
            logits = logits + self.mlp(torch.cat([*(vector[:, 1:] for vector in each), dense], 1)).squeeze(1)
        if self.kind == "widedeep":
            logits = logits + sum(vector[:, 0] for vector in each if vector.shape[1] == 1)
            logits = logits + self.mlp(torch.cat([*(v for v in each if v.shape[1] > 1), dense], 1)).squeeze(1)
        return logits

    def dcnv2(self, each: list[Tensor], dense: Tensor) -> Tensor:
        """Cross network beside the layers."""
        first = crossed = torch.cat([*each, dense], 1)
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        result: Tensor = self.last(torch.cat([crossed, self.mlp(first)], 1))
        return result

    def dlrm(self, each: list[Tensor], dense: Tensor) -> Tensor:
        """Inner products of all pairs, of which the bottom's output is one."""
        numbers = self.bottom(dense)
        products = [(a * b).sum(1, keepdim=True) for a, b in combinations([numbers, *each], 2)]
        result: Tensor = self.mlp(torch.cat([numbers, *products], 1))
        return result


def layers(width: int, sizes: list[int], config: ModelConfig) -> nn.Sequential:
    """Linear, norm, ReLU, dropout."""
    parts: list[nn.Module] = []
    for size in sizes:
        norm = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[config.norm]
        parts += [nn.Linear(width, size), norm(size), nn.ReLU(), nn.Dropout(config.dropout)]
        width = size
    return nn.Sequential(*parts)


def auc(labels: Floats, scores: Floats) -> float:
    """The share of pairs of a 1 and a 0 that are in order."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


if __name__ == "__main__":
    main()
