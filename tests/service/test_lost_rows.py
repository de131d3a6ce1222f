"""Rows that a store lost are noticed by trainer and replicas, never served as zeros, and sent again."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from monolith.errors import CorruptError, UnavailableError
from monolith.serving import follower, publisher
from monolith.serving.publisher import Publisher
from monolith.serving.replica import Replica
from monolith.serving.store import open_store

pytestmark = pytest.mark.service


@pytest.fixture(autouse=True)
def looks_at_every_call(monkeypatch):
    monkeypatch.setattr(publisher, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(follower, "WAIT_S", 0.02)


@pytest.fixture
def connect(redis_server):
    stores = []

    def opened():
        stores.append(open_store(redis_server.url, "demo"))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def published(connect, model):
    """A publisher whose store holds the model."""
    one = Publisher(connect())
    one.start(model.card, b"")
    one.publish(1, lambda held: model.delta(held, 1))
    one.publish(3, model.since)
    return one


def served(store, model):
    return model.rows_of(store.image().delta.tables["user"])


def lose_table(client) -> None:
    client.delete("{demo}:rows:user")


def lose_a_row(client) -> None:
    client.hdel("{demo}:rows:user", (2).to_bytes(8, "big"))


LOSSES = pytest.mark.parametrize("lose", [lose_table, lose_a_row])


@LOSSES
def test_quiet_trainer_notices_and_sends_them_again(connect, redis_server, model, published, lose, caplog):
    lose(redis_server.client())
    published.tend(3, model.since)
    assert served(connect(), model) == model.states[3]
    assert "has lost or gained rows: table 'user' has" in caplog.text


@LOSSES
def test_busy_trainer_notices_at_its_next_delta(connect, redis_server, model, published, lose):
    lose(redis_server.client())
    model.write(9)
    published.publish(4, model.since)
    assert served(connect(), model) == model.states[4]


@LOSSES
def test_trainer_that_starts_anew_repairs_what_was_lost_meanwhile(connect, redis_server, model, published, lose):
    lose(redis_server.client())
    again = Publisher(connect())
    again.start(model.card, b"")
    again.publish(3, model.since)
    assert served(connect(), model) == model.states[3]


PARTS = pytest.mark.parametrize("part", ["card", "graph", "dense"])


@PARTS
@pytest.mark.parametrize("busy", [True, False])
def test_trainer_notices_that_a_part_beside_the_rows_is_gone_and_sends_an_image(
    connect, redis_server, model, published, part, busy
):
    redis_server.client().delete(f"{{demo}}:{part}")
    if busy:
        model.write(9)
        published.publish(4, model.since)
    else:
        published.tend(3, model.since)
    assert served(connect(), model) == model.states[4 if busy else 3]
    assert redis_server.client().exists(f"{{demo}}:{part}")


def test_trainer_sends_an_image_over_a_card_that_was_damaged(connect, redis_server, model, published, caplog):
    redis_server.client().setrange("{demo}:card", 9, b"?")
    model.write(9)
    published.publish(4, model.since)
    assert served(connect(), model) == model.states[4]
    assert "is replaced" in caplog.text


def test_replica_that_starts_without_a_card_in_the_store_waits_for_the_trainer(redis_server, model, published):
    redis_server.client().delete("{demo}:card")
    with Replica.open(redis_server.url, "demo", timeout_s=None) as replica:
        assert not replica.wait_until_ready(1.0)
        assert "has lost its card; the trainer sends an image" in replica.status().trouble
        published.tend(3, model.since)
        assert replica.wait_until_ready(20)


def put_back(client, key: bytes, old: bytes) -> None:
    client.hset("{demo}:rows:user", key, old)


def put_elsewhere(client, key: bytes, old: bytes) -> None:
    client.hdel("{demo}:rows:user", key)
    client.hset("{demo}:rows:user", (777).to_bytes(8, "big"), old)


def put_damaged(client, key: bytes, old: bytes) -> None:
    client.hset("{demo}:rows:user", key, bytes([old[0] ^ 1]) + old[1:])


@pytest.mark.parametrize("alter", [put_back, put_elsewhere, put_damaged])
def test_trainer_that_starts_anew_repairs_rows_that_are_as_many_and_others(
    connect, redis_server, model, published, alter, caplog
):
    client, key = redis_server.client(), (2).to_bytes(8, "big")
    old = client.hget("{demo}:rows:user", key)
    model.write(2)
    published.publish(4, model.since)
    alter(client, key, old)
    again = Publisher(connect())
    again.start(model.card, b"")
    assert "the store gets an image, as revision" in caplog.text
    again.publish(4, model.since)
    assert served(connect(), model) == model.states[4]


@LOSSES
def test_replica_that_starts_then_says_what_is_wrong_and_answers_once_it_is_mended(
    redis_server, model, published, lose
):
    lose(redis_server.client())
    with Replica.open(redis_server.url, "demo", timeout_s=None) as replica:
        assert not replica.wait_until_ready(1.0)
        assert "has lost or gained rows: table 'user'" in replica.status().trouble
        published.tend(3, model.since)
        assert replica.wait_until_ready(20)
        assert replica.lookup("user", [2])[0].tobytes() == model.states[3][2]


@LOSSES
def test_direct_replica_refuses_to_answer_from_what_is_left(redis_server, model, published, lose):
    with Replica.open(redis_server.url, "demo", "direct") as replica:
        lose(redis_server.client())
        with pytest.raises(UnavailableError, match="has lost or gained rows"):
            replica.lookup("user", [2])
        assert not replica.status().ready
        assert "has lost or gained rows" in replica.status().trouble
        published.tend(3, model.since)
        assert replica.lookup("user", [2])[0].tobytes() == model.states[3][2]
        assert replica.status().ready


def test_row_that_went_back_to_an_older_version_is_found_when_all_are_read(connect, redis_server, model, published):
    client, key = redis_server.client(), (2).to_bytes(8, "big")
    old = client.hget("{demo}:rows:user", key)
    model.write(2)
    published.publish(4, model.since)
    assert served(connect(), model) == model.states[4]
    client.hset("{demo}:rows:user", key, old)
    with pytest.raises(CorruptError, match="rows of another version or table: checksum of 'user'"):
        connect().image()


def test_checksum_follows_any_deltas_and_equals_that_of_an_image_of_the_same_rows(connect, redis_server, scripted):
    rng = np.random.default_rng(3)
    model, one, other = scripted(), connect(), open_store(redis_server.url, "other")
    generation = one.take_over(model.card).generation
    for sequence in range(1, 30):
        model.write(*rng.integers(0, 50, 10).tolist(), remove=tuple(rng.integers(0, 50, 5).tolist()))
        one.apply(model.delta(max(0, sequence - 1 - sequence % 3)), generation, model.lineage)
    other.apply(model.delta(0), other.take_over(model.card).generation, model.lineage)
    assert one._head().contents == other._head().contents
    assert one._head().contents["user"].rows == len(model.states[-1])
    other.close()


def test_store_of_a_build_that_did_not_count_is_read_and_counted_from_its_next_image_on(connect, model):
    import msgspec

    from monolith.serving import ledger

    store = connect()
    generation = store.take_over(model.card).generation
    store.apply(model.delta(0, 1), generation, model.lineage)
    older = msgspec.to_builtins(store._head())
    del older["contents"]
    store._redis.set("{demo}:head", ledger.seal_json(older))
    assert store.apply(model.delta(1, 3), generation, model.lineage)
    assert served(store, model) == model.states[3]
    assert store._head().contents is None
    assert store.look().fault is None


@pytest.mark.parametrize(("policy", "warned"), [("allkeys-lru", True), ("volatile-lru", False), ("noeviction", False)])
def test_policy_that_throws_tables_away_is_warned_about_by_name_once(
    connect, redis_server, model, caplog, policy, warned
):
    redis_server.client().config_set("maxmemory-policy", policy)
    store = connect()
    for _ in range(3):
        store.take_over(model.card)
    lines = [record for record in caplog.records if f"maxmemory-policy {policy}" in record.getMessage()]
    assert len(lines) == (1 if warned else 0)


def test_server_that_does_not_tell_its_policy_is_said_to_be_unknown(redis_server, model, caplog):
    caplog.set_level(logging.INFO)
    redis_server.client().acl_setuser(
        "limited", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"], commands=["-info"]
    )
    store = open_store(redis_server.url.replace("redis://", "redis://limited:pw@"), "demo")
    store.take_over(model.card)
    assert "does not tell its maxmemory-policy" in caplog.text
    store.close()


def test_tables_that_were_evicted_under_memory_pressure_come_back(connect, redis_server, scripted):
    """The server is made to evict everything that it can, as a cache that runs full does."""
    model, client = scripted(dim=64), redis_server.client()
    model.write(*range(2_000))
    one = Publisher(connect())
    one.start(model.card)
    one.publish(1, model.since)
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 200_000)
    client.set("other", bytes(100_000))
    assert not client.exists("{demo}:rows:user") or not client.exists("{demo}:head")
    client.config_set("maxmemory", 0)
    one.tend(1, model.since)
    assert served(connect(), model) == model.states[1]
