"""Runs one cell: fits as `monolith fit` does, judges the best epoch on the test part."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from monolith.offline.cells import Cell
from monolith.offline.samples import Parts
from monolith.training.evaluation import Evaluation
from monolith.training.fitting import SCORE_BATCH, Epoch, Fitter
from monolith.training.learner import Learner
from monolith.training.metrics import Scores
from monolith.training.sample_file import SampleFile

Tell = Callable[[str, int, int], None]


class Fitted(NamedTuple):
    """What a fit came to."""

    test: Scores
    valid_auc: float  # of the best epoch
    best_epoch: int
    epochs: int
    bytes: int  # of all tables, to answer
    state_bytes: int  # of the optimizers
    dense_bytes: int  # of the network's weights, to answer
    rows: int
    samples_s: float  # training samples a second, the median epoch
    seconds: float  # of everything


class Best(NamedTuple):
    """The best epoch of a fit, and how many there were."""

    epoch: int
    valid_auc: float
    epochs: int


def fit_cell(cell: Cell, parts: Parts, tell: Tell) -> Fitted:
    """Fit on the training part, stop early by the validation part, score the test part with the best epoch."""
    began = time.monotonic()
    with ExitStack() as stack:
        train, valid, test = (stack.enter_context(SampleFile.reopen(path)) for path in parts)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monolith-bench-")))
        fitter = Fitter(cell.job, train, valid, scratch / "best", tell)
        epochs = list(fitter.epochs())
        best = max(epoch for epoch in epochs if epoch.is_best)
        valid_scores = best.scores[cell.job.labels[0].name]
        assert isinstance(valid_scores, Scores)
        speed = samples_a_second(train, epochs)
        return judged(fitter.learner, test, Best(best.number, valid_scores.auc, len(epochs)), speed, began)


def samples_a_second(train: SampleFile, epochs: Sequence[Epoch]) -> float:
    """Of the median epoch."""
    return len(train) / statistics.median(epoch.seconds for epoch in epochs)


def judged(learner: Learner, test: SampleFile, best: Best, samples_s: float, began: float) -> Fitted:
    """Score the test part with ``learner``, which is the best epoch's."""
    job = learner.job
    evaluation = Evaluation(job.labels)
    for batch in test.batches(SCORE_BATCH):
        evaluation.add(batch, learner.score(batch))
    scores = evaluation.scores()[job.labels[0].name]
    assert isinstance(scores, Scores)
    tables = learner.tables.values()
    return Fitted(
        test=scores,
        valid_auc=best.valid_auc,
        best_epoch=best.epoch,
        epochs=best.epochs,
        bytes=sum(table.num_bytes() for table in tables),
        state_bytes=sum(table.stats().bytes_state for table in tables),
        dense_bytes=sum(4 * weight.numel() for weight in learner.model.state_dict().values()),
        rows=sum(map(len, tables)),
        samples_s=samples_s,
        seconds=time.monotonic() - began,
    )
