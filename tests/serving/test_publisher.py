"""The publisher: what it sends, what it skips, and that a store in trouble costs training next to nothing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from monolith.errors import CorruptError, CredentialsError, FencedError, GapError, UnavailableError
from monolith.serving import publisher as publisher_module
from monolith.serving.ledger import Held, Look
from monolith.serving.publisher import Published, Publisher
from monolith.serving.store import Image, open_store
from monolith.tables import eviction


class FlakyStore:
    """A store with a switch: while ``trouble`` is set, every call raises it."""

    def __init__(self, url: str) -> None:
        self.inner = open_store(url, "demo")
        self.url = url
        self.trouble: Exception | None = None
        self.calls = 0

    def take_over(self, *arguments) -> Held:
        return self._call(self.inner.take_over, *arguments)

    def apply(self, *arguments) -> bool:
        return self._call(self.inner.apply, *arguments)

    def look(self) -> Look:
        return self._call(self.inner.look)

    def image(self) -> Image:
        return self._call(self.inner.image)

    def empty(self, folder: Path) -> None:
        """As a server without persistence does over a restart."""
        self.inner.close()
        shutil.rmtree(folder)
        self.inner = open_store(self.url, "demo")

    def close(self) -> None:
        self.inner.close()

    def _call(self, method, *arguments):
        self.calls += 1
        if self.trouble is not None:
            raise self.trouble
        return method(*arguments)


class Clock:
    """Monotonic time that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(publisher_module, "time", clock)
    return clock


@pytest.fixture
def store(tmp_path):
    store = FlakyStore(f"lmdb://{tmp_path}/store")
    yield store
    store.close()


@pytest.fixture
def publisher(store, model):
    publisher = Publisher(store)
    publisher.start(model.card, b"graph")
    return publisher


def asked(model, wanted: list[int]):
    """The model's ``make_delta``, noting what it is asked for."""

    def make_delta(since: int):
        wanted.append(since)
        return model.since(since)

    return make_delta


def served(store, model):
    return model.rows_of(store.inner.image().delta.tables["user"])


def test_each_publish_asks_for_what_the_store_lacks(publisher, store, scripted):
    model, wanted = scripted(), []
    for sequence in (1, 2, 3):
        model.write(sequence)
        assert publisher.publish(sequence, asked(model, wanted)) == Published("applied", sequence)
    assert wanted == [0, 1, 2]
    assert served(store, model) == model.states[3]


def test_what_the_store_has_is_not_even_made(store, model):
    first = Publisher(store)
    first.start(model.card)
    first.publish(3, model.since)
    again, wanted = Publisher(store), []
    again.start(model.card)
    assert again.held_sequence == 3
    assert again.publish(2, asked(model, wanted)) == Published("known", 3)
    model.write(9)
    assert again.publish(4, asked(model, wanted)) == Published("applied", 4)
    assert wanted == [3]


def test_a_store_that_is_away_defers_and_the_next_delta_is_wider(publisher, store, model, clock):
    publisher.publish(1, lambda since: model.delta(since, 1))
    store.trouble = UnavailableError("gone")
    assert publisher.publish(2, lambda since: model.delta(since, 2)) == Published("deferred", 1)
    store.trouble = None
    clock.now += 60
    wanted: list[int] = []
    assert publisher.publish(3, asked(model, wanted)) == Published("applied", 3)
    assert wanted == [1]
    assert served(store, model) == model.states[3]


def test_a_store_that_refuses_its_user_later_is_tried_again_as_one_that_is_away(publisher, store, model, clock, caplog):
    publisher.publish(1, lambda since: model.delta(since, 1))
    store.trouble = CredentialsError("refuses this user")
    assert publisher.publish(2, lambda since: model.delta(since, 2)) == Published("deferred", 1)
    clock.now += 60
    publisher.tend(2, lambda since: model.delta(since, 2))
    assert "refuses this user" in caplog.text
    store.trouble = None
    clock.now += 60
    assert publisher.publish(3, model.since) == Published("applied", 3)
    assert served(store, model) == model.states[3]


def test_a_store_that_never_took_its_user_is_an_error(store, model, clock):
    store.trouble = UnavailableError("gone")
    one = Publisher(store)
    one.start(model.card)
    store.trouble = CredentialsError("refuses this user")
    clock.now += 60
    with pytest.raises(CredentialsError):
        one.publish(1, model.since)


def test_a_store_that_stays_away_is_tried_less_and_less_and_logged_once(publisher, store, model, clock, caplog):
    store.trouble = UnavailableError("gone")
    before = store.calls
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            assert publisher.publish(1, model.since).outcome == "deferred"
            clock.now += 0.1
    tries = store.calls - before
    assert 15 <= tries <= 30  # 100 s with pauses of 0.2, 0.4 ... 5 s
    assert publisher.failures == tries
    assert len([record for record in caplog.records if "store is away" in record.message]) == 1


def test_a_try_that_hangs_is_followed_by_a_pause_nine_times_as_long(publisher, store, model, clock):
    def hang(*_):
        clock.now += 10.0
        raise UnavailableError("timed out")

    store.inner.apply, started = hang, clock.now
    for _ in range(1000):
        publisher.publish(3, model.since)
        clock.now += 1.0
    lost_s = 10.0 * publisher.failures
    assert 20 <= lost_s <= (clock.now - started) / 10 + 10


def test_a_store_that_is_away_at_the_start_is_taken_over_later(store, model, clock):
    store.trouble = UnavailableError("not yet")
    publisher = Publisher(store)
    publisher.start(model.card, b"graph")
    assert publisher.generation is None
    assert publisher.publish(3, model.since) == Published("deferred", 0)
    store.trouble = None
    clock.now += 60
    assert publisher.publish(3, model.since) == Published("applied", 3)
    assert store.inner.graph() == b"graph"


def test_an_acknowledgement_that_got_lost_does_no_harm(publisher, store, model, clock):
    apply = store.inner.apply

    def apply_and_lose(*arguments):
        apply(*arguments)
        raise UnavailableError("connection lost after the commit")

    store.inner.apply = apply_and_lose
    assert publisher.publish(2, lambda since: model.delta(since, 2)).outcome == "deferred"
    store.inner.apply = apply
    clock.now += 60
    assert publisher.publish(2, lambda since: model.delta(since, 2)).outcome == "known"
    assert publisher.publish(3, model.since).outcome == "applied"
    assert served(store, model) == model.states[3]


def test_a_newer_trainer_ends_this_one(publisher, store, model):
    newer = open_store(store.url, "demo")
    newer.take_over(model.card)
    with pytest.raises(FencedError):
        publisher.publish(3, model.since)
    newer.close()


def test_a_damaged_store_is_not_taken_for_one_that_is_away(publisher, store, model):
    store.trouble = CorruptError("a byte changed")
    with pytest.raises(CorruptError):
        publisher.publish(3, model.since)


def test_a_trainer_that_forgot_the_tombstones_sends_an_image(publisher, store, model):
    publisher.publish(1, lambda since: model.delta(since, 1))

    def forgetful(since: int):
        if since:
            raise GapError("tombstones are known only from later on")
        return model.delta(0)

    assert publisher.publish(3, forgetful) == Published("applied", 3)
    assert served(store, model) == model.states[3]


def test_store_that_was_away_while_a_table_forgot_what_went_gets_an_image(start_recommender, samples, caplog):
    """More rows came and went than the table remembers: the rows that the store has and the table lacks go as well."""
    recommender = start_recommender("run-1", eviction=eviction.LRU(max_rows=500))
    recommender.learn(samples)
    recommender.publish()
    user = recommender.tables["user"]
    for first in range(100, 40_100, 500):  # no publish gets through meanwhile
        user.observe(np.arange(first, first + 500), event_time_ms=5_000 + first)
    with caplog.at_level(logging.WARNING):
        assert recommender.publish().outcome == "applied"
    assert "sending an image instead of a delta" in caplog.text
    held = recommender.store.image().delta.tables
    assert {name: table.ids.tolist() for name, table in held.items()} == {
        name: table.rows()[0].tolist() for name, table in recommender.tables.items()
    }
    assert len(held["user"].ids) <= 500
    recommender.learn(samples)
    assert recommender.publish().outcome == "applied"


def test_drain_waits_out_the_trouble(publisher, store, model, clock):
    store.trouble = UnavailableError("gone")
    publisher.publish(3, model.since)
    sleep = clock.sleep

    def mended(seconds):
        sleep(seconds)
        store.trouble = None

    clock.sleep = mended
    assert publisher.drain(10)
    assert served(store, model) == model.states[3]


def test_drain_gives_up_at_its_deadline_and_says_so(publisher, store, model, clock, caplog):
    store.trouble = UnavailableError("gone")
    publisher.publish(3, model.since)
    assert not publisher.drain(10)
    assert "did not take the last delta sequence=3" in caplog.text


def test_drain_with_nothing_published_has_nothing_to_wait_for(publisher):
    assert publisher.drain(0)


def test_a_store_that_restarts_empty_in_a_quiet_time_is_filled_again(publisher, store, model, clock, tmp_path):
    publisher.publish(3, model.since)
    publisher.tend(3, model.since)
    assert store.inner.version().sequence == 3
    store.empty(tmp_path / "store")
    publisher.tend(3, model.since)  # too soon to look again
    assert store.inner.version().sequence == 0
    clock.sleep(1.5)
    publisher.tend(3, model.since)
    assert served(store, model) == model.states[3]


def test_a_quiet_trainer_learns_that_another_took_over(publisher, store, model, clock):
    publisher.publish(3, model.since)
    generation = store.inner.take_over(model.card, b"").generation
    model.write(9)
    store.inner.apply(model.delta(3), generation, model.lineage)
    clock.sleep(1.5)
    with pytest.raises(FencedError):
        publisher.tend(3, model.since)


def test_a_store_that_was_away_at_the_last_publish_gets_it_in_the_quiet_time(publisher, store, model, clock):
    store.trouble = UnavailableError("down")
    publisher.publish(3, model.since)
    store.trouble = None
    clock.sleep(1.5)
    publisher.tend(3, model.since)
    assert served(store, model) == model.states[3]
