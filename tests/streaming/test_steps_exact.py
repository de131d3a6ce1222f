"""Re-runs from the journal: same steps, same states, whatever the clock says."""

from __future__ import annotations

import msgspec
import pytest
from batches import seen, told
from part_readers import KeptInMemory

from monolith.errors import ConfigError, CorruptError, DataLossError, UnavailableError, VersionError
from monolith.streaming.journal import Journal
from monolith.streaming.reader_state import whole_state


def all_of(steps) -> list:
    return [sample for step in steps for sample in seen(step)]


def live_run(streams, reader, clock, rounds: int = 30) -> tuple[list, list[bytes]]:
    """Some uneven live traffic; steps and the state after each."""
    steps, states = [], []
    for i in range(rounds):
        streams.show(f"r{i}", 10 + i, partition=i % 2, user=i)
        if i % 3:
            streams.act(f"r{i}", 10 + i + i % 7, partition=i % 2)
        if i % 5 == 0:
            streams.features.put(0, None, b"\xc1 bad", 1, 1)
        clock.tick(0.3 * (i % 4))
        while (step := reader.next(0.0)) is not None:
            steps.append(step)
            states.append(reader.state())
    return steps, states


def test_rerun_from_any_state_gives_the_same_steps_and_the_same_states(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4, "publish_every_s": 1.0})
    steps, states = live_run(streams, open_reader(job), clock, rounds=60)
    assert sum(step.publish for step in steps) > 3
    assert len(all_of(steps)) > 10
    for start in range(0, len(steps), 5):
        reader = open_reader(job)
        if start:
            reader.restore(states[start - 1])
        for step, state in zip(steps[start:], states[start:], strict=True):
            clock.tick(0.7)  # the clock of the re-run has no say
            assert told(reader.next(10.0)) == told(step)
            assert reader.state() == state


def test_rerun_from_the_files_of_any_save_gives_the_same_states(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4})
    reader, files, saves, states = open_reader(job), {}, [], []
    for i in range(40):
        streams.show(f"r{i}", 10 + i, partition=i % 2, user=i)
        if i % 3:
            streams.act(f"r{i}", 10 + i + i % 7, partition=i % 2)
        clock.tick(0.3 * (i % 4))
        while reader.next(0.0) is not None:
            given = reader.save(whole=False)
            files = {name: files[name] if data is None else data for name, data in given.items()}
            saves.append(files)
            states.append(reader.state())
    assert any(name.startswith("joiner/waiting") for name in files)
    for place in range(0, len(saves), 5):
        reader = open_reader(job)
        reader.load(KeptInMemory(saves[place]))
        assert reader.state() == states[place]
        assert whole_state(saves[place].__getitem__) == states[place]
        for state in states[place + 1 :]:
            assert reader.next(10.0) is not None
            assert reader.state() == state


def test_a_snapshot_whose_joiner_is_in_one_piece_is_read(streams, open_reader, make_job, clock):
    """As builds wrote it whose snapshots have version 2."""
    streams = streams(2)
    steps, states = live_run(streams, open_reader(make_job()), clock, rounds=6)
    reader = open_reader(make_job())
    reader.load(KeptInMemory({"stream.bin": states[2]}))
    assert reader.state() == states[2]
    assert told(reader.next(0.0)) == told(steps[3])


def test_run_goes_on_live_where_the_journal_ends(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4})
    steps, states = live_run(streams, open_reader(job), clock, rounds=6)
    reader = open_reader(job)
    reader.restore(states[2])
    for step in steps[3:]:
        assert told(reader.next(0.0)) == told(step)
    streams.show("new", 100)
    step = reader.next(0.0)
    assert (step.number, step.records) == (steps[-1].number + 1, 1)


def test_replay_repeats_the_run_and_ends_with_its_last_step(streams, open_reader, make_job, clock, drain):
    streams = streams(2)
    job = make_job(train={"step_records": 4, "publish_every_s": 1.0})
    steps, _ = live_run(streams, open_reader(job), clock)
    streams.show("after the run", 1000)
    replayed = drain(open_reader(job, replay_only=True))
    assert list(map(told, replayed[:-1])) == list(map(told, steps[:-1]))
    assert seen(replayed[-1]) == seen(steps[-1])
    assert (replayed[-1].number, replayed[-1].ended) == (steps[-1].number, True)


def test_rerun_waits_for_records_that_are_not_there_yet(streams, open_reader, make_job, topics, clock):
    made = streams()
    made.show("a", 1)
    open_reader(make_job()).next(0.0)
    records = made.features.partitions[0]
    topic = topics("features")  # the stream is back, but empty
    topics("actions")
    reader = open_reader(make_job())
    assert reader.next(0.0) is None
    topic.partitions[0] += records
    assert reader.next(0.0).records == 1


def test_rerun_whose_records_are_gone_is_data_loss(streams, open_reader, make_job):
    streams = streams()
    streams.show("a", 1)
    streams.show("b", 2)
    open_reader(make_job()).next(0.0)
    streams.features.drop(0, 1)
    with pytest.raises(DataLossError, match="offset 0 is gone"):
        open_reader(make_job()).next(0.0)


def test_lost_records_are_skipped_and_counted_where_the_job_says_so(streams, open_reader, make_job):
    streams = streams()
    streams.show("a", 1)
    streams.show("b", 2)
    job = make_job(input={"on_data_loss": "skip"})
    reader = open_reader(job)
    streams.features.drop(0, 1)
    assert reader.next(0.0).records == 1
    assert reader.progress().skipped == 1


def test_rerun_step_that_lost_records_has_another_digest(streams, open_reader, make_job):
    streams = streams()
    streams.show("a", 1)
    streams.show("b", 2)
    job = make_job(input={"on_data_loss": "skip"})
    whole = open_reader(job).next(0.0)
    assert open_reader(job).next(0.0).digest == whole.digest
    streams.features.drop(0, 1)
    assert open_reader(job).next(0.0).digest != whole.digest


def test_publishes_after_counts_the_journalled_steps_that_publish(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4, "publish_every_s": 1.0})
    steps, _ = live_run(streams, open_reader(job), clock)
    reader = open_reader(job)
    for done in (0, 3, len(steps)):
        assert reader.publishes_after(done) == sum(step.publish for step in steps[done:])


def test_closing_step_takes_nothing_publishes_and_is_run_again_like_any_other(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4, "publish_every_s": 1e9})
    reader = open_reader(job)
    steps, _ = live_run(streams, reader, clock)
    closing = reader.closing_step()
    assert (closing.number, closing.records, closing.publish) == (steps[-1].number + 1, 0, True)
    assert (seen(closing), closing.watermark_ms, closing.ended) == ([], steps[-1].watermark_ms, False)
    state = reader.state()
    again = open_reader(job)
    for step in [*steps, closing]:
        assert told(again.next(0.0)) == told(step)
    assert again.state() == state
    streams.show("new", 100)
    assert again.next(0.0).number == closing.number + 1


def test_no_closing_step_amid_steps_to_be_run_again_or_in_a_replay(streams, open_reader, make_job, clock):
    streams = streams(2)
    job = make_job(train={"step_records": 4})
    steps, _ = live_run(streams, open_reader(job), clock)
    again = open_reader(job)
    assert told(again.next(0.0)) == told(steps[0])
    assert again.closing_step() is None
    assert open_reader(job, replay_only=True).closing_step() is None


def test_state_that_is_ahead_of_the_journal_is_refused(streams, open_reader, make_job):
    streams = streams()
    streams.show("a", 1)
    reader = open_reader(make_job())
    reader.next(0.0)
    state = reader.state()
    with pytest.raises(CorruptError, match=r"snapshot is of step 1, but the step journal .* ends at step 0"):
        open_reader(make_job(), folder="another").restore(state)


def test_state_of_other_streams_is_refused(streams, topics, open_reader, make_job):
    streams()
    topics("samples")
    state = open_reader(make_job()).state()
    other = make_job(input={"features": None, "actions": None, "samples": "memory://samples"})
    with pytest.raises(ConfigError, match="is of the streams \\['actions', 'features'\\]"):
        open_reader(other, folder="another").restore(state)


def test_broken_and_foreign_states_are_refused(streams, open_reader, make_job):
    streams()
    reader = open_reader(make_job())
    state = msgspec.msgpack.decode(reader.state())
    with pytest.raises(VersionError, match="version 7"):
        reader.restore(msgspec.msgpack.encode([7, *state[1:]]))
    with pytest.raises(CorruptError):
        reader.restore(b"\xc1")


def test_journal_without_room_loses_no_record(streams, open_reader, make_job, monkeypatch):
    streams = streams()
    streams.show("a", 1)
    reader = open_reader(make_job())
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda *_: (_ for _ in ()).throw(UnavailableError("full")))
        with pytest.raises(UnavailableError):
            reader.next(0.0)
    assert reader.next(0.0).records == 1


def test_journal_that_cannot_sync_is_synced_before_the_step_is_returned_later(
    streams, open_reader, make_job, clock, monkeypatch
):
    streams = streams()
    streams.show("a", 1)
    streams.act("a", 2)
    reader = open_reader(make_job())
    reader.next(0.0)
    clock.tick(10.0)
    reader.next(0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "sync", lambda *_: (_ for _ in ()).throw(UnavailableError("full")))
        for _ in range(2):
            with pytest.raises(UnavailableError):
                reader.next(0.0)
    step = reader.next(0.0)
    assert (step.number, step.publish) == (3, True)


# --- a journal that was trimmed ---------------------------------------------------------------------------------------


def trimmed_after_20_of_30_steps(streams, open_reader, job):
    """States by step, the samples of each step, and a journal whose files hold two steps each."""
    streams, states, samples = streams(), {}, {}
    reader = open_reader(job, segment_bytes=150)
    for n in range(1, 31):
        streams.show(f"r{n}", n)
        streams.act(f"r{n}", n)
        samples[n] = [sample.request_id for sample in seen(reader.next(0.0))]
        states[n] = reader.state()
        if n == 20:
            reader.trim(before_step=16)
    return states, samples


def test_restore_goes_on_from_any_step_that_was_not_trimmed(streams, open_reader, make_job):
    job = make_job(train={"step_records": 2})
    states, samples = trimmed_after_20_of_30_steps(streams, open_reader, job)
    assert sum(map(len, samples.values())) > 20
    for kept in (15, 20, 30):
        reader = open_reader(job, segment_bytes=150)
        assert 1 < reader.first_step <= 16
        reader.restore(states[kept])
        for n in range(kept + 1, 31):
            assert [sample.request_id for sample in seen(reader.next(0.0))] == samples[n]
            assert reader.state() == states[n]
        assert reader.next(0.0) is None


@pytest.mark.parametrize("kept", [0, 10])
def test_steps_that_were_trimmed_are_missed_by_name(streams, open_reader, make_job, kept):
    job = make_job(train={"step_records": 2})
    states, _ = trimmed_after_20_of_30_steps(streams, open_reader, job)
    reader = open_reader(job, segment_bytes=150)
    if kept:
        reader.restore(states[kept])
    with pytest.raises(DataLossError, match=rf"step {kept + 1} was trimmed: only a snapshot of step"):
        reader.next(0.0)


def test_a_job_may_keep_its_whole_journal(streams, open_reader, make_job):
    job = make_job(train={"step_records": 2, "keep_journal": True})
    trimmed_after_20_of_30_steps(streams, open_reader, job)
    assert open_reader(job).first_step == 1


def test_a_replay_leaves_the_journal_that_it_reads_alone(streams, open_reader, make_job):
    job = make_job(train={"step_records": 2, "keep_journal": True})
    trimmed_after_20_of_30_steps(streams, open_reader, job)
    job = make_job(train={"step_records": 2})
    open_reader(job, replay_only=True).trim(before_step=30)
    assert open_reader(job).first_step == 1
