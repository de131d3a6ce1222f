from __future__ import annotations

from pathlib import Path

import pytest

from monolith.datasets.sets.about import read_about
from monolith.datasets.sets.planted import Planted
from monolith.datasets.sets.prepare import prepare
from monolith.datasets.sets.registry import generated
from monolith.offline.cells import Prepared


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("prepared") / "planted"
    made = generated(Planted(rows=6000, users=300, items=100, contexts=9))
    prepare(made, Path(), folder, tell=lambda *_: None)
    return Prepared(read_about(folder), folder)
