"""What a forked child can do with the stores, replicas and clients of its parent, whose own do not suffer."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from monolith import forks
from monolith.errors import FencedError, MonolithError, UnavailableError
from monolith.serving.client import Client
from monolith.serving.replica import Replica
from monolith.serving.store import open_store

DEADLINE_S = 60
IDS = np.array([1, 2, 99])

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")


@pytest.fixture
def forked():
    """Starts ``work(go)`` in a child, and returns when that waits in ``go()``, or is done.

    What is returned lets the child go on, and tells what ``work`` returned or raised.
    """
    children = []

    def fork(work):
        (told, tells), (waits, lets_go), (read, write) = os.pipe(), os.pipe(), os.pipe()

        def go():
            os.write(tells, b".")
            os.read(waits, 1)

        child = os.fork()
        if child == 0:
            try:
                result = work(go)
            except MonolithError as error:
                result = error
            os.write(write, pickle.dumps(result))
            os.write(tells, b".")
            os._exit(0)
        children.append(child)
        os.close(write)
        assert select.select([told], [], [], DEADLINE_S)[0], "the child hangs"

        def finish():
            os.write(lets_go, b".")
            assert select.select([read], [], [], DEADLINE_S)[0], "the child hangs"
            with os.fdopen(read, "rb") as pipe:
                return pickle.loads(pipe.read())

        return finish

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def readers(store) -> str:
    """The processes that read the folder now."""
    return store._environment().lmdb.readers()


def test_a_store_that_the_parent_has_open_is_read_in_the_child_and_goes_on_in_both(forked, recommender, url):
    expected = recommender.tables["user"].lookup(IDS)
    store = open_store(url, "demo")
    assert np.array_equal(store.read("user", IDS)[0], expected)

    def work(go):
        before = store.read("user", IDS)[0]
        go()
        return before, store.version().sequence, open_store(url, "demo").version().sequence

    finish = forked(work)
    recommender.learn([{"user": 1}])
    recommender.publish()
    before, *sequences = finish()
    assert np.array_equal(before, expected)
    assert sequences == [2, 2]
    assert store.version().sequence == 2
    store.close()


def test_a_fork_waits_for_the_transactions_of_other_threads(forked, recommender, url, in_thread):
    store, stop = open_store(url, "demo"), []

    def read() -> None:
        while not stop:
            store.read("user", IDS)

    in_thread(read)
    in_thread(read)
    expected = recommender.tables["user"].lookup(IDS)
    for _ in range(20):
        assert np.array_equal(forked(lambda go: store.read("user", IDS)[0])(), expected)
    stop.append(True)


def test_a_fork_within_a_transaction_leaves_the_parents_alone_and_refuses_the_child(
    forked, recommender, url, monkeypatch
):
    monkeypatch.setattr(forks, "WAIT_S", 0.01)
    store = open_store(url, "demo")
    rows = store.rows("user")
    first = next(rows)
    before = readers(store)
    assert str(os.getpid()) in before
    refusal = forked(lambda go: store.version())()
    assert isinstance(refusal, UnavailableError)
    assert "open stores after the fork" in str(refusal)
    assert readers(store) == before
    recommender.publish()
    assert len(first[0]) == 2
    assert list(rows) == []
    store.close()


def test_a_child_does_not_write_as_its_parent(forked, recommender):
    def work(go):
        recommender.learn([{"user": 1}])
        return recommender.publish()

    refusal = forked(work)()
    assert isinstance(refusal, FencedError)
    recommender.learn([{"user": 2}])
    assert recommender.publish().outcome == "applied"


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_a_replica_of_the_parents_answers_and_follows_in_the_child(forked, recommender, url, mode, samples):
    with Replica.open(url, "demo", mode) as replica:
        expected = recommender.tables["user"].lookup(IDS)

        def work(go):
            rows, prediction = replica.lookup("user", IDS), replica.predict(samples)
            go()
            assert replica.wait_for(2, DEADLINE_S)
            return rows, prediction.probabilities, replica.read("user", IDS), replica.status().ready

        probabilities = recommender.probabilities(samples)
        finish = forked(work)
        recommender.learn([{"user": 1}])
        recommender.publish()
        rows, predicted, after, ready = finish()
        assert np.array_equal(rows, expected)
        np.testing.assert_allclose(predicted, probabilities, rtol=1e-6)
        assert np.array_equal(after.values, recommender.tables["user"].lookup(IDS))
        assert ready
        assert replica.wait_for(2, DEADLINE_S)


def _ask(replica, results) -> None:
    results.put(replica.lookup("user", IDS))


def test_a_replica_is_asked_in_processes_of_multiprocessing(recommender, url):
    context = multiprocessing.get_context("fork")
    with Replica.open(url, "demo") as replica:
        results = context.Queue()
        processes = [context.Process(target=_ask, args=(replica, results)) for _ in range(2)]
        for process in processes:
            process.start()
        for _ in processes:
            rows = results.get(timeout=DEADLINE_S)
            assert np.array_equal(rows, recommender.tables["user"].lookup(IDS))
        for process in processes:
            process.join(DEADLINE_S)
            assert process.exitcode == 0


def test_a_replica_whose_folder_has_gone_says_so_in_the_child(forked, recommender, url, monkeypatch):
    monkeypatch.setattr("monolith.serving.follower.LOAD_S", 0.1)
    with Replica.open(url, "demo") as replica:
        folder = Path(url.removeprefix("lmdb://"))
        folder.rename(folder.with_name("elsewhere"))
        refusal = forked(lambda go: replica.lookup("user", IDS))()
        assert isinstance(refusal, UnavailableError)


def test_a_client_asks_on_a_connection_of_the_childs_own(forked, start_server, recommender, url):
    with Client(start_server(Replica.open(url, "demo"))) as client:
        expected = recommender.tables["user"].lookup(IDS)
        assert np.array_equal(client.lookup("user", IDS), expected)
        held = client._http

        def work(go):
            return client._http is held, client.lookup("user", IDS)

        shared, rows = forked(work)()
        assert not shared
        assert np.array_equal(rows, expected)


def test_what_is_gone_is_not_made_anew(forked, url, recommender):
    store = open_store(url, "demo")
    store.version()
    store.close()
    del store
    assert forked(lambda go: time.monotonic())() > 0
