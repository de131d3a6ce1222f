from __future__ import annotations

import numpy as np
import pytest
from small_job import job_over, small_stream

from monolith.datasets.online import read_steps
from monolith.datasets.served import (
    EVERY_STEP,
    Plan,
    firsts_of,
    follow_served,
    lists_of_requests,
    lists_of_users,
    step_starts,
    synchronised,
)
from monolith.tables.batch import NO_GROUP, concatenated
from monolith.training.learner import Learner


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return job_over(small_stream().impressions(600), tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def steps(job, tmp_path_factory):
    return read_steps(job, tmp_path_factory.mktemp("journal") / "journal")


def served_by_copies(job, steps, starts, folder):
    """The protocol word by word: a serving model of its own, which is loaded from training at each of ``starts``."""
    training, serving, scores, position = Learner(job), Learner(job), [], 0
    for step in steps:
        for batch in step.batch.pieces(job.train.batch_size):
            if position in starts:
                training.save(folder / str(position))
                serving.load(folder / str(position))
            scores.append(serving.score(batch))
            training.step(batch)
            position += len(batch)
        training.advance(step.watermark_ms, job.train.sweep_rows)
    return np.concatenate(scores)


@pytest.mark.parametrize("parts", [EVERY_STEP, 1, 4])
def test_scores_are_those_of_a_serving_model_that_is_a_copy(job, steps, parts, tmp_path):
    count = sum(len(step.batch) for step in steps)
    starts = synchronised(step_starts(steps, 32), count, parts)
    plan = Plan(starts, np.arange(count), np.ones(count, bool))
    found = follow_served(Learner(job), steps, {"one": plan}, lambda *_: None, "")["one"].scores
    assert found == pytest.approx(served_by_copies(job, steps, set(starts.tolist()), tmp_path), abs=1e-6)


def test_several_plans_at_once_are_each_as_alone_and_training_is_not_disturbed(job, steps):
    count = sum(len(step.batch) for step in steps)
    starts, every = step_starts(steps, 32), np.arange(count)
    plans = {str(n): Plan(synchronised(starts, count, n), every, every % 3 == 0) for n in (EVERY_STEP, 2, 5)}
    one, all_learner = Learner(job), Learner(job)
    together = follow_served(all_learner, steps, plans, lambda *_: None, "")
    alone = follow_served(one, steps, {"2": plans["2"]}, lambda *_: None, "")
    assert np.isnan(together["2"].scores).sum() == (every % 3 != 0).sum()
    np.testing.assert_allclose(together["2"].scores, alone["2"].scores, atol=1e-6)
    for batch in concatenated([step.batch for step in steps]).pieces(64):
        assert np.array_equal(one.score(batch), all_learner.score(batch))


def test_a_list_is_scored_by_the_model_that_served_when_its_first_sample_was_shown():
    starts = np.array([0, 4, 8])
    lists = np.array([7, 7, 9, 9, 9, 5, 7, 1, 1, NO_GROUP, 1])
    plan = Plan(starts, firsts_of(lists), np.ones(11, bool))
    due = {start: samples.tolist() for start, samples in plan.due()}
    assert due == {0: [0, 1, 2, 3, 4, 6], 4: [5, 7, 8, 10], 8: [9]}


def test_synchronisations_are_at_training_steps_and_as_many_as_asked_for(job, steps):
    starts = step_starts(steps, 32)
    count = sum(len(step.batch) for step in steps)
    assert len(synchronised(starts, count, 5)) == 5
    assert set(synchronised(starts, count, 5).tolist()) <= set(starts.tolist())
    assert synchronised(starts, count, 5)[0] == 0
    assert np.array_equal(synchronised(starts, count, EVERY_STEP), starts)
    assert len(synchronised(starts, count, 10_000)) == len(starts)


def test_a_users_next_samples_make_a_list(job):
    users = np.array([1, 2, 1, 1, NO_GROUP, 2, 1, 1])
    wanted = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
    lists = lists_of_users(users, wanted, 2)
    assert lists[[3, 4]].tolist() == [NO_GROUP, NO_GROUP]
    assert lists[0] == lists[2]
    assert lists[6] == lists[7] != lists[0]
    assert lists[1] == lists[5]
    assert len(set(lists.tolist())) == 4


def test_a_request_is_a_list(steps):
    count = sum(len(step.batch) for step in steps)
    requests = lists_of_requests(steps, count)
    keys = [request for step in steps for request, _ in step.keys]
    assert len(set(requests.tolist())) == len(set(keys))
    assert lists_of_requests([], 3).tolist() == [0, 1, 2]
