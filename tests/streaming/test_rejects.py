"""A stream that is not what the job says it is stops the job, by name, before its records are written down as taken."""

from __future__ import annotations

import pytest

from monolith.config import FeatureConfig
from monolith.errors import RejectedError
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader

WINDOW = 2000


@pytest.fixture
def filled(topics, feature_bytes):
    """A `features` stream of good and bad records, in the order that ``is_bad`` says."""

    def fill(is_bad: list[bool]) -> None:
        features, _ = topics("features"), topics("actions")
        for n, bad in enumerate(is_bad):
            kind = {"user": "text"} if bad else {"user": n}
            features.put(0, None, feature_bytes(f"r{n}", 1000 + n, **kind), 1000 + n, 1000 + n)

    return fill


@pytest.fixture
def read(make_job, tmp_path, drain):
    def run(share: float = 0.5, **inputs) -> list:
        job = make_job(input={"follow": False, "max_reject_share": share, **inputs}, train={"window_samples": WINDOW})
        with StepReader.open(job, tmp_path / "journal") as reader:
            return drain(reader)

    return run


def test_first_thousand_records_of_a_stream_stop_the_job_with_reasons_and_an_example(filled, read):
    filled([n % 3 != 0 for n in range(1500)])
    with pytest.raises(RejectedError) as stopped:
        read()
    text = str(stopped.value)
    assert "features records of memory://features cannot be used, input.max_reject_share allows 0.5" in text
    assert "feature_type" in text
    assert "such as partition 0 offset 1: feature 'user' has 'text'" in text


def test_records_of_the_step_that_stopped_the_job_are_read_anew_by_a_mended_job(
    filled, read, make_job, tmp_path, drain
):
    filled([True] * 1200)
    with pytest.raises(RejectedError):
        read()
    job = make_job(input={"follow": False}, features=[FeatureConfig(name="user", type="string")])
    with StepReader.open(job, tmp_path / "journal") as reader:
        steps = drain(reader)
        taken_as_bad = reader.progress().dead_letters.get("feature_type", 0)
    assert sum(len(step.batch) for step in steps) == 1200 - taken_as_bad
    assert reader.first_step == 1


def test_a_share_that_is_allowed_stops_nothing(filled, read):
    filled([n % 2 == 0 for n in range(1100)])
    assert sum(len(step.batch) for step in read(0.51)) == 550


def test_a_stream_that_turns_bad_later_stops_the_job_when_its_window_is_full(filled, read):
    filled([False] * 1000 + [n % 10 != 0 for n in range(WINDOW + 500)])
    with pytest.raises(RejectedError, match=r"1,8\d\d of 2,\d\d\d features"):
        read()


def test_few_bad_records_among_few_stop_nothing_but_nothing_but_bad_ones_do(filled, read):
    filled([True] * 60 + [False] * 30)
    assert sum(len(step.batch) for step in read()) == 30


def test_a_short_stream_of_bad_records_alone_stops_the_job_at_its_end(filled, read):
    filled([True] * 5)
    with pytest.raises(RejectedError, match="5 of 5 features"):
        read()


def test_one_bad_action_stops_nothing(filled, read, topics):
    filled([False] * 5)
    topics("actions").put(0, None, b"no event", 1000, 1000)
    assert sum(len(step.batch) for step in read()) == 5


def test_share_of_one_never_stops(filled, read):
    filled([True] * 1500)
    assert sum(len(step.batch) for step in read(1.0)) == 0


def test_share_of_zero_stops_at_one_bad_record_of_a_window(filled, read):
    filled([n == 500 for n in range(1100)])
    with pytest.raises(RejectedError, match="1 of 1,"):
        read(0.0)


def test_source_that_does_not_answer_is_named_and_its_lag_is_not_told_as_none(make_job, tmp_path):
    job = make_job(input={"features": f"log://{tmp_path}/not_yet", "actions": "memory://actions"})
    with StepReader.open(job, tmp_path / "journal") as reader:
        assert reader.next(timeout_s=0.0) is None
        told = reader.progress()
    assert told.lag is None
    assert told.missing == {f"log://{tmp_path}/not_yet": "no log is there yet; the first producer creates it"}


def test_memory_streams_always_answer(topics):
    topics("features")
    assert open_source("memory://features").missing is None
