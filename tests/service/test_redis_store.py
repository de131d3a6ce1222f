"""What only Redis does: it dies, comes back empty or older, runs out of memory, and is read while it is written."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from monolith.errors import ConfigError, CorruptError, FencedError, GapError, UnavailableError
from monolith.serving import redis_reader
from monolith.serving.packed import PackedTable, pack_delta
from monolith.serving.payload import RowFormat
from monolith.serving.publisher import Publisher
from monolith.serving.redis_reader import overlaid
from monolith.serving.replica import Replica
from monolith.serving.store import open_store

pytestmark = pytest.mark.service


@pytest.fixture
def connect(redis_server):
    stores = []

    def opened(options: str = "", model: str = "demo"):
        stores.append(open_store(redis_server.url + options, model))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def served(store, model):
    return model.rows_of(store.image().delta.tables["user"])


def wait_until(condition, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.01)


def test_models_with_different_names_do_not_meet(connect, scripted):
    left, right = scripted("left"), scripted("right")
    left.write(1)
    right.write(2)
    for name, model in (("a", left), ("b", right)):
        publisher = Publisher(connect(model=name))
        publisher.start(model.card)
        publisher.publish(1, model.since)
    assert served(connect(model="a"), left) == left.states[1]
    assert served(connect("?model=b", model="a"), right) == right.states[1]


def test_a_server_that_is_not_there_is_unavailable_and_named(connect, redis_server):
    redis_server.kill()
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{redis_server.port}.*does not answer"):
        connect().version()


def test_a_wrong_password_is_a_config_error_that_does_not_show_it(redis_server):
    redis_server.client().config_set("requirepass", "another")
    store = open_store(redis_server.url.replace("redis://", "redis://:secret@"), "demo")
    with pytest.raises(ConfigError, match="refuses this user") as caught:
        store.version()
    assert "secret" not in str(caught.value)


def test_training_goes_on_through_a_restart_that_loses_everything(connect, redis_server, model):
    publisher, reader = Publisher(connect()), connect()
    publisher.start(model.card, b"graph")
    assert publisher.publish(3, model.since).outcome == "applied"
    redis_server.kill()
    model.write(11)
    assert publisher.publish(4, model.since).outcome == "deferred"
    redis_server.start()
    model.write(12, remove=(2,))
    publisher.publish(5, model.since)
    assert publisher.drain(20)
    assert served(reader, model) == model.states[5]
    assert (reader.graph(), reader.version().generation) == (b"graph", publisher.generation)


def test_a_store_that_came_back_older_gets_a_wider_delta(connect, redis_server, model):
    """As from an old dump: nothing may be lost that was written after it."""
    publisher, reader = Publisher(connect()), connect()
    publisher.start(model.card)
    publisher.publish(1, lambda held: model.delta(held, 1))
    redis_server.client().save()
    publisher.publish(2, lambda held: model.delta(held, 2))
    redis_server.kill()
    redis_server.start()
    assert reader.version().sequence == 1
    assert publisher.publish(3, model.since).outcome == "applied"
    assert served(reader, model) == model.states[3]
    assert reader.deltas(reader.version(), 0.0) == []


def test_a_trainer_that_took_over_the_emptied_store_is_not_pushed_out(connect, redis_server, scripted, model):
    old, new, reader = Publisher(connect()), Publisher(connect()), connect()
    old.start(model.card)
    old.publish(3, model.since)
    redis_server.kill()
    redis_server.start()
    other = scripted("other")
    other.write(5)
    new.start(other.card)
    new.publish(1, other.since)
    model.write(6)
    with pytest.raises(FencedError):
        old.publish(4, model.since)
    assert served(reader, other) == other.states[1]


def test_a_delta_that_does_not_fit_into_memory_changes_nothing(connect, redis_server, scripted):
    model, store = scripted(dim=64), connect()
    model.write(1, 2)
    generation = store.take_over(model.card).generation
    store.apply(model.delta(0), generation, model.lineage)
    used = redis_server.client().info("memory")["used_memory"]
    redis_server.client().config_set("maxmemory", used + 300_000)
    model.write(*range(10_000))
    for since in (0, 1):
        with pytest.raises(UnavailableError, match="out of memory"):
            store.apply(model.delta(since), generation, model.lineage)
        assert store.version().sequence == 1
    redis_server.client().config_set("maxmemory", 0)
    assert served(store, model) == model.states[1]
    assert store.apply(model.delta(1), generation, model.lineage)


def test_an_image_whose_rows_got_lost_on_the_way_is_not_applied(connect, redis_server, model, monkeypatch):
    store = connect()
    generation = store.take_over(model.card).generation
    stage = store._stage

    def lossy(delta):
        stage(delta)
        (key,) = redis_server.client().keys("*stage*")
        redis_server.client().hdel(key, redis_server.client().hkeys(key)[0])

    monkeypatch.setattr(store, "_stage", lossy)
    with pytest.raises(UnavailableError, match="lost a part of the image"):
        store.apply(model.delta(0), generation, model.lineage)
    assert store.version().sequence == 0


def test_what_an_unfinished_image_left_expires(connect, redis_server, model):
    store = connect()
    store.take_over(model.card)
    store._stage(pack_delta(model.delta(0), "float32"))
    (key,) = redis_server.client().keys("*stage*")
    assert 0 < redis_server.client().ttl(key) <= 3600
    assert store.version().sequence == 0


def test_nothing_of_an_applied_image_expires(connect, redis_server, model):
    store = connect()
    generation = store.take_over(model.card).generation
    store.apply(model.delta(0), generation, model.lineage)
    assert {redis_server.client().ttl(key) for key in redis_server.client().keys("*")} == {-1}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda r: r.hset("{demo}:rows:user", (2).to_bytes(8, "big"), b"short"),
            r"row 2 has 5 bytes, dim 3 in",
        ),
        (lambda r: r.hset("{demo}:rows:user", (2).to_bytes(8, "big"), bytes(16)), r"row 2 fails its checksum"),
        (lambda r: r.hset("{demo}:rows:user", b"key", bytes(16)), r"key is not 8 bytes"),
        (lambda r: r.hdel("{demo}:rows:user", (2).to_bytes(8, "big")), r"lost or gained rows: table 'user' has 4 of 5"),
        (lambda r: r.setrange("{demo}:dense", 9, b"?"), r"the dense of .* fails its checksum"),
        (lambda r: r.setrange("{demo}:card", 9, b"?"), r"the model card of .* fails its checksum"),
        (lambda r: r.setrange("{demo}:head", 9, b"?"), r"the head of .* fails its checksum"),
        (lambda r: r.delete("{demo}:graph"), r"has lost its graph"),
        (lambda r: (r.delete("{demo}:rows:user"), r.set("{demo}:rows:user", 1)), r"key of another kind"),
    ],
)
def test_damage_is_named(connect, redis_server, model, damage, message):
    store = connect()
    generation = store.take_over(model.card, b"graph").generation
    store.apply(model.delta(0), generation, model.lineage)
    damage(redis_server.client())
    with pytest.raises(CorruptError, match=message):
        store.image()


def test_a_damaged_log_entry_is_named(connect, redis_server, model):
    store = connect()
    generation = store.take_over(model.card).generation
    store.apply(model.delta(0, 1), generation, model.lineage)
    start = store.version()
    store.apply(model.delta(1, 2), generation, model.lineage)
    redis_server.client().delete("{demo}:log")
    redis_server.client().xadd("{demo}:log", {"delta": b"nonsense"}, id="2-0")
    with pytest.raises(CorruptError, match="log entry 2-0"):
        store.deltas(start, 0.0)


def test_a_scan_that_deltas_overtake_is_made_whole_by_the_log(connect, scripted, monkeypatch):
    monkeypatch.setattr(redis_reader, "SCAN_ROWS", 20)
    model, writer, reader = scripted(), connect(), connect()
    model.write(*range(2_000))
    generation = writer.take_over(model.card).generation
    writer.apply(model.delta(0), generation, model.lineage)
    scan, scans = reader._scan, []

    def overtaken(tables, table):
        for number, chunk in enumerate(scan(tables, table)):
            yield chunk
            if number % 20 == 0:
                sequence = model.write(*range(number, 2_000, 7), 5_000 + number, remove=(number, 4_980 + number))
                writer.apply(model.delta(sequence - 1), generation, model.lineage)
                scans.append(number)

    monkeypatch.setattr(reader, "_scan", overtaken)
    image = reader.image()
    assert len(scans) > 3
    assert image.delta.sequence == model.sequence
    assert model.rows_of(image.delta.tables["user"]) == model.states[-1]


def test_overlaying_takes_the_last_word_on_every_row():
    def delta(base, written, removed):
        ids = np.array(sorted(written), np.int64)
        packed = np.array([[written[key]] for key in sorted(written)], np.uint8).reshape(-1, 1)
        return PackedTable(base, base + 1, ids, packed, np.array(removed, np.int64), RowFormat("float16", 1))

    scanned = np.array([1, 2, 3, 2, 9], np.int64), np.array([[1], [2], [3], [2], [9]], np.uint8)
    ids, packed = overlaid(scanned, [delta(1, {2: 20, 4: 4}, [1]), delta(2, {1: 10}, [4, 9])])
    assert (ids.tolist(), packed.ravel().tolist()) == ([1, 2, 3], [10, 20, 3])


def test_a_reader_whose_scan_the_log_cannot_cover_starts_over(connect, scripted, monkeypatch):
    model, writer, reader = scripted(), connect("?log_deltas=1"), connect()
    model.write(1)
    generation = writer.take_over(model.card).generation
    writer.apply(model.delta(0), generation, model.lineage)
    scan, scans = reader._scan, []

    def outrun(tables, table):
        yield from scan(tables, table)
        scans.append(table)
        if len(scans) == 1:
            for _ in range(3):
                sequence = model.write(1, 2)
                writer.apply(model.delta(sequence - 1), generation, model.lineage)

    monkeypatch.setattr(reader, "_scan", outrun)
    assert served(reader, model) == model.states[-1]
    assert len(scans) == 2


@pytest.mark.parametrize("payload", ["int8_rowwise", "bfloat16"])
def test_an_image_that_is_read_while_another_payload_comes_is_of_one_payload(connect, scripted, monkeypatch, payload):
    model, later, writer, reader = scripted(payload="float16"), scripted(payload=payload), connect(), connect()
    for run in (model, later):
        run.write(1, 2, 3)
    writer.apply(model.delta(0), writer.take_over(model.card).generation, model.lineage)
    scan, scans = reader._scan, []

    def overtaken(head, table):
        scans.append(head.payload)
        if len(scans) == 1:
            writer.apply(later.delta(0), writer.take_over(later.card).generation, later.lineage)
        yield from scan(head, table)

    monkeypatch.setattr(reader, "_scan", overtaken)
    image = reader.image()
    assert scans == ["float16", payload]
    wanted = pack_delta(later.delta(0), payload).tables["user"].packed
    assert (image.delta.payload, image.delta.tables["user"].packed.tobytes()) == (payload, wanted.tobytes())


def test_a_replica_serves_on_while_redis_is_away_and_catches_up_after(connect, redis_server, model):
    publisher = Publisher(connect())
    publisher.start(model.card)
    publisher.publish(3, model.since)
    with Replica.open(redis_server.url, "demo") as replica:
        redis_server.kill()
        wait_until(lambda: replica.status().trouble is not None, "the replica noticing")
        assert replica.lookup("user", [2])[0].tobytes() == model.states[3][2]
        wait_until(lambda: replica.status().stale_ms > 0, "the replica growing stale")
        redis_server.start()
        model.write(2, 77)
        publisher.publish(4, model.since)
        assert publisher.drain(20)
        assert replica.wait_for(4, 20)
        assert replica.lookup("user", [77])[0].tobytes() == model.states[4][77]
        wait_until(lambda: replica.status().stale_ms == 0, "the replica being well again")
        assert replica.status().images == 2  # the emptied store came back with another image


def test_a_direct_replica_reads_the_store_for_every_answer(connect, redis_server, model):
    publisher = Publisher(connect())
    publisher.start(model.card)
    publisher.publish(1, lambda held: model.delta(held, 1))
    with Replica.open(redis_server.url, "demo", "direct") as replica:
        assert replica.read("user", [1]).version.sequence == 1
        publisher.publish(3, model.since)
        rows = replica.read("user", [1, 2])
        assert rows.version.sequence == 3
        assert rows.values.tobytes() == bytes(12) + model.states[3][2]
        redis_server.kill()
        with pytest.raises(UnavailableError):
            replica.lookup("user", [1])
        assert not replica.status().ready


def test_a_hung_server_is_a_time_out_not_a_hang(connect, redis_server, model):
    store = connect("?timeout_s=0.2")
    store.take_over(model.card)
    redis_server.client().execute_command("CLIENT", "PAUSE", 5_000, "ALL")
    with pytest.raises(UnavailableError):
        store.version()


def test_two_writers_at_once_never_mix(connect, scripted):
    """Both apply as fast as they can; whoever took over last is the only one whose rows are there."""
    first, second = scripted("first"), scripted("second")
    for _ in range(30):
        first.write(*range(100))
        second.write(*range(50, 150))
    fenced = threading.Event()

    def publish_until_fenced(model, publisher):
        try:
            for sequence in range(1, model.sequence + 1):
                publisher.publish(sequence, lambda held, s=sequence: model.delta(held, s))
        except FencedError:
            fenced.set()

    publishers = [Publisher(connect()), Publisher(connect())]
    publishers[0].start(first.card)
    racing = threading.Thread(target=publish_until_fenced, args=(first, publishers[0]))
    racing.start()
    publishers[1].start(second.card)
    publish_until_fenced(second, publishers[1])
    racing.join(20)
    image = connect().image()
    assert image.model.version.lineage == "second"
    assert second.rows_of(image.delta.tables["user"]) == second.states[-1]
    with pytest.raises((FencedError, GapError)):
        connect().apply(first.delta(0), publishers[0].generation, "first")
