"""A cell of kind `optembed`: supernet, search within the bytes and retraining, judged as every other cell is.

The stages lie in a folder, so that a cell that was interrupted goes on; cells that differ by their bytes alone share
the supernet.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from monolith.offline.cells import SEARCH, Cell
from monolith.offline.fit_cell import Best, Fitted, Tell, judged, samples_a_second
from monolith.offline.samples import Parts
from monolith.optembed.compression import Compression
from monolith.training.sample_file import SampleFile


def fit_optembed(cell: Cell, parts: Parts, folder: Path, tell: Tell) -> Fitted:
    """As `fit_cell`. In ``folder`` the supernet stays; what is of these bytes alone is removed when it is done.

    Samples a second are those of the retraining; `seconds` is of this call.
    """
    began = time.monotonic()
    assert cell.budget is not None
    shared, own = folder / cell.key.partition("-")[0] / "supernet", folder / cell.key
    with ExitStack() as stack:
        train, valid, test = (stack.enter_context(SampleFile.reopen(path)) for path in parts)
        options = SEARCH._replace(max_bytes=cell.budget)
        work = Compression(cell.job, options, (shared, own), tell, lambda _: None)
        _, retraining = work.retraining(work.found(train, valid), train, valid)
        epochs = list(retraining.epochs())
        best = Best(retraining.best_epoch, retraining.best_score, len(retraining.scores))
        speed = samples_a_second(train, epochs) if epochs else math.nan
        fitted = judged(retraining.learner, test, best, speed, began)
    shutil.rmtree(own)
    return fitted
