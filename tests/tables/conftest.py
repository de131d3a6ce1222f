"""Tables made in one line, batches of ids, and ways to compare states bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith.tables import Table, TableConfig, optimizers

MakeTable = Callable[..., Table]


@pytest.fixture
def config() -> Callable[..., TableConfig]:
    """A config of a table ``user`` with 4 columns; any field may be given."""

    def make(**settings: object) -> TableConfig:
        return TableConfig(**({"name": "user", "dim": 4, "optimizer": optimizers.SGD(lr=1.0)} | settings))

    return make


@pytest.fixture
def make_table(config: Callable[..., TableConfig]) -> MakeTable:
    """A table with such a config."""
    return lambda **settings: Table(config(**settings))


@pytest.fixture
def ids() -> Callable[..., np.ndarray]:
    """``ids(1, 2, 3)`` is that int64 array."""
    return lambda *values: np.array(values, np.int64)


@pytest.fixture
def state_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Table], bytes]:
    """The canonical bytes of a table's whole state."""

    def read(table: Table) -> bytes:
        folder: Path = tmp_path_factory.mktemp("state")
        return table.save(folder).read_bytes()

    return read
