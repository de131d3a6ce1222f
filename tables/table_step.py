"""What a journal step does to one table besides learning: the batches it is shown, their ids, the sweep at the end.

`TableBatch` gives in NumPy the ids that `Collection.forward` hands its tables natively, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import Bag
from monolith.tables.embedding import Embedding
from monolith.tables.hashing import salted as salt

Times = int | npt.NDArray[np.int64] | None


class TableBatch:
    """The ids (n,) of a batch, one feature after the other, as keys of the table that reads these features."""

    __slots__ = ("bags", "ids", "runs")

    def __init__(self, features: Sequence[str], bags: Mapping[str, Bag], *, salted: bool) -> None:
        """``features`` are those of the table, in declared order; ``salted``: their ids are kept apart there."""
        self.bags = [bags[name] for name in features]
        parts = [salt(name, bag.ids) if salted else bag.ids for name, bag in zip(features, self.bags, strict=True)]
        self.ids: npt.NDArray[np.int64] = parts[0] if len(parts) == 1 else np.concatenate(parts)

        self.runs = [(name, len(bag.ids)) for name, bag in zip(features, self.bags, strict=True)]  # by whose rules

    def times(self, times: Times) -> Times:
        """The time of each id (n,), from the time of each sample (batch,); one time for all, or None, stays."""
        if not isinstance(times, np.ndarray):
            return times
        spread = [times if bag.one_each else np.repeat(times, bag.lengths) for bag in self.bags]
        return spread[0] if len(spread) == 1 else np.concatenate(spread)


def end_step(table: Embedding, watermark_ms: int, sweep_rows: int) -> int:
    """What a journal step ends with: the clock goes to the watermark, a part is swept. The rows that were removed."""
    table.advance(watermark_ms)
    return table.sweep(max_rows=sweep_rows)
