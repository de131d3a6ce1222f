"""Runs one cell: fits as `monolith fit` does, judges the best epoch on the test part."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from monolith.offline.cells import Cell
from monolith.offline.samples import Parts
from monolith.training.evaluation import Evaluation
from monolith.training.fitting import SCORE_BATCH, Fitter
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


def fit_cell(cell: Cell, parts: Parts, tell: Tell) -> Fitted:
    """Fit on the training part, stop early by the validation part, score the test part with the best epoch."""
    began = time.monotonic()
    with ExitStack() as stack:
        train, valid, test = (stack.enter_context(SampleFile.reopen(path)) for path in parts)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monolith-bench-")))
        fitter = Fitter(cell.job, train, valid, scratch / "best", tell)
        epochs = list(fitter.epochs())
        learner = fitter.learner
        evaluation = Evaluation(cell.job.labels)
        for batch in test.batches(SCORE_BATCH):
            evaluation.add(batch, learner.score(batch))
        best = max(epoch for epoch in epochs if epoch.is_best)
        tables = learner.tables.values()
        task = cell.job.labels[0].name
        scores, valid_scores = evaluation.scores()[task], best.scores[task]
        assert isinstance(scores, Scores)
        assert isinstance(valid_scores, Scores)
        return Fitted(
            test=scores,
            valid_auc=valid_scores.auc,
            best_epoch=best.number,
            epochs=len(epochs),
            bytes=sum(table.num_bytes() for table in tables),
            state_bytes=sum(table.stats().bytes_state for table in tables),
            dense_bytes=sum(4 * weight.numel() for weight in learner.model.state_dict().values()),
            rows=sum(map(len, tables)),
            samples_s=len(train) / statistics.median(epoch.seconds for epoch in epochs),
            seconds=time.monotonic() - began,
        )
