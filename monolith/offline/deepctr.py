"""The same models by deepctr-torch, on the same samples: a rival in the same run.

Every feature is a `SparseFeat`; ids are numbered as training has them, 0 for one that it has not. Models are its
`DeepFM` (LR and FM being parts of it) and its `DCN` with matrices, with the cell's sizes, dropout and Adam. Its L2 is
on whole tables at each step, against a summed loss; ours is on the vectors that are read.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from monolith.config import JobConfig
from monolith.errors import ConfigError, InputError
from monolith.offline.cells import Cell
from monolith.offline.fit_cell import Fitted
from monolith.offline.samples import Parts
from monolith.tables.batch import Batch, concatenated
from monolith.training.metrics import Scores, scores_of
from monolith.training.ranking import auc
from monolith.training.sample_file import SampleFile

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Columns(NamedTuple):
    """A part as deepctr-torch takes it."""

    inputs: dict[str, Ints]  # feature -> numbers (n,)
    labels: Any  # (n, 1) float32
    batch: Batch


class Vocabulary:
    """Ids by the number that a plain embedding table has for them, from 1 on."""

    def __init__(self, batch: Batch, features: Sequence[str]) -> None:
        self.known = {name: np.unique(batch.bags[name].ids) for name in features}

    def columns(self, batch: Batch) -> Columns:
        """The part; raises ConfigError for samples with several ids of a feature."""
        inputs = {}
        for name, known in self.known.items():
            bag = batch.bags[name]
            if not bag.one_each:
                raise ConfigError(f"deepctr-torch is run on features with one value a sample; {name} has others")
            places = np.minimum(np.searchsorted(known, bag.ids), len(known) - 1)
            inputs[name] = np.where(known[places] == bag.ids, places + 1, 0)
        return Columns(inputs, batch.labels[:, :1].astype(np.float32), batch)


def fit_rival(cell: Cell, parts: Parts, tell: Callable[[str, int, int], None]) -> Fitted:
    """As `fit_cell`; the parts are held in memory, as deepctr-torch wants them."""
    began = time.monotonic()
    whole = [_whole(path) for path in parts]
    vocabulary = Vocabulary(whole[0], cell.job.feature_names())
    train, valid, test = (vocabulary.columns(batch) for batch in whole)
    model = model_of(cell.job, {name: len(ids) + 1 for name, ids in vocabulary.known.items()})
    size, best, state, seconds = cell.job.train.batch_size, (0.0, 0), {}, []
    for number in range(1, cell.job.fit.epochs + 1):
        start = time.monotonic()
        train_epoch(model, train, size)
        seconds.append(time.monotonic() - start)
        area = auc(_scores(model, valid), valid.batch.labels[:, 0])
        tell(f"{cell.trainer}, epoch {number}", number, cell.job.fit.epochs)
        if area > best[0]:
            best, state = (area, number), copy.deepcopy(model.state_dict())
        elif number - best[1] > cell.job.fit.patience:
            break
    if not state:
        raise InputError(f"{cell}: no epoch has a score on the validation part, its predictions are not finite")
    model.load_state_dict(state)
    tables, dense = _sizes(model)
    return Fitted(
        test=_test_scores(model, test),
        valid_auc=best[0],
        best_epoch=best[1],
        epochs=len(seconds),
        bytes=tables,
        state_bytes=2 * tables,
        dense_bytes=dense,
        rows=sum(len(ids) + 1 for ids in vocabulary.known.values()),
        samples_s=len(whole[0]) / statistics.median(seconds),
        seconds=time.monotonic() - began,
    )


def model_of(job: JobConfig, sizes: Mapping[str, int]) -> Any:
    """The compiled model of a kind that is one of `cells.RIVAL_MODELS`."""
    kind, package = job.model.kind, imported()
    dim = job.tables[0].dim - (kind in ("fm", "deepfm"))
    columns = [package.inputs.SparseFeat(name, size, embedding_dim=dim) for name, size in sizes.items()]
    hidden = () if kind in ("lr", "fm") else tuple(job.model.hidden)
    l2 = job.model.embedding_l2
    common = {
        "dnn_hidden_units": hidden,
        "dnn_dropout": job.model.dropout,
        "l2_reg_embedding": l2,
        "l2_reg_linear": l2,
        "init_std": 0.01,
        "seed": job.seed,
    }
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(job.train.threads)
    if kind == "dcnv2":
        layers = {"cross_num": job.model.cross_layers, "cross_parameterization": "matrix"}
        model = package.models.DCN(columns, columns, **layers, **common)
    else:
        model = package.models.DeepFM(columns, [] if kind == "lr" else columns, use_fm=kind != "lr", **common)
    model.compile(torch.optim.Adam(model.parameters(), lr=job.dense_optimizer.lr), "binary_crossentropy")
    return model


def train_epoch(model: Any, train: Columns, batch_size: int) -> None:
    """One epoch of its own loop, without its metrics and its progress bar."""
    said = sys.stdout
    with ExitStack() as stack:
        sys.stdout = stack.enter_context(Path("/dev/null").open("w"))
        stack.callback(setattr, sys, "stdout", said)
        model.fit(dict(train.inputs), train.labels, batch_size=batch_size, epochs=1, verbose=0)


def _scores(model: Any, part: Columns) -> Any:
    return model.predict(dict(part.inputs), 4096)[:, 0].astype(np.float32)


def _test_scores(model: Any, test: Columns) -> Scores:
    batch, ones = test.batch, np.ones(len(test.batch), np.float32)
    return scores_of(_scores(model, test), batch.labels[:, 0], ones, batch.rates, batch.groups)


def _sizes(model: Any) -> tuple[int, int]:
    """Bytes of the tables, and of all other weights."""
    sizes = {name: 4 * weight.numel() for name, weight in model.state_dict().items()}
    tables = sum(size for name, size in sizes.items() if "embedding_dict" in name)
    return tables, sum(sizes.values()) - tables


def _whole(path: Path) -> Batch:
    with SampleFile.reopen(path) as samples:
        return concatenated(list(samples.blocks()))


def imported() -> Any:
    """deepctr_torch, kept from asking the package index for its newest version as it is imported."""
    if "deepctr_torch" not in sys.modules:
        kept = sys.modules.get("requests")
        answer = SimpleNamespace(status_code=0)
        sys.modules["requests"] = SimpleNamespace(get=lambda _: answer, codes=SimpleNamespace(ok=200))  # type: ignore[assignment]
        try:
            import deepctr_torch
        finally:
            if kept is None:
                del sys.modules["requests"]
            else:
                sys.modules["requests"] = kept
    import deepctr_torch
    import deepctr_torch.inputs
    import deepctr_torch.models

    return deepctr_torch
