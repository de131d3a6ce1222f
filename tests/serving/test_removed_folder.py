"""An LMDB store whose folder is removed or replaced under running processes: noticed, filled again, followed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from monolith.errors import UnavailableError
from monolith.serving import follower, publisher
from monolith.serving.replica import Replica
from monolith.serving.store import open_store


@pytest.fixture(autouse=True)
def looks_at_every_call(monkeypatch):
    monkeypatch.setattr(publisher, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(follower, "MAX_BACK_OFF_S", 0.05)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def is_whole(recommender) -> bool:
    """Whether a store opened now holds the trainer's rows, bit by bit."""
    store = open_store(recommender.store.url, "demo", create=False)
    try:
        image = store.image().delta.tables["user"]
        return image.values.tobytes() == recommender.tables["user"].lookup(image.ids).tobytes() and bool(len(image.ids))
    finally:
        store.close()


def test_quiet_trainer_fills_a_removed_folder_again(recommender, folder):
    shutil.rmtree(folder)
    recommender.publisher.tend(recommender.sequence, recommender.delta)
    assert is_whole(recommender)


def test_busy_trainer_fills_a_removed_folder_with_its_next_publish(recommender, folder, samples):
    shutil.rmtree(folder)
    recommender.learn(samples)
    recommender.publish()
    assert is_whole(recommender)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_one_removed_file_is_noticed_too(recommender, folder, name):
    """Without the lock file, who opens the folder next would not see who else reads and writes."""
    (folder / name).unlink()
    recommender.publisher.tend(recommender.sequence, recommender.delta)
    assert is_whole(recommender)
    assert recommender.store._environment().is_current()


def test_folder_that_was_replaced_by_an_older_copy_is_brought_up_to_date(recommender, folder, tmp_path, samples):
    shutil.copytree(folder, tmp_path / "older")
    recommender.learn(samples)
    recommender.publish()
    shutil.rmtree(folder)
    (tmp_path / "older").rename(folder)
    recommender.publisher.tend(recommender.sequence, recommender.delta)
    assert is_whole(recommender)
    assert recommender.store.version().sequence == recommender.sequence


def test_replica_says_that_the_folder_is_gone_serves_on_and_follows_the_new_one(
    recommender, folder, url, wait_until, samples
):
    with Replica.open(url, "demo") as replica:
        held = replica.lookup("user", [2])
        shutil.rmtree(folder)
        wait_until(lambda: "no LMDB store" in (replica.status().trouble or ""), "the replica noticing")
        wait_until(lambda: replica.status().stale_ms > 0, "the replica growing stale")
        assert np.array_equal(replica.lookup("user", [2]), held)
        recommender.learn(samples)
        recommender.publish()
        assert replica.wait_for(recommender.sequence, 20)
        wait_until(lambda: replica.status().trouble is None, "the replica being well again")
        assert np.array_equal(replica.lookup("user", [2]), recommender.tables["user"].lookup(np.array([2])))


def test_replica_follows_into_a_folder_that_took_the_others_place(
    recommender, folder, url, tmp_path, start_recommender, wait_until
):
    with Replica.open(url, "demo") as replica:
        folder.rename(tmp_path / "old")
        other = start_recommender("another run")
        other.learn([{"user": 77}])
        other.publish()
        wait_until(lambda: replica.version().lineage == "another run", "the replica changing over")
        assert replica.lookup("user", [77]).any()


def test_direct_replica_reads_the_folder_that_is_there(recommender, folder, url, samples):
    with Replica.open(url, "demo", "direct") as replica:
        shutil.rmtree(folder)
        with pytest.raises(UnavailableError):
            replica.lookup("user", [2])
        assert not replica.status().ready
        recommender.learn(samples)
        recommender.publish()
        assert np.array_equal(replica.lookup("user", [2]), recommender.tables["user"].lookup(np.array([2])))


def test_reading_that_began_in_the_removed_folder_ends_in_it(recommender, folder):
    rows = recommender.store.packed_rows("user")
    shutil.rmtree(folder)
    recommender.publisher.tend(recommender.sequence, recommender.delta)
    assert sum(len(ids) for ids, _, _ in rows) == 2
