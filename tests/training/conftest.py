"""Bags written as lists of lists, and tables that learn in plain SGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from monolith.config import TableConfig
from monolith.config.optimizers import SGD
from monolith.tables.batch import Bag

MakeBag = Callable[..., Bag]


@pytest.fixture
def bag() -> MakeBag:
    """Turn ``[[1, 2], [], [3]]`` (and weights of the same shape) into a Bag."""

    def make(samples: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Bag:
        ids = np.array([i for sample in samples for i in sample], np.int64)
        lengths = np.array([len(sample) for sample in samples], np.int32)
        flat = None if weights is None else np.array([w for sample in weights for w in sample], np.float32)
        return Bag(ids, lengths, flat)

    return make


@pytest.fixture
def sgd_table() -> Callable[..., TableConfig]:
    """A table config with SGD at learning rate 1, so that a step is minus the gradient."""

    def make(name: str = "user", **settings: object) -> TableConfig:
        return TableConfig(name=name, **({"dim": 4, "optimizer": SGD(lr=1.0)} | settings))  # type: ignore[arg-type]

    return make
