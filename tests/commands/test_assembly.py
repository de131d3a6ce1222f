"""What a state folder must hold for a job to go on in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monolith.commands.assembly import open_trainer
from monolith.config import InputConfig, JobConfig, TableConfig, job_json
from monolith.errors import ConfigError, CorruptError, DataLossError
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


@pytest.fixture
def pending(tmp_path) -> Path:
    """A state folder whose journal holds three steps that no snapshot has."""
    journal = Journal(tmp_path / "state" / "journal")
    for step in range(1, 4):
        journal.append(StepEntry(step=step, ends={"samples": {}}, watermark_ms=step))
    journal.close()
    return tmp_path / "state"


def older(job: JobConfig, **changes) -> bytes:
    """``job.json`` as a build wrote it that did not have the newest keys."""
    data = json.loads(job_json(job))
    for section, key in (("train", "threads"), ("dense_optimizer", "on_nonfinite"), ("input", "unknown_features")):
        del data[section][key]
    del data["publish"], data["tables"][0]["absent"], data["tables"][0]["on_nonfinite"]
    return json.dumps({**data, **changes}).encode()


def test_steps_that_an_older_build_journalled_are_gone_on_from(tmp_path, pending):
    """What the older build had no key for is what this build does by default."""
    (pending / "job.json").write_bytes(older(job(tmp_path)))
    with open_trainer(job(tmp_path)) as trainer:
        assert trainer.steps.last_step == 3


def test_a_change_beside_what_the_older_build_did_not_have_is_refused_alone(tmp_path, pending):
    (pending / "job.json").write_bytes(older(job(tmp_path), seed=7))
    refused = pytest.raises(ConfigError, match=r"^seed was 7, now 0, but 3 journalled steps")
    with refused, open_trainer(job(tmp_path)):
        pass


def test_damaged_settings_are_named_and_nothing_is_taken_over(tmp_path, pending):
    (pending / "job.json").write_bytes(b"{}")
    refused = pytest.raises(CorruptError, match=r"job\.json is damaged: .*move it away")
    with refused, open_trainer(job(tmp_path, store=f"lmdb://{tmp_path / 'store'}")):
        pass
    assert not (tmp_path / "store").exists()


def test_settings_that_are_gone_are_those_of_the_newest_snapshot(tmp_path, caplog):
    with open_trainer(job(tmp_path)):
        pass
    journal = Journal(tmp_path / "state" / "journal")
    for step in range(1, 4):
        journal.append(StepEntry(step=step, ends={"samples": {}}, watermark_ms=step))
    journal.close()
    with open_trainer(job(tmp_path)) as trainer:
        trainer.advance(trainer.steps.next(1.0))
        trainer.snapshot()
    (tmp_path / "state" / "job.json").unlink()
    refused = pytest.raises(ConfigError, match=r"^seed was 0, now 4, but 2 journalled steps")
    with refused, open_trainer(job(tmp_path, seed=4)):
        pass
    assert not (tmp_path / "state" / "job.json").exists()
    with open_trainer(job(tmp_path)):
        assert "job.json is not there: the settings of" in caplog.text
    assert (tmp_path / "state" / "job.json").exists()


def test_what_killed_processes_left_goes_at_the_start_of_the_one_that_owns_the_folder(tmp_path, pending):
    leftovers = [
        pending / name
        for name in ("snapshots/.000000000002.tmp/x", "job.tmp", "graph-0-1.tmp", "journal/000000000009.tmp")
    ]
    for leftover in leftovers:
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.write_bytes(b"half")
    holder = Journal(pending / "journal")
    leftovers[-1].write_bytes(b"half")  # opening it removes the journal's own
    with pytest.raises(ConfigError, match="in use by process"), open_trainer(job(tmp_path)):
        pass
    assert all(leftover.exists() for leftover in leftovers), "they may be what the other process has in hand"
    holder.close()
    with open_trainer(job(tmp_path)):
        assert not any(leftover.exists() for leftover in leftovers)
