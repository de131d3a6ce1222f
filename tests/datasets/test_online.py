from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from batches import seen
from small_job import job_over, small_stream

from monolith.config import JobConfig, TaskConfig
from monolith.datasets.online import WAYS, Comparison, compare, cut_of, read_bounded, read_steps, split_at
from monolith.datasets.online_report import BEST, about_gauc, gains, plot, table, with_best
from monolith.datasets.streams import NamedStream
from monolith.errors import ConfigError, InputError, NoSamplesError
from monolith.streaming.between import Between
from monolith.tables.batch import NO_GROUP
from monolith.training.learner import Learner

COUNT = 1200


@pytest.fixture(scope="module")
def stream() -> NamedStream:
    return NamedStream("small", "generated", COUNT, lambda: small_stream().impressions(COUNT), True)


@pytest.fixture(scope="module")
def job(stream: NamedStream, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A job whose logs hold the stream."""
    return job_over(stream.start(), tmp_path_factory.mktemp("online"))


@pytest.fixture(scope="module")
def steps(job: JobConfig, tmp_path_factory: pytest.TempPathFactory):
    return read_steps(job, tmp_path_factory.mktemp("journal") / "journal")


@pytest.fixture(scope="module")
def split(stream: NamedStream, steps):
    return split_at(steps, stream.cut_ms(0.8))


@pytest.fixture(scope="module")
def comparison(job: JobConfig, split) -> Comparison:
    return compare(job, split)


@pytest.fixture
def known(comparison: Comparison) -> Comparison:
    """Two users, one of them always scored right, the other always wrong, and the levels the wrong way round."""
    return Comparison(
        labels=np.array([1, 0, 1, 0], np.float32),
        users=np.array([7, 7, 8, 8]),
        times_ms=np.array([0, 1000, 2000, 3000]),
        scores={way: np.array([0.2, 0.1, 0.8, 0.9], np.float32) for way in WAYS},
        epochs=1,
        online=comparison.online,
    )


def test_the_samples_are_the_impressions_with_their_labels(stream: NamedStream, steps):
    acted = {i.feature.request_id: i.action is not None for i in stream.start()}
    first_label: dict[str, float] = {}
    for step in steps:
        for sample in seen(step):
            first_label.setdefault(sample.request_id, sample.label)
            assert sample.label == 0.0 or acted[sample.request_id]
    assert first_label.keys() == acted.keys()
    agree = [first_label[request] == acted[request] for request in acted]
    assert np.mean(agree) > 0.98  # an action after its window is first a negative


def test_the_steps_of_a_journal_are_read_again_as_they_were(job: JobConfig, tmp_path: Path):
    first = read_steps(job, tmp_path / "journal")
    again = read_steps(job, tmp_path / "journal", recorded=True)
    assert [(s.number, seen(s), s.watermark_ms) for s in again] == [(s.number, seen(s), s.watermark_ms) for s in first]


def test_the_split_keeps_everything_and_judges_only_what_was_shown_after_the_cut(stream: NamedStream, steps, split):
    assert split.earlier + split.later == steps
    assert (split.train.event_time_ms < split.cut_ms).all()
    assert (split.test.event_time_ms >= split.cut_ms).all()
    assert len(split.test) == pytest.approx(0.2 * COUNT, abs=5)


@pytest.mark.parametrize("cut_ms", [0, 2**60])
def test_a_cut_outside_the_stream_is_refused(steps, cut_ms: int):
    with pytest.raises(InputError, match=f"cannot be cut at event time {cut_ms}: its samples are from"):
        split_at(steps, cut_ms)


def test_all_ways_score_the_same_samples(comparison: Comparison, split):
    assert list(comparison.scores) == list(WAYS)
    assert {len(scores) for scores in comparison.scores.values()} == {len(split.test)}
    assert np.array_equal(comparison.labels, split.test.labels[:, 0])
    assert comparison.epochs >= 1


def test_online1_is_what_a_trainer_does_with_the_steps(job: JobConfig, comparison: Comparison, split, steps):
    learner, scores = Learner(job), list[float]()
    for step in steps:
        for batch in step.batch.pieces(job.train.batch_size):
            shown = learner.step(batch)
            scores += shown[batch.event_time_ms >= split.cut_ms].tolist() if step in split.later else []
        learner.advance(step.watermark_ms, job.train.sweep_rows)
    assert scores == comparison.scores["online1"].tolist()
    for name, mine in learner.tables.items():
        ids, values = mine.rows()
        their_ids, their_values = comparison.online.tables[name].rows()
        assert np.array_equal(ids, their_ids)
        assert np.array_equal(values, their_values)


def test_frozen1_is_one_pass_over_the_first_part_and_no_update(job: JobConfig, comparison: Comparison, split):
    learner = Learner(job)
    for step in split.earlier:
        for batch in step.batch.pieces(job.train.batch_size):
            learner.step(batch)
        learner.advance(step.watermark_ms, job.train.sweep_rows)
    assert np.array_equal(learner.score(split.test), comparison.scores["frozen1"])
    assert not np.array_equal(comparison.scores["frozen1"], comparison.scores["online1"])


def test_the_same_comparison_twice_gives_the_same_bits(comparison: Comparison, job: JobConfig, split):
    again = compare(job, split)
    for way in WAYS:
        assert np.array_equal(again.scores[way], comparison.scores[way])


def test_the_true_probabilities_are_found_again_and_are_best(stream: NamedStream, comparison: Comparison, split):
    truth = stream.probabilities(split.test_keys)
    by_request = {i.feature.request_id: i.probability for i in stream.start()}
    assert truth == pytest.approx([by_request[request] for request, _ in split.test_keys], rel=1e-6)
    best = with_best(comparison, truth)
    assert all(best.auc(BEST) > best.auc(way) for way in WAYS)
    assert table(best)[5].startswith("best")


def test_a_stream_without_the_grouping_feature_has_no_gauc(known: Comparison):
    alone = replace(known, users=np.full(4, NO_GROUP))
    assert alone.gauc("online1") is None
    assert table(alone)[0].split() == ["AUC"]
    assert table(alone)[-1] == "warm - frozen      +0.0000 AUC"
    assert "no judged sample has the feature 'user'" in about_gauc(alone.labels, alone.users, "user", is_read=True)
    assert "no table reads the feature 'user'" in about_gauc(alone.labels, alone.users, "user", is_read=False)


def test_gauc_leaves_out_samples_without_a_user_and_says_so(known: Comparison):
    some = replace(known, users=np.array([7, 7, NO_GROUP, 8]))
    assert some.gauc("online1") == 1.0
    assert (
        about_gauc(some.labels, some.users, "user", is_read=True)
        == "GAUC is of the 3 samples of 4 that have one 'user'"
    )
    assert about_gauc(known.labels, known.users, "user", is_read=True) is None


def test_a_judged_part_of_one_class_is_refused(job: JobConfig, split):
    ones = [replace(step, batch=replace(step.batch, labels=np.ones_like(step.batch.labels))) for step in split.later]
    with pytest.raises(InputError, match="an AUC needs labels of both kinds"):
        compare(job, replace(split, later=ones))


def test_samples_without_a_label_of_the_first_task_are_not_judged(split):
    bare = [replace(s, batch=replace(s.batch, label_weights=np.zeros_like(s.batch.labels))) for s in split.later]
    assert not replace(split, later=bare).judged.any()


def test_a_first_task_without_an_auc_is_refused_by_its_name(job: JobConfig, split):
    other = msgspec.structs.replace(job, labels=[TaskConfig(name="watched", loss="squared")])
    with pytest.raises(ConfigError, match="the first task 'watched' has the loss squared"):
        compare(other, split)


def test_bounded_steps_are_those_of_a_run_and_write_nothing(job: JobConfig, steps):
    before = sorted(path for path in Path(job.state).parent.rglob("*"))
    read, dropped = read_bounded(job, Between(), lambda *_: None)
    assert [s.batch.event_time_ms.tolist() for s in read] == [s.batch.event_time_ms.tolist() for s in steps]
    assert dropped == {"late positives": 1}
    assert sorted(path for path in Path(job.state).parent.rglob("*")) == before


def test_the_cut_is_by_the_share_of_samples_before_it(steps, split):
    times = np.concatenate([step.batch.event_time_ms for step in steps])
    assert (times < cut_of(steps, 0.8)).mean() == pytest.approx(0.8, abs=0.01)
    with pytest.raises(NoSamplesError, match="no sample to compare on"):
        cut_of([], 0.8)


def test_gauc_looks_inside_users_only(known: Comparison):
    assert known.auc("online1") == 0.5
    assert known.gauc("online1") == 0.5
    assert known.gauc("online1") != known.windows("online1", 2)[1][0]
    times, areas = known.windows("online1", 2)
    assert list(times) == [1000, 3000]
    assert list(areas) == [1.0, 0.0]


def test_the_gains_are_against_the_same_model_stopped(known: Comparison):
    known.scores["online1"] = np.array([0.2, 0.1, 0.95, 0.9], np.float32)
    (one, one_auc, one_gauc), (warm, warm_auc, _) = gains(known)
    assert (one, warm) == ("online1 - frozen1", "warm - frozen")
    assert (one_auc, one_gauc) == (0.25, 0.5)
    assert warm_auc == 0.0


def test_the_plot_is_a_png(comparison: Comparison, tmp_path: Path):
    plot(comparison, tmp_path / "online.png", "title")
    assert (tmp_path / "online.png").read_bytes().startswith(b"\x89PNG")
