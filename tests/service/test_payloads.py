"""Every payload in every store: what is read is the row as it was packed, everywhere the row goes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from monolith.errors import CorruptError, GapError, InputError, VersionError
from monolith.serving import ledger
from monolith.serving.packed import pack_delta
from monolith.serving.parity import Parity, compare, compare_images
from monolith.serving.payload import PAYLOADS, RowFormat
from monolith.serving.publisher import Publisher
from monolith.serving.replica import Replica
from monolith.serving.store import open_store
from monolith.tables.delta import Delta, ModelDelta

DIM = 5  # so that a row of 8 bits does not fill whole words


class Trained:
    """A trainer's table: values of all kinds, changed at every sequence."""

    def __init__(self, scripted, payload: str) -> None:
        self.card = scripted(dim=DIM, payload=payload).card
        self.form = RowFormat(payload, DIM)
        self.sequence = 0
        self.values: dict[int, np.ndarray] = {}
        self.changed: dict[int, set[int]] = {}
        self.rng = np.random.default_rng(3)

    def write(self, *ids: int) -> None:
        self.sequence += 1
        self.changed[self.sequence] = set(ids)
        for key in ids:
            self.values[key] = (self.rng.standard_normal(DIM) * 10.0 ** self.rng.integers(-6, 4)).astype(np.float32)

    def delta(self, since: int) -> ModelDelta:
        changed = set().union(*(ids for sequence, ids in self.changed.items() if sequence > since))
        ids = np.array(sorted(changed), np.int64)
        values = np.array([self.values[key] for key in sorted(changed)], np.float32).reshape(-1, DIM)
        table = Delta(since, self.sequence, ids, values, np.zeros(0, np.int64))
        return ModelDelta(since, self.sequence, 1, 1, {"user": table}, b"")

    def rows(self):
        ids = np.array(sorted(self.values), np.int64)
        return ids, np.array([self.values[key] for key in ids], np.float32)

    def publish(self, publisher: Publisher) -> None:
        assert publisher.publish(self.sequence, self.delta).outcome == "applied"


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


@pytest.fixture
def trained(scripted, payload):
    trained = Trained(scripted, payload)
    trained.write(*range(-5, 20))
    return trained


def taken_over(store, card) -> Publisher:
    publisher = Publisher(store)
    publisher.start(card)
    return publisher


def test_rows_are_served_as_they_were_packed_from_images_and_from_deltas(connect, address, trained, payload):
    store = connect()
    publisher = taken_over(store, trained.card)
    trained.publish(publisher)
    with Replica.open(address, "demo") as memory, Replica.open(address, "demo", "direct") as direct:
        trained.write(3, 100)
        trained.publish(publisher)
        assert memory.wait_for(2, 20)
        ids, values = trained.rows()
        wanted = trained.form.served(values).tobytes()
        assert memory.lookup("user", ids).tobytes() == wanted
        assert direct.lookup("user", ids).tobytes() == wanted
        assert store.read("user", ids)[0].tobytes() == wanted
        assert memory.status().images == 1
        assert not memory.lookup("user", np.array([77], np.int64)).any()
        assert not direct.lookup("user", np.array([77], np.int64)).any()
    image = store.image()
    assert image.delta.payload == image.model.card.payload == payload
    assert image.delta.tables["user"].packed.tobytes() == trained.form.pack(values).tobytes()


def test_parity_is_exact_for_what_was_published_and_sees_one_step(connect, trained):
    store = connect()
    trained.publish(taken_over(store, trained.card))
    assert compare(store, {"user": trained}) == {"user": Parity(equal=25, missing=0, stale=0, zombie=0)}
    trained.values[7] = trained.values[7].copy()
    trained.values[7][2] = trained.values[7].max() * 2 + 1
    del trained.values[0]
    assert compare(store, {"user": trained})["user"] == Parity(equal=23, missing=0, stale=1, zombie=1)


def test_a_changed_payload_asks_for_an_image_and_everyone_follows(connect, address, scripted):
    trained = Trained(scripted, "float32")
    trained.write(*range(30))
    trained.write(*range(20))
    trained.publish(taken_over(connect(), trained.card))
    with Replica.open(address, "demo") as memory, Replica.open(address, "demo", "direct") as direct:
        for payload in (*PAYLOADS[1:], "float32"):
            trained.card, trained.form = scripted(dim=DIM, payload=payload).card, RowFormat(payload, DIM)
            store = connect()
            held = store.take_over(trained.card)
            assert held.sequence == 0
            with pytest.raises(GapError, match="send one from 0"):
                store.apply(trained.delta(trained.sequence - 1), held.generation, trained.card.lineage)
            publisher = taken_over(store, trained.card)
            trained.publish(publisher)
            ids, values = trained.rows()
            wanted = trained.form.served(values).tobytes()
            assert direct.lookup("user", ids).tobytes() == wanted
            trained.write(1, 2, 3)  # so that a replica can be waited for
            trained.publish(publisher)
            assert memory.wait_for(trained.sequence, 20)
            assert memory.card().payload == direct.card().payload == payload
            assert memory.lookup("user", ids).tobytes() == trained.form.served(trained.rows()[1]).tobytes()
            assert compare(store, {"user": trained})["user"].exact


def test_a_trainer_that_comes_back_from_a_snapshot_with_another_payload_repeats_itself_in_it(
    connect, address, scripted
):
    trained = Trained(scripted, "float32")
    trained.write(1, 2)
    earlier = dict(trained.values)
    trained.write(1, 3)
    trained.publish(taken_over(connect(), trained.card))
    with Replica.open(address, "demo") as replica:
        trained.card, trained.form = scripted(dim=DIM, payload="int8_rowwise").card, RowFormat("int8_rowwise", DIM)
        store = connect()
        publisher = taken_over(store, trained.card)
        ahead, trained.values, trained.sequence = trained.values, earlier, 1
        del trained.changed[2]
        trained.publish(publisher)
        assert store.version().sequence == 1
        trained.values, trained.sequence, trained.changed[2] = ahead, 2, {1, 3}
        trained.publish(publisher)
        trained.write(4)
        trained.publish(publisher)
        assert replica.wait_for(3, 20)
        ids, values = trained.rows()
        assert replica.lookup("user", ids).tobytes() == trained.form.served(values).tobytes()
    assert compare(store, {"user": trained})["user"] == Parity(equal=4, missing=0, stale=0, zombie=0)


def test_a_float32_store_stays_readable_by_builds_that_know_no_payload(connect, scripted):
    store = connect()
    for payload, form in (("float32", 1), ("int8_rowwise", 2), ("float32", 1)):
        trained = Trained(scripted, payload)
        trained.write(1)
        trained.publish(taken_over(store, trained.card))
        assert raw_head(store).format == form


def test_a_store_from_before_payloads_is_read_and_goes_on(connect, scripted):
    trained = Trained(scripted, "float32")
    trained.write(1, 2)
    store = connect()
    trained.publish(taken_over(store, trained.card))
    for name, value in (("head", raw_head(store)), ("card", trained.card)):
        before = {key: part for key, part in msgspec.to_builtins(value).items() if key != "payload"}
        write_raw(store, name, ledger.seal_json(before))
    assert store.model().card == trained.card
    assert compare(store, {"user": trained})["user"].exact
    assert connect().take_over(trained.card).sequence == 1  # no image is asked for


def test_a_delta_of_another_payload_than_the_card_is_refused(scripted):
    trained = Trained(scripted, "float16")
    trained.write(1)
    with pytest.raises(InputError, match="delta 1 is of payload bfloat16, the trainer's card of float16"):
        ledger.check_belongs(trained.card, "run-1", pack_delta(trained.delta(0), "bfloat16"))


def test_an_unknown_payload_in_a_store_is_refused(connect, trained):
    store = connect()
    trained.publish(taken_over(store, trained.card))
    write_raw(store, "head", ledger.seal_json(msgspec.structs.replace(raw_head(store), payload="int4")))
    for question in (store.version, store.image, lambda: store.take_over(trained.card)):
        with pytest.raises(VersionError, match="payload 'int4', this build reads float32"):
            question()


def test_an_unknown_payload_in_a_card_is_refused(connect, trained):
    store = connect()
    trained.publish(taken_over(store, trained.card))
    write_raw(store, "card", ledger.seal_json(msgspec.structs.replace(trained.card, payload="int4")))
    with pytest.raises(VersionError, match="payload 'int4', this build reads float32"):
        store.model()


def test_rows_of_another_size_than_the_head_says_are_corrupt(connect, trained):
    store = connect()
    trained.publish(taken_over(store, trained.card))
    other = "float32" if trained.form.payload == "int8_rowwise" else "int8_rowwise"
    write_raw(store, "head", ledger.seal_json(msgspec.structs.replace(raw_head(store), payload=other)))
    with pytest.raises(CorruptError, match=f"dim 5 in {other} takes"):
        store.image()


def test_stores_of_two_payloads_are_told_apart(tmp_path, scripted):
    stores = []
    for payload in ("float16", "bfloat16"):
        trained = Trained(scripted, payload)
        trained.write(1)
        stores.append(open_store(f"lmdb://{tmp_path}/{payload}", "demo"))
        trained.publish(taken_over(stores[-1], trained.card))
    assert compare_images(*stores) == ["payload: float16 and bfloat16"]
    for store in stores:
        store.close()


def raw_head(store) -> ledger.Head:
    if store.url.startswith("redis"):
        return ledger.unseal_head(store._redis.get(store._keys.of("head")), "here")
    with store._transaction() as txn:
        return txn.head()


def write_raw(store, name: str, sealed: bytes) -> None:
    if store.url.startswith("redis"):
        store._redis.set(store._keys.of(name), sealed)
        return
    with store._transaction(write=True) as txn:
        txn.put(name, sealed)
