"""The trainer moves a learner along steps, cuts deltas where they say so, and goes on from a snapshot bit by bit."""

from __future__ import annotations

import pytest
from fixed_steps import FixedStep, FixedSteps, KeptSteps, QuietSteps, Rows, made_steps, trainer

from monolith.commands.compare import compare_snapshots
from monolith.errors import ConfigError, FencedError, NoSamplesError, UnavailableError
from monolith.serving.publisher import Publisher
from monolith.serving.store import Store, open_store
from monolith.training.snapshot import Snapshots
from monolith.training.status import StatusFile, read_status
from monolith.training.trainer import Trainer


def test_a_restored_trainer_goes_on_bit_by_bit(tmp_path):
    whole = trainer(tmp_path / "whole", made_steps())
    whole.run()
    first = trainer(tmp_path / "parts", made_steps())
    for _ in range(17):
        first.advance(first.steps.next(0))
    first.snapshot()
    second = trainer(tmp_path / "parts", made_steps())
    second.restore(Snapshots(tmp_path / "parts").newest())
    second.run()
    assert second.step == 40
    assert compare_snapshots(whole.snapshots.path(40), second.snapshots.path(40)) == []


def test_a_file_that_no_earlier_snapshot_has_makes_the_trainer_write_all_of_it(tmp_path):
    steps = KeptSteps(made_steps().steps)
    first = trainer(tmp_path, steps)
    for _ in range(3):
        first.advance(steps.next(0))
        first.snapshot()
    assert steps.wholes == 1
    newest = Snapshots(tmp_path).newest()
    assert (newest.manifest.step, newest.read("joiner/rows")) == (3, b"rows")


def test_a_store_gets_each_sequence_once_and_ends_with_the_trainers_rows(tmp_path):
    store = Rows()
    first = trainer(tmp_path, made_steps(), store)
    for _ in range(10):
        first.advance(first.steps.next(0))
    first.snapshot()
    for _ in range(10):  # lost with the process, but published
        first.advance(first.steps.next(0))
    assert store.held_sequence == 6
    second = trainer(tmp_path, made_steps(39), store)
    second.restore(Snapshots(tmp_path).newest())
    second.run()
    assert [sequence for _, sequence in store.seen] == list(range(1, 14))
    for name, table in second.learner.tables.items():
        ids, values = table.rows()
        in_store = store.rows[name]
        if name == "user":  # sweeping is incremental: the store may still hold what expired a moment ago
            assert set(ids.tolist()) <= set(in_store)
        assert all(in_store[row_id] == row.tobytes() for row_id, row in zip(ids.tolist(), values, strict=True))


def test_a_store_that_was_away_too_long_gets_an_image(tmp_path):
    store = open_store(f"lmdb://{tmp_path / 'store'}", "t")
    one = trainer(tmp_path / "snapshots", made_steps(6), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    for _ in range(3):
        one.advance(one.steps.next(0))
    first_image = store.version().image
    for _ in range(5000):  # past the tables' memory of what they removed
        one.sequence = one.learner.cut()
    one.run()
    assert store.version().sequence == one.sequence
    assert store.version().image != first_image
    assert {name: len(part.ids) for name, part in store.image().delta.tables.items()} == {
        name: len(table) for name, table in one.learner.tables.items()
    }
    store.close()


class Away:
    """A store that can be out of reach."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.away = inner, True

    def __getattr__(self, name):
        def refuse(*_):
            raise UnavailableError("connection refused")

        return refuse if self.away and name in ("take_over", "apply", "look") else getattr(self.inner, name)


def test_a_job_that_ends_while_its_store_is_away_says_so_and_publishes_when_it_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.training.trainer.DRAIN_S", 0.0)
    store = Away(open_store(f"lmdb://{tmp_path / 'store'}", "t"))

    def start() -> Trainer:
        one = trainer(tmp_path / "snapshots", made_steps(6), Publisher(store))
        one.status = StatusFile(tmp_path / "status.json")
        if newest := one.snapshots.newest():
            one.restore(newest)
        one.publisher.start(one.learner.card("run"))
        return one

    says = r"not published: .* sequence 2 in 0 s \(known to be there: nothing\)\. .*/000000000006 has it all: start"
    for _ in range(2):
        with pytest.raises(UnavailableError, match=says):
            start().run()
        assert read_status(tmp_path / "status.json").ended
    store.away = False
    again = start()
    again.run()
    assert (again.step, store.version().sequence) == (6, 2)
    for name, table in again.learner.tables.items():
        delta = store.image().delta.tables[name]
        assert delta.ids.tobytes() == table.delta(0).ids.tobytes()
        assert delta.values.tobytes() == table.delta(0).values.tobytes()
    store.close()


def test_a_store_that_lost_everything_in_a_quiet_time_gets_it_back(tmp_path):
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(6).steps, store), store)
    one.run()
    assert store.held_sequence == one.sequence == 2
    assert store.seen == [(0, 1), (1, 2), (0, 2)]


def test_a_store_that_lost_everything_while_rows_wait_for_a_publish_gets_them_by_a_step_of_their_own(tmp_path):
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(5).steps, store), store)  # the steps 4 and 5 publish nothing
    one.run()
    assert store.seen == [(0, 1), (0, 2)]
    assert store.held_sequence == one.sequence == 2
    assert one.snapshots.steps() == [6]
    for name, table in one.learner.tables.items():
        delta = table.delta(0)
        rows = {key: row.tobytes() for key, row in zip(delta.ids.tolist(), delta.values, strict=True)}
        assert rows == store.rows[name]


def test_a_run_that_had_ended_brings_a_store_that_lacks_it_up_to_date_at_its_next_start(tmp_path):
    trainer(tmp_path, made_steps(6), Rows()).run()
    store = Rows()
    again = trainer(tmp_path, made_steps(6), store)
    again.restore(Snapshots(tmp_path).newest())
    again.run()
    assert store.seen == [(0, 2)]


def test_every_turn_of_the_loop_gives_a_sign_of_life(tmp_path):
    """Busy or quiet, and also while rows changed that no publish is due for."""
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(5).steps, store), store)
    one.run()
    assert store.beats == 5 + 3 + 1  # steps, quiet turns, the end


def test_positions_are_committed_after_a_snapshot_only(tmp_path):
    one = trainer(tmp_path, made_steps(5))
    one.run()
    assert one.steps.committed == [5]


def test_the_journal_is_trimmed_behind_the_oldest_snapshot_that_is_kept(tmp_path):
    """Not behind the newest: if that is damaged, the one before it is restored, and asks for the steps after it."""
    one = trainer(tmp_path, made_steps(4))
    for _ in range(4):
        one.advance(one.steps.next(0))
        one.snapshot()
    assert one.snapshots.steps() == [3, 4]
    assert one.steps.trimmed == [2, 2, 3, 4]


def test_a_snapshot_of_another_run_is_refused(tmp_path):
    trainer(tmp_path, made_steps(3)).run()
    other = trainer(tmp_path, made_steps(3), lineage="other")
    with pytest.raises(ConfigError, match="run run; this job is 't', run other"):
        other.restore(Snapshots(tmp_path).newest())


def test_stop_ends_with_a_snapshot(tmp_path):
    one = trainer(tmp_path, made_steps(5))
    one.stop()
    one.advance(one.steps.next(0))
    one.run()
    assert one.snapshots.steps() == [1]


def test_stop_publishes_what_the_snapshot_holds(tmp_path):
    store = Rows()
    one = trainer(tmp_path, made_steps(5), store)
    one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert one.snapshots.steps() == [2]  # the step that publishes
    assert store.held_sequence == one.sequence == 1
    for name, table in one.learner.tables.items():
        delta = table.delta(0)
        rows = {key: row.tobytes() for key, row in zip(delta.ids.tolist(), delta.values, strict=True)}
        assert rows == store.rows[name]


def test_stop_after_a_publish_adds_no_step(tmp_path):
    store = Rows()
    one = trainer(tmp_path, made_steps(5), store)
    for _ in range(3):
        one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert (one.snapshots.steps(), store.seen) == ([3], [(0, 1)])


def test_stop_while_the_store_is_away_ends_in_a_snapshot(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("monolith.training.trainer.STOP_S", 0.0)
    store = Away(open_store(f"lmdb://{tmp_path / 'store'}", "t"))
    one = trainer(tmp_path / "snapshots", made_steps(5), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert one.snapshots.steps() == [2]
    assert "stopped without the store" in caplog.text
    store.close()


def test_trainer_that_another_one_took_the_store_from_still_keeps_its_snapshot_when_it_stops(tmp_path):
    store, other = (open_store(f"lmdb://{tmp_path / 'store'}", "t") for _ in range(2))
    one = trainer(tmp_path / "snapshots", made_steps(5), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    one.advance(one.steps.next(0))
    other.take_over(one.learner.card("run"))
    one.stop()
    with pytest.raises(FencedError):
        one.run()
    assert one.snapshots.steps() == [2]
    store.close()
    other.close()


def test_the_status_file_says_where_it_is(tmp_path):
    one = trainer(tmp_path / "s", made_steps(4))
    one.status = StatusFile(tmp_path / "status.json", every_s=0.0)
    one.run()
    status = read_status(tmp_path / "status.json")
    assert (status.step, status.samples, status.lag, status.ended) == (4, 80, 0, True)
    assert status.tables["user"]["rows"] > 0


def test_a_run_without_a_sample_publishes_nothing_and_fails_when_its_streams_end(tmp_path):
    store = Rows()
    empty = FixedStep(1, made_steps(1).steps[0].batch[:0], 10_000, publish=True)
    fruitless = trainer(tmp_path, FixedSteps([empty]), store)
    with pytest.raises(NoSamplesError, match="hold no record"):
        fruitless.run()
    assert (store.seen, fruitless.snapshots.steps()) == ([], [])
