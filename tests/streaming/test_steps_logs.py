"""Steps of a job whose logs are not there yet, are away, or were made again."""

from __future__ import annotations

import shutil

import pytest
from batches import seen, told

from monolith.errors import ConfigError, DataLossError
from monolith.streaming.source import open_sink


def test_job_waits_for_logs_that_no_producer_has_created(open_reader, make_job, tmp_path, feature_bytes, caplog):
    urls = {name: f"log://{tmp_path}/{name}" for name in ("features", "actions")}
    reader = open_reader(make_job(input=urls))
    assert reader.next(0.02) is None
    assert "waiting for log://" in caplog.text
    open_sink(urls["features"]).append([(b"a", feature_bytes("a", 1000), 1000)])
    assert reader.next(0.0) is None  # the actions are still missing
    open_sink(urls["actions"])
    assert reader.next(0.0).records == 1


def test_job_that_does_not_follow_is_told_of_a_missing_log(open_reader, make_job, tmp_path):
    urls = {name: f"log://{tmp_path}/{name}" for name in ("features", "actions")}
    with pytest.raises(ConfigError, match="there is no log in"):
        open_reader(make_job(input={**urls, "follow": False}))


def test_rerun_of_a_job_whose_log_is_away_waits(open_reader, make_job, tmp_path, feature_bytes):
    urls = {name: f"log://{tmp_path}/{name}" for name in ("features", "actions")}
    for url in urls.values():
        open_sink(url).close()
    sink = open_sink(urls["features"])
    sink.append([(b"a", feature_bytes("a", 1000), 1000)])
    job = make_job(input=urls)
    reader = open_reader(job)
    step = reader.next(0.0)
    reader.close()
    sink.close()
    (tmp_path / "features").rename(tmp_path / "away")
    reader = open_reader(job)
    assert reader.next(0.0) is None
    (tmp_path / "away").rename(tmp_path / "features")
    assert told(reader.next(0.0)) == told(step)


def made_again(open_reader, job, folder, feature_bytes):
    """The state of an ended job over logs of which the features were made again since, with fewer records."""
    sink = open_sink(job.input.features)
    open_sink(job.input.actions).close()
    sink.append([(b"k", feature_bytes(f"old{n}", 1000 + n), 1000 + n) for n in range(5)])
    sink.close()
    reader = open_reader(job)
    while not reader.next(1.0).ended:
        pass
    state = reader.state()
    reader.close()
    shutil.rmtree(folder)
    sink = open_sink(job.input.features)
    sink.append([(b"k", feature_bytes("new", 9000), 9000)])
    sink.close()
    return state


def log_job(make_job, tmp_path, **changes):
    urls = {name: f"log://{tmp_path}/{name}" for name in ("features", "actions")}
    return make_job(input={**urls, "follow": False, **changes})


def test_log_that_was_made_again_is_data_loss_and_no_end(open_reader, make_job, tmp_path, feature_bytes):
    job = log_job(make_job, tmp_path)
    state = made_again(open_reader, job, tmp_path / "features", feature_bytes)
    reader = open_reader(job)
    reader.restore(state)
    with pytest.raises(DataLossError, match="offset 5 is gone, it holds 0 to 1"):
        reader.next(1.0)


def test_log_that_was_made_again_is_read_from_its_beginning_if_loss_may_be_skipped(
    open_reader, make_job, tmp_path, feature_bytes, drain
):
    job = log_job(make_job, tmp_path, on_data_loss="skip")
    state = made_again(open_reader, job, tmp_path / "features", feature_bytes)
    reader = open_reader(job)
    reader.restore(state)
    assert [sample.request_id for step in drain(reader) for sample in seen(step)] == ["new"]
    assert reader.progress().positions["features"] == {0: 1}
