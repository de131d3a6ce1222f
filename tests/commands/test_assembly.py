"""What a state folder must hold for a job to go on in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith.commands.assembly import open_trainer
from monolith.config import InputConfig, JobConfig, TableConfig
from monolith.errors import ConfigError, DataLossError
from monolith.streaming.journal import Journal, StepEntry


def job(folder: Path, **settings) -> JobConfig:
    return JobConfig(
        name="t",
        input=InputConfig(samples="memory://assembly"),
        tables=[TableConfig(name="user", dim=2)],
        state=str(folder / "state"),
        **settings,
    )


@pytest.fixture
def trimmed(tmp_path) -> Path:
    """The journal of a state folder without its first steps."""
    journal = Journal(tmp_path / "state" / "journal", segment_bytes=200)
    for step in range(1, 21):
        journal.append(StepEntry(step=step, ends={"samples": {0: step}}, watermark_ms=step))
    journal.trim(before_step=10)
    journal.close()
    return tmp_path / "state" / "journal"


def test_trimmed_journal_without_a_snapshot_is_refused_before_the_store_is_taken_over(tmp_path, trimmed):
    store = tmp_path / "store"
    refused = pytest.raises(DataLossError, match=r"begins at step \d+, .* trimmed, but there is no snapshot: restore")
    with refused, open_trainer(job(tmp_path, store=f"lmdb://{store}")):
        pass
    assert not store.exists()


def test_replay_of_a_trimmed_journal_says_what_would_keep_it(tmp_path, trimmed):
    refused = pytest.raises(DataLossError, match=r"repeats a run from step 1\. .*train\.keep_journal: true")
    with refused, open_trainer(job(tmp_path / "again"), replay=trimmed):
        pass


def test_state_that_cannot_be_a_folder_is_a_config_error(tmp_path):
    (tmp_path / "state").write_text("a file")
    refused = pytest.raises(ConfigError, match=r"cannot make the state folder .*choose another folder")
    with refused, open_trainer(job(tmp_path)):
        pass
