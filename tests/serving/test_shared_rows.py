"""Ids without a row are served the row that they share, as the trainer reads it, in both modes and every payload."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.serving.parity import compare
from monolith.serving.payload import RowFormat
from monolith.serving.replica import Replica
from monolith.tables import absent, admission
from monolith.tables.hashing import hash_string, salted
from monolith.tables.published import published

STRANGERS = np.array([1, 5, 99, -3, 2**62])
UNSEEN = [{"user": 5, "movie": 77, "last_movie": 12, "tags": ["rare", "new"]}, {"user": 1}, {}]
RULES = {"absent": absent.HashedTail(rows=3), "admission": admission.MinCount(3)}


@pytest.fixture(params=["float32", "float16", "bfloat16", "int8_rowwise"])
def sharing(request, start_recommender, samples):
    """Its tables have tails that learned, and rows of ids that were seen three times."""
    recommender = start_recommender("run-1", request.param, **RULES)
    for k in range(4):
        recommender.learn([*samples[: k + 1], {"user": 100 + k, "tags": ["rare"]}])
        recommender.publish()
    return recommender


def as_served(recommender, table: str, ids: np.ndarray) -> np.ndarray:
    table = recommender.tables[table]
    return RowFormat(recommender.card.payload, table.dim).served(table.lookup(ids))


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_absent_ids_read_what_the_trainer_reads(sharing, url, mode):
    with Replica.open(url, mode=mode) as replica:
        assert len(sharing.tables["user"]) == 2  # some have rows, some share
        np.testing.assert_array_equal(replica.lookup("user", STRANGERS), as_served(sharing, "user", STRANGERS))
        keys = salted("movie", STRANGERS)
        np.testing.assert_array_equal(replica.lookup("movie", STRANGERS), as_served(sharing, "movie", keys))
        tag = np.array([hash_string("tags", "never seen")])
        np.testing.assert_array_equal(replica.lookup("tags", ["never seen"]), as_served(sharing, "tags", tag))
        assert replica.lookup("user", STRANGERS).all()
        assert replica.lookup("user", np.zeros(0, np.int64)).shape == (0, 4)


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_shared_rows_can_be_looked_up_by_their_numbers(sharing, url, mode):
    with Replica.open(url, mode=mode) as replica:
        form = RowFormat(sharing.card.payload, 4)
        np.testing.assert_array_equal(
            replica.lookup("user#tail", [2, 0, 1]), form.served(sharing.tables["user"].tail()[[2, 0, 1]])
        )
        assert not replica.lookup("user#tail", [3, -1]).any()


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_replica_follows_the_shared_rows(sharing, url, mode):
    with Replica.open(url, mode=mode) as replica:
        for k in range(3):
            sharing.learn([{"user": 5 + k}])
            sharing.publish()
            assert replica.wait_for(sharing.sequence, 20)
            np.testing.assert_array_equal(replica.lookup("user", STRANGERS), as_served(sharing, "user", STRANGERS))


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_predictions_of_strangers_are_the_models(start_recommender, url, samples, mode):
    recommender = start_recommender("run-1", **RULES)
    recommender.learn(samples)
    recommender.publish()
    with Replica.open(url, mode=mode) as replica:
        served = replica.predict(UNSEEN).probabilities
        np.testing.assert_allclose(served, recommender.probabilities(UNSEEN), rtol=1e-6)


def test_parity_sees_the_shared_rows(sharing):
    tables = published(sharing.tables)
    parity = compare(sharing.store, tables)
    assert {name: each.equal for name, each in parity.items() if "#" in name} == dict.fromkeys(
        ["user#tail", "movie#tail", "tags#tail"], 3
    )
    assert all(each.exact for each in parity.values())
    sharing.learn([{"user": 10**6}])
    stale = compare(sharing.store, tables)["user#tail"]
    assert (stale.equal, stale.stale) == (2, 1)


def test_tail_that_is_turned_on_makes_a_new_image(start_recommender, url, samples):
    first = start_recommender("run")
    first.learn(samples)
    first.publish()
    with Replica.open(url) as replica:
        assert not replica.lookup("user", [10**6]).any()
        second = start_recommender("run", **RULES)
        assert second.publisher.held_sequence == 0
        second.learn(samples)
        second.publish()
        second.learn(samples)
        second.publish()
        assert replica.wait_for(2, 20)
        np.testing.assert_array_equal(replica.lookup("user", STRANGERS), as_served(second, "user", STRANGERS))
