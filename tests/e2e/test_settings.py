"""A run whose settings changed on its way is repeated to the same bits, wherever it was killed meanwhile."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from monolith.commands.compare import compare_snapshots, same_history
from monolith.streaming.journal import Journal
from monolith.training.snapshot import Snapshots

pytestmark = pytest.mark.e2e

TRAIN = {"batch_size": 8, "step_records": 16, "snapshot_every_s": 0.2, "keep_journal": True, "keep_snapshots": 3}
DECLARED = "features=[{name: tags, type: string, bag: true}, {name: item, missing: own_row}, {name: price, type: float}]"
STAGES: list[list[str]] = [
    [],
    ["train.batch_size=4", "tables.user.optimizer.lr=0.2", "dense_optimizer.lr=0.01", "train.sweep_rows=7"],
    [
        *["join.window_s=600", "tables.item.admission.count=3", "tables.user.expiry.ttl_s=900"],
        *["tables.user.eviction.max_rows=25", "train.threads=2"],
    ],
    [
        *["features=[{name: tags, type: string, bag: true}, {name: item, missing: own_row}]", "join.negative_rate=0.5"],
        *["tables.tags.storage=bfloat16", "input.max_out_of_order_s=30", "train.window_samples=500", "seed=9"],
    ],
]


def words(stage: int) -> list[str]:
    """The command's options: all changes up to ``stage``."""
    settings = {text.partition("=")[0]: text for changes in STAGES[: stage + 1] for text in changes}
    return [word for text in settings.values() for word in ("--set", text)]


def newest(state: Path) -> Path:
    return Snapshots(state / "snapshots").newest().path


def steps_of_changes(state: Path) -> list[int]:
    return list(Journal(state / "journal", read_only=True).settings)


def replayed(kit, job: Path, state: Path, name: str, *more: object) -> None:
    """A replay ends in the run's own bits, its history included."""
    again = kit.folder / name
    ended = kit.run("replay", job, "--state", again, *more)
    assert ended.returncode == 0, ended.stderr
    assert "identical to the run's snapshot, bit by bit" in ended.stdout
    assert compare_snapshots(newest(state), newest(again)) == []
    assert same_history(newest(state), newest(again))


def fill(kit, part: int) -> None:
    """Another part of the stream, later than those before it."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_500 * (part + 1))


@pytest.fixture
def streams(kit):
    """The two logs in pieces, one a stage: `grow` adds the next."""
    features, actions = kit.events(1_500 * len(STAGES), 5)

    def grow(stage: int, stages: int = 1) -> None:
        for name, rows in (("features", features), ("actions", actions)):
            sink = open_sink(f"log://{kit.folder / name}")
            size = len(rows) // len(STAGES)
            sink.append(rows[size * stage : size * (stage + stages)])
            sink.close()

    return grow
