"""Samples a second of offline training: ours, deepctr-torch and plain torch with sparse gradients, same model and data.

    python bench/offline.py [--models KIND ...] [--data FOLDER] [--rows N] [--features N] [--ids N] [--batch N]
                            [--dim N] [--rounds N] [--json PATH]

Three contenders in one process, an epoch of one after an epoch of the next, one thread each: the `Learner` as
`monolith fit` drives it, with collisionless tables; deepctr-torch's own `fit`; and torch as a careful user writes it,
one `nn.Embedding(sparse=True)` for all features with `SparseAdam`, the network with `Adam`, FM by the sum's square.
Data are Zipf-distributed ids, or with --data some of the training part of a prepared set (`monolith data prepare`),
beside tables for all its ids. Time is CPU time of the process, so that other programs change it little; a first round,
in which rows are made, is left out. Ratios are ours to the other's samples a second in the same round: median and
quartiles.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from machine import machine

from monolith.datasets.sets.about import About, FeatureAbout, PartAbout, read_about
from monolith.datasets.sets.description import Split
from monolith.offline.cells import Prepared, Settings, job_of
from monolith.offline.deepctr import Vocabulary, model_of, train_epoch
from monolith.offline.samples import samples_of
from monolith.tables.batch import Bag, Batch, concatenated
from monolith.training.learner import Learner
from monolith.training.sample_file import SampleFile

KINDS = ("lr", "fm", "deepfm", "dcnv2")
OURS = "monolith"
Epoch = Callable[[int], None]  # trains on all samples, in the order of a round


def main() -> None:
    """Print a line for each model."""
    options = parse()
    words = machine()
    print(words)
    prepared, data = from_folder(options.data) if options.data else generated(options)
    known = data  # whose ids the rivals' tables have
    data = data.take(np.random.default_rng(0).permutation(len(data))[: options.rows])
    found = {kind: compared(kind, prepared, (data, known), options) for kind in options.models}
    if options.json:
        shape = {"rows": len(data), "features": len(data.bags), "data": prepared.about.name}
        report = {"date": datetime.now(UTC).date().isoformat(), "machine": words, **shape, "models": found}
        command = " ".join(["python", "bench/offline.py", *sys.argv[1:]])
        options.json.write_text(json.dumps({"command": command, **report}, indent=1, default=str) + "\n")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--data", type=Path, help="folder of a prepared set")
    parser.add_argument("--rows", type=int, default=65_536, help="samples an epoch, at most")
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--ids", type=int, default=20_000, help="different ids of a feature, at most")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def compared(
    kind: str, prepared: Prepared, batches: tuple[Batch, Batch], options: argparse.Namespace
) -> dict[str, Any]:
    """Samples a second of each, and ratios; ``batches``: what is trained on, and what the tables are made for."""
    data, known = batches
    settings = Settings(dim=options.dim, batch_size=options.batch)
    job = job_of(prepared, kind, "collisionless", None, 0, settings)
    vocabulary = Vocabulary(known, job.feature_names())
    contenders = {
        OURS: ours(job, data),
        "deepctr-torch": rival(job, data, vocabulary),
        "plain torch": plain(job, data, vocabulary),
    }
    seconds: list[dict[str, float]] = []
    for number in range(options.rounds + 1):
        seconds.append({name: timed(epoch, number) for name, epoch in contenders.items()})
    rates = {name: len(data) / np.array([turn[name] for turn in seconds[1:]]) for name in contenders}
    ratios = {name: np.quantile(rates[OURS] / rates[name], (0.25, 0.5, 0.75)).tolist() for name in rates}
    text = ", ".join(
        f"{name} {np.median(rates[name]):,.0f}"
        + ("" if name == OURS else f" ({ratios[name][1]:.2f}x: {ratios[name][0]:.2f} to {ratios[name][2]:.2f})")
        for name in contenders
    )
    print(f"{kind:7} samples/s: {text}", flush=True)
    return {"rates": {name: float(np.median(rate)) for name, rate in rates.items()}, "ratios": ratios}


def timed(epoch: Epoch, number: int) -> float:
    """Seconds of the processor."""
    start = time.process_time()
    epoch(number)
    return time.process_time() - start


def ours(job: Any, data: Batch) -> Epoch:
    """As `monolith fit` drives it: shuffled, then cut."""
    learner = Learner(job)

    def epoch(number: int) -> None:
        torch.use_deterministic_algorithms(True)  # as every job runs; a rival turns it off
        for batch in data.take(np.random.default_rng(number).permutation(len(data))).pieces(job.train.batch_size):
            learner.learn(batch)

    return epoch


def rival(job: Any, data: Batch, vocabulary: Vocabulary) -> Epoch:
    """deepctr-torch's own loop."""
    model = model_of(job, {name: len(ids) + 1 for name, ids in vocabulary.known.items()})
    columns = vocabulary.columns(data)

    def epoch(number: int) -> None:
        torch.use_deterministic_algorithms(False)
        torch.manual_seed(number)
        train_epoch(model, columns, job.train.batch_size)

    return epoch


def plain(job: Any, data: Batch, vocabulary: Vocabulary) -> Epoch:
    """Torch's sparse gradients."""
    columns = vocabulary.columns(data)
    sizes = [len(ids) + 1 for ids in vocabulary.known.values()]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    ids = torch.from_numpy(np.stack([columns.inputs[name] for name in vocabulary.known], 1) + starts)
    labels = torch.from_numpy(columns.labels[:, 0].copy())
    torch.manual_seed(job.seed)
    net = Plain(job, sum(sizes), len(sizes))
    rows = torch.optim.SparseAdam(list(net.table.parameters()), lr=0.001)
    others = torch.optim.Adam([weight for name, weight in net.named_parameters() if "table" not in name], lr=0.001)

    def epoch(number: int) -> None:
        torch.use_deterministic_algorithms(False)
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(number))
        for places in order.split(job.train.batch_size):
            loss = net.loss(ids[places], labels[places])
            rows.zero_grad()
            others.zero_grad()
            loss.backward()
            rows.step()
            others.step()

    return epoch


class Plain(nn.Module):
    """The models over one embedding table with sparse gradients."""

    def __init__(self, job: Any, ids: int, features: int) -> None:
        super().__init__()
        self.kind, self.l2, width = job.model.kind, job.model.embedding_l2, job.tables[0].dim
        self.table = nn.Embedding(ids, width, sparse=True)
        nn.init.normal_(self.table.weight, std=0.01)
        self.bias = nn.Parameter(torch.zeros(1))
        deep = features * (width - (self.kind == "deepfm"))
        if self.kind in ("deepfm", "dcnv2"):
            self.mlp, last = layers(deep, job.model)
            self.last = nn.Linear(last + (deep if self.kind == "dcnv2" else 0), 1)
        if self.kind == "dcnv2":
            self.cross = nn.ModuleList(nn.Linear(deep, deep) for _ in range(job.model.cross_layers))

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """The mean over samples, L2 of the vectors included."""
        vectors = self.table(ids)
        loss = nn.functional.binary_cross_entropy_with_logits(self.logits(vectors), labels)
        return loss + 0.5 * self.l2 * vectors.square().sum() / len(ids)

    def logits(self, vectors: Tensor) -> Tensor:
        """(batch,) from (batch, features, width)."""
        if self.kind == "dcnv2":
            first = crossed = vectors.flatten(1)
            for layer in self.cross:
                crossed = first * layer(crossed) + crossed
            return self.last(torch.cat([crossed, self.mlp(first)], 1)).squeeze(1)
        logits = self.bias + vectors[:, :, 0].sum(1)
        if self.kind == "lr":
            return logits
        factors = vectors[:, :, 1:]
        logits = logits + 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)
        return logits if self.kind == "fm" else logits + self.last(self.mlp(factors.flatten(1))).squeeze(1)


def layers(width: int, config: Any) -> tuple[nn.Module, int]:
    """Linear, ReLU, dropout, and the width that comes out."""
    parts: list[nn.Module] = []
    for size in config.hidden:
        parts += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(config.dropout)]
        width = size
    return nn.Sequential(*parts), width


def from_folder(folder: Path) -> tuple[Prepared, Batch]:
    """The training part of a prepared set."""
    prepared = Prepared(read_about(folder), folder)
    job = job_of(prepared, "deepfm", "collisionless", None, 0, Settings())
    with SampleFile.reopen(samples_of(prepared, job, lambda *_: None).train) as samples:
        return prepared, concatenated(list(samples.blocks()))


def generated(options: argparse.Namespace) -> tuple[Prepared, Batch]:
    """Zipf-distributed ids without any meaning."""
    rng, n = np.random.default_rng(0), options.rows
    names = [f"f{number}" for number in range(options.features)]
    ones, zeros = np.ones(n, np.int32), np.zeros(n, np.int64)
    batch = Batch(
        bags={name: Bag(rng.zipf(1.2, n) % options.ids, ones) for name in names},
        dense={},
        labels=(rng.random((n, 1)) < 0.2).astype(np.float32),
        rates=np.ones(n, np.float32),
        event_time_ms=zeros,
        ingestion_time_ms=zeros,
        groups=zeros,
        late=np.zeros(n, np.bool_),
    )
    features = [FeatureAbout(name, "int", len(np.unique(batch.bags[name].ids)), 0) for name in names]
    parts = dict.fromkeys(("train", "valid", "test"), PartAbout(n, int(batch.labels.sum())))
    about = About(
        name="Zipf", title="", terms="", label="", time="", split=Split(), item=names[0], group=names[0],
        features=features, parts=parts, files={}, broken=0, broken_lines=[],
    )  # fmt: skip
    return Prepared(about, Path()), batch


if __name__ == "__main__":
    main()
