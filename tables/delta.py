"""What changed between two sequence numbers: of one table, and of a whole model.

A delta holds *absolute* values, so applying it twice, or applying a wider one over a narrower one, ends in the same
state. ``base_sequence == 0`` makes it an image: it holds every row, and what the receiver had before goes away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows written and ids removed in one table after ``base_sequence``, up to and with ``sequence``."""

    base_sequence: int
    sequence: int
    ids: npt.NDArray[np.int64]  # (n,), ascending
    values: npt.NDArray[np.float32]  # (n, dim)
    removed: npt.NDArray[np.int64]  # (m,), ascending; disjoint from ids
    tail: Delta | None = None  # of the rows that absent ids share, by number, where the table has such; none is removed


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """All tables' deltas and the dense weights of one sequence number: they become visible as one."""

    base_sequence: int
    sequence: int
    step: int  # the training step that it was cut after
    watermark_ms: int
    tables: dict[str, Delta]
    dense: bytes  # safetensors of the dense weights as of `sequence`; empty for a model without any
    ingested_ms: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    # (k,) ingestion times of records first trained into this delta, an evenly spaced sample of at most 256
    digest: str = ""  # names what the sequence was made from: two of one number with one digest are the same bits
