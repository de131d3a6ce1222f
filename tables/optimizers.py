"""The table's optimizers, one step for each unique id of a batch on the sum ``g`` of its gradients.

All in float32, in the order of operations written in ``docs/optimizers.md``; ``monolith.tables.reference`` is the same
in NumPy, bit by bit. Every one has ``weight_decay`` (L2, into the gradient; that of AdamW and RowWiseAdamW is
decoupled), before that ``clip_row_norm`` on each summed gradient and ``clip_global_norm`` on those of all rows of a
call, and a ``schedule`` of its ``lr`` by the table's own step.
"""

from monolith.config.table import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    RMSProp,
    RowWiseAdagrad,
    RowWiseAdam,
    RowWiseAdamW,
    Schedule,
    Slice,
)

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "RowWiseAdagrad",
    "RowWiseAdam",
    "RowWiseAdamW",
    "Schedule",
    "Slice",
]
