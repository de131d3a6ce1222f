"""What a state folder must hold for a job to go on in it."""

from __future__ import annotations

import json
import struct
import weakref
import zlib
from pathlib import Path

import msgspec
import pytest

from monolith.commands.assembly import open_trainer, run_eras
from monolith.config import InputConfig, JobConfig, TableConfig, job_json
from monolith.config.deciding import settings_in, settings_of
from monolith.config.optimizers import SGD
from monolith.errors import ConfigError, CorruptError, DataLossError
from monolith.streaming.journal import Journal, StepEntry
from monolith.streaming.journal_frames import encode_entry
from monolith.training.history import History
from monolith.training.snapshot import open_snapshot


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


def test_what_an_older_build_kept_is_journalled_before_anything_else(tmp_path, pending):
    """From then on the journal says it, whatever becomes of `job.json`."""
    (pending / "job.json").write_bytes(older(job(tmp_path), seed=7))
    with open_trainer(job(tmp_path)) as trainer:
        assert trainer.learner.job.seed == 7
        assert trainer.steps.at_switch is False
    (pending / "job.json").unlink()
    held = Journal(pending / "journal").settings
    assert held == {1: settings_in(older(job(tmp_path), seed=7))}
    with open_trainer(job(tmp_path)) as trainer:
        assert trainer.learner.job.seed == 7


def test_damaged_settings_of_an_older_build_are_named_and_nothing_is_taken_over(tmp_path, pending):
    (pending / "job.json").write_bytes(b"{}")
    refused = pytest.raises(CorruptError, match=r"job\.json is damaged: .*move it away")
    with refused, open_trainer(job(tmp_path, store=f"lmdb://{tmp_path / 'store'}")):
        pass
    assert not (tmp_path / "store").exists()


def test_settings_that_an_older_build_kept_nowhere_are_those_of_the_newest_snapshot_else_the_job_s(
    tmp_path, pending, caplog
):
    with open_trainer(job(tmp_path, seed=5)) as trainer:
        assert "nothing says with which settings the journalled steps were made" in caplog.text
        assert trainer.learner.job.seed == 5
        trainer.advance(trainer.steps.next(1.0))
        trainer.snapshot()
    as_version_3(pending / "journal")
    with open_trainer(job(tmp_path)) as trainer:
        assert "job.json is not there: the settings of" in caplog.text
        assert trainer.learner.job.seed == 5


def as_version_3(folder: Path) -> None:
    """The same steps as a build wrote them whose journal had no settings."""
    journal = Journal(folder)
    lineage, steps = journal.lineage, list(journal.read(1))
    journal.close()
    for path in folder.glob("*.journal"):
        path.unlink()
    head = msgspec.msgpack.encode({"version": 3, "lineage": lineage, "first_step": 1})
    length = struct.pack("<I", len(head))
    data = b"MNLJRNL1" + length + struct.pack("<I", zlib.crc32(length + head)) + head
    (folder / "000000000001.journal").write_bytes(data + b"".join(map(encode_entry, steps)))


@pytest.fixture
def waiting(tmp_path) -> Path:
    """A state folder with a snapshot of step 1, and three steps behind it that were journalled with seed 0."""
    with open_trainer(job(tmp_path)):
        pass
    journal = Journal(tmp_path / "state" / "journal")
    for step in range(1, 5):
        journal.append(StepEntry(step=step, ends={"samples": {}}, watermark_ms=step))
    journal.close()
    with open_trainer(job(tmp_path)) as trainer:
        trainer.advance(trainer.steps.next(1.0))
        trainer.snapshot()
    return tmp_path / "state"


def stepping(seen: list[tuple[int, int, int]]):
    """Runs a trainer to its switch, or over what waits, and notes (seed, first step, last step)."""

    def run(trainer) -> None:
        first = trainer.step + 1
        while not trainer.steps.at_switch and trainer.step < trainer.steps.last_step:
            trainer.advance(trainer.steps.next(1.0))
        trainer.snapshot()
        seen.append((trainer.learner.job.seed, first, trainer.step))

    return run


def journalled(state: Path) -> dict[int, int]:
    """From which step on the journal has which seed."""
    held = Journal(state / "journal", read_only=True).settings
    return {since: json.loads(settings)["seed"] for since, settings in held.items()}


def test_steps_that_wait_are_made_as_they_were_journalled_and_the_new_settings_hold_behind_them(tmp_path, waiting):
    seen: list[tuple[int, int, int]] = []
    run_eras(job(tmp_path, seed=4), stepping(seen))
    assert seen == [(0, 2, 4), (4, 5, 4)]
    assert journalled(waiting) == {1: 0, 5: 4}


def test_new_settings_are_journalled_when_nothing_waits_any_more_and_not_before(tmp_path, waiting):
    with open_trainer(job(tmp_path, seed=4)) as trainer:
        while not trainer.steps.at_switch:
            trainer.advance(trainer.steps.next(1.0))
        assert trainer.steps.next(0.0) is None
        assert trainer.steps.closing_step() is None
        assert journalled(waiting) == {1: 0}


def test_settings_that_are_changed_again_before_a_step_is_made_leave_no_trace(tmp_path, waiting):
    seen: list[tuple[int, int, int]] = []
    for seed in (4, 5, 0):
        run_eras(job(tmp_path, seed=seed), stepping(seen))
    assert seen == [(0, 2, 4), (4, 5, 4), (5, 5, 4), (0, 5, 4)]
    assert journalled(waiting) == {1: 0, 5: 0}


def test_a_kill_between_two_eras_is_gone_on_from_in_the_one_that_comes_next(tmp_path, waiting):
    journal = Journal(waiting / "journal")
    journal.settle(5, settings_of(job(tmp_path, seed=4)))
    for step in (5, 6):
        journal.append(StepEntry(step=step, ends={"samples": {}}, watermark_ms=step))
    journal.close()
    seen: list[tuple[int, int, int]] = []

    class Killed(Exception):
        pass

    def run(trainer) -> None:
        stepping(seen)(trainer)
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            run_eras(job(tmp_path, seed=9), run)
    assert seen == [(0, 2, 4), (4, 5, 6), (9, 7, 6)]
    assert journalled(waiting) == {1: 0, 5: 4, 7: 9}


def test_what_may_never_change_is_refused_before_a_step_is_made(tmp_path, waiting):
    other = msgspec.structs.replace(job(tmp_path), tables=[TableConfig(name="user", dim=3)])
    refused = pytest.raises(ConfigError, match=r"^tables\[0\]\.dim was 2, now 3: the state folder is of another model")
    with refused, open_trainer(other):
        pass
    assert journalled(waiting) == {1: 0}


def test_settings_that_the_kept_rows_cannot_be_gone_on_with_are_not_journalled(tmp_path, waiting):
    run_eras(job(tmp_path), stepping([]))
    other = msgspec.structs.replace(job(tmp_path), tables=[TableConfig(name="user", dim=2, optimizer=SGD())])
    with pytest.raises(ConfigError, match="saved with optimizer kind"), open_trainer(other):
        pass
    assert journalled(waiting) == {1: 0}


def test_steps_of_a_build_with_other_settings_are_refused_by_name_while_they_wait(tmp_path, waiting):
    plain = json.loads(settings_of(job(tmp_path)))
    plain["join"]["shuffle"] = True
    journal = Journal(waiting / "journal")
    journal.settle(2, json.dumps(plain).encode())
    journal.close()
    refused = pytest.raises(ConfigError, match=r"steps from 2 on .* join\.shuffle: unknown key 'shuffle'")
    with refused, open_trainer(job(tmp_path)):
        pass


def test_an_upgrade_that_adds_keys_leaves_steps_that_wait_and_their_digests_as_they_were(tmp_path, waiting):
    """The digest is of the settings as they stand in the journal."""
    plain = json.loads(settings_of(job(tmp_path)))
    del plain["tables"][0]["absent"], plain["train"]["threads"]
    lacking = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    journal = Journal(waiting / "journal")
    journal.settle(2, lacking)
    journal.close()
    with open_trainer(job(tmp_path)) as trainer:
        trainer.advance(trainer.steps.next(1.0))
        chained = trainer.history.state()
        assert trainer.learner.job == job(tmp_path)
        assert trainer.steps.at_switch is False
    with open_trainer(job(tmp_path)) as trainer:
        step = trainer.steps.next(1.0)
        as_it_was = History(lacking)
        as_it_was.restore(trainer.history.state(), "before")
        as_it_was.extend(step.digest)
    assert chained == as_it_was.state()
    run_eras(job(tmp_path), stepping([]))
    assert journalled(waiting) == {1: 0, 2: 0}, "no new settings: the same, with a default"


def test_a_policy_that_is_the_only_way_on_is_journalled_for_the_steps_that_wait(tmp_path, waiting):
    def policy(held: dict[int, bytes]) -> dict[int, str]:
        return {since: json.loads(settings)["tables"][0]["on_nonfinite"] for since, settings in held.items()}

    clips = [TableConfig(name="user", dim=2, on_nonfinite="clip")]
    with open_trainer(msgspec.structs.replace(job(tmp_path), tables=clips)) as trainer:
        assert trainer.learner.job.tables[0].on_nonfinite == "clip"
    assert policy(Journal(waiting / "journal", read_only=True).settings) == {1: "raise", 2: "clip"}


def test_a_model_is_out_of_memory_before_that_of_the_next_era_is_made(tmp_path, waiting):
    learners: list[weakref.ref] = []

    def run(trainer) -> None:
        assert all(learner() is None for learner in learners)
        learners.append(weakref.ref(trainer.learner))
        stepping([])(trainer)

    run_eras(job(tmp_path, seed=4), run)
    assert len(learners) == 2


def test_a_trainer_that_is_stopped_at_a_switch_is_the_last_one(tmp_path, waiting):
    seen: list[tuple[int, int, int]] = []

    def run(trainer) -> None:
        stepping(seen)(trainer)
        trainer.stop()

    run_eras(job(tmp_path, seed=4), run)
    assert seen == [(0, 2, 4)]


class TestReplay:
    """Its settings are the journal's."""

    def test_each_step_is_made_under_the_settings_that_it_was_made_with(self, tmp_path, waiting, caplog):
        journal = Journal(waiting / "journal")
        journal.settle(5, settings_of(job(tmp_path, seed=4)))
        journal.append(StepEntry(step=5, ends={"samples": {}}, watermark_ms=5))
        journal.close()
        seen: list[tuple[int, int, int]] = []
        run_eras(job(tmp_path / "again", seed=9), stepping(seen), replay=waiting / "journal")
        assert seen == [(0, 1, 4), (4, 5, 5)]
        assert "the run's own settings are repeated, not all of the job's: seed was 4, now 9" in caplog.text
        seen.clear()
        start = open_snapshot(waiting / "snapshots" / "000000000001")
        run_eras(job(tmp_path / "from", seed=9), stepping(seen), replay=waiting / "journal", start=start)
        assert seen == [(0, 2, 4), (4, 5, 5)]

    def test_of_an_older_build_s_journal_takes_what_was_kept_beside_it_and_writes_nothing(self, tmp_path, waiting):
        as_version_3(waiting / "journal")
        (waiting / "job.json").write_bytes(older(job(tmp_path), seed=7))
        seen: list[tuple[int, int, int]] = []
        run_eras(job(tmp_path / "again"), stepping(seen), replay=waiting / "journal")
        assert seen == [(7, 1, 4)]
        assert journalled(waiting) == {}

    def test_of_nothing_is_refused(self, tmp_path, waiting):
        start = open_snapshot(waiting / "snapshots" / "000000000001")
        Journal(tmp_path / "empty").close()
        refused = pytest.raises(ConfigError, match="ends at step 0: nothing follows on 1")
        with refused, open_trainer(job(tmp_path / "again"), replay=tmp_path / "empty", start=start):
            pass


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
