"""A delta handed in by parts becomes visible as a whole or not at all, and leaves what one process's delta leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import os

import msgspec
import numpy as np
import pytest
from staged_parts import large, part_of, publish, served, without_tables

from monolith.errors import FencedError, GapError, InputError, UnavailableError
from monolith.serving.wire import encode


@pytest.fixture
def second(connect, address):
    """An empty store beside the first."""
    return connect("2") if address.startswith("lmdb") else connect(model="demo2")


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("monolith.serving.staging.PIECE_ROWS", 300)
    monkeypatch.setattr("monolith.serving.staging.LEAST_PIECE_ROWS", 100)


@pytest.mark.parametrize("payload", ["float32", "int8_rowwise"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_leave_the_bytes_that_one_process_leaves(store, second, scripted, small_pieces, parts, payload):
    model, one, many = large(scripted, payload), store, second
    for store in (one, many):
        store.take_over(msgspec.structs.replace(model.card, model="demo"), b"graph")
    for since, until in ((0, 1), (1, 2), (1, 3)):
        delta = dataclasses.replace(model.delta(since, until), digest=f"{until:032x}")
        start = one.version(), many.version()
        assert one.apply(delta, 1, model.lineage)
        assert publish(many, delta, parts, 1, model.lineage)
        assert bytes_of(many) == bytes_of(one)
        if since:
            logged = [store.deltas(version, 0.0) for store, version in zip((one, many), start, strict=True)]
            assert [[timeless(each) for each in found] for found in logged[:1]] == [
                [timeless(each) for each in found] for found in logged[1:]
            ]
    assert served(many, model) == model.states[3] or payload != "float32"


def bytes_of(store):
    image, look = store.image(), store.look()
    rows = {name: (table.ids.tobytes(), table.packed.tobytes()) for name, table in image.delta.tables.items()}
    version = msgspec.structs.replace(image.model.version, published_ms=0, image="")
    return rows, image.model.dense, image.model.graph, image.model.card, version, look.digest, look.rows


def timeless(published):
    return encode(dataclasses.replace(published, published_ms=0))


def test_nothing_of_a_part_is_visible_before_the_commit(store, model):
    generation = store.take_over(model.card).generation
    assert publish(store, model.delta(0, 1), 2, generation, model.lineage)
    before, seen = store.version(), bytes_of(store)
    ticket = store.begin(1, 3, 2, generation, model.lineage)
    receipts = [store.stage(ticket, part, part_of(model.delta(1, 3), part, 2)) for part in (0, 1)]
    assert bytes_of(store) == seen
    assert store.deltas(before, 0.0) == []
    assert store.read("user", np.array([7, 1], np.int64))[1].tolist() == [False, True]
    assert store.commit(ticket, receipts, without_tables(model.delta(1, 3)))
    assert served(store, model) == model.states[3]
    assert [each.delta.sequence for each in store.deltas(before, 0.0)] == [3]


def test_a_commit_takes_receipts_of_all_parts_and_all_buckets_and_of_its_own_attempt(store, model):
    generation, delta = store.take_over(model.card).generation, model.delta(0)
    older = store.begin(0, 3, 2, generation, model.lineage)
    stale = store.stage(older, 1, part_of(delta, 1, 2))
    ticket = store.begin(0, 3, 2, generation, model.lineage)
    first = store.stage(ticket, 0, part_of(delta, 0, 2))
    with pytest.raises(InputError, match=r"receipts of parts \[0\], not of 0 to 1"):
        store.commit(ticket, [first], delta)
    with pytest.raises(InputError, match="another attempt"):
        store.commit(ticket, [first, stale], delta)
    with pytest.raises(InputError, match="the same buckets"):
        store.commit(ticket, [first, store.stage(ticket, 1, part_of(delta, 0, 2))], delta)
    with pytest.raises(InputError, match="not all"):
        store.commit(ticket, [first, store.stage(ticket, 1, part_of(delta, 2, 3))], delta)
    with pytest.raises(InputError, match="goes over sequences"):
        store.commit(ticket, [first, store.stage(ticket, 1, part_of(delta, 1, 2))], model.delta(1, 3))
    assert store.version().sequence == 0
    assert store.commit(ticket, [first, store.stage(ticket, 1, part_of(delta, 1, 2))], delta)
    assert served(store, model) == model.states[3]


def test_a_part_of_another_delta_is_refused(store, model, scripted):
    generation = store.take_over(model.card).generation
    ticket = store.begin(0, 3, 2, generation, model.lineage)
    with pytest.raises(InputError, match=r"part 0 of delta 3 has sequences \(0, 2\)"):
        store.stage(ticket, 0, part_of(model.delta(0, 2), 0, 2))
    with pytest.raises(InputError, match="parts 0 to 1"):
        store.stage(ticket, 2, part_of(model.delta(0), 1, 2))
    with pytest.raises(InputError, match=r"has tables \[\], the model has \['user'\]"):
        store.stage(ticket, 0, {})
    wider = scripted(dim=5)
    for _ in range(3):
        wider.write(1)
    with pytest.raises(InputError, match="whose dim is 3"):
        store.stage(ticket, 0, part_of(wider.delta(0), 0, 2))


def test_known_and_gaps_are_told_before_anything_is_staged(store, model):
    generation = store.take_over(model.card).generation
    assert publish(store, model.delta(0, 2), 2, generation, model.lineage)
    assert store.begin(1, 2, 2, generation, model.lineage) is None
    with pytest.raises(GapError, match="lost its memory"):
        store.begin(2, 3, 2, generation + 1, model.lineage)
    store.take_over(msgspec.structs.replace(model.card, features=[]))
    with pytest.raises(GapError, match="holds sequence 0"):
        store.begin(2, 3, 2, generation + 1, model.lineage)
    with pytest.raises(InputError, match="lineage"):
        store.begin(0, 3, 2, generation + 1, "another")


def test_a_trainer_that_was_overtaken_while_it_staged_is_fenced(connect, model):
    old, new = connect(), connect()
    first = old.take_over(model.card).generation
    assert publish(old, model.delta(0, 1), 2, first, model.lineage)
    ticket = old.begin(1, 2, 2, first, model.lineage)
    receipts = [old.stage(ticket, part, part_of(model.delta(1, 2), part, 2)) for part in (0, 1)]
    second = new.take_over(model.card).generation
    with pytest.raises((FencedError, UnavailableError)):  # its files are swept, or it is told
        old.commit(ticket, receipts, model.delta(1, 2))
    with pytest.raises(FencedError):
        old.begin(1, 2, 2, first, model.lineage)
    assert served(new, model) == model.states[1]
    assert publish(new, model.delta(1, 3), 3, second, model.lineage)
    assert served(old, model) == model.states[3]


def test_a_new_attempt_and_a_new_trainer_sweep_what_a_dead_one_left(connect, address, model, request, tmp_path):
    store = connect()
    generation = store.take_over(model.card).generation

    def left() -> int:
        if address.startswith("lmdb"):
            return len(list((tmp_path / "store" / "staged").rglob("*/*")))
        return len(request.getfixturevalue("redis_server").client().keys("*stage*"))

    def attempt(delta):
        ticket = store.begin(delta.base_sequence, delta.sequence, 2, generation, model.lineage)
        for part in (0, 1):
            store.stage(ticket, part, part_of(delta, part, 2))
        assert left()

    for delta in (model.delta(0, 1), model.delta(1, 2)):
        attempt(delta)
        store.begin(delta.base_sequence, delta.sequence, 2, generation, model.lineage)
        assert not left()
        attempt(delta)
        generation = store.take_over(model.card).generation
        assert not left()
        assert publish(store, delta, 2, generation, model.lineage)
        assert not left()


def test_what_a_late_process_stages_for_a_dead_attempt_is_in_no_later_delta(store, model):
    generation = store.take_over(model.card).generation
    dead = store.begin(0, 1, 2, generation, model.lineage)
    store.stage(dead, 0, part_of(model.delta(0, 1), 0, 2))
    ticket = store.begin(0, 2, 2, generation, model.lineage)
    receipts = [store.stage(ticket, 0, part_of(model.delta(0, 2), 0, 2))]
    with contextlib.suppress(UnavailableError):
        late = store.stage(dead, 1, part_of(model.delta(0, 1), 1, 2))
        with pytest.raises(InputError, match="another attempt"):
            store.commit(ticket, [*receipts, late], model.delta(0, 2))
    receipts.append(store.stage(ticket, 1, part_of(model.delta(0, 2), 1, 2)))
    assert store.commit(ticket, receipts, model.delta(0, 2))
    assert served(store, model) == model.states[2]


def test_a_part_that_is_staged_again_replaces_itself(store, scripted):
    model = large(scripted)
    generation = store.take_over(model.card).generation
    for since, until in ((0, 1), (1, 3)):
        delta = model.delta(since, until)
        ticket = store.begin(since, until, 2, generation, model.lineage)
        receipts = [store.stage(ticket, part, part_of(delta, part, 2)) for part in (1, 0, 1)]
        assert store.commit(ticket, receipts[1:], delta)
        assert served(store, model) == model.states[until]


def test_a_commit_takes_a_part_only_as_its_receipt_tells(store, scripted):
    model, other = large(scripted), large(scripted)
    other.states[3] = {key: row for key, row in other.states[3].items() if key % 5}  # fewer rows, in whole pieces
    generation = store.take_over(model.card).generation
    publish(store, model.delta(0, 1), 2, generation, model.lineage)
    ticket = store.begin(1, 3, 2, generation, model.lineage)
    receipts = [store.stage(ticket, part, part_of(model.delta(1, 3), part, 2)) for part in (0, 1)]
    again = store.stage(ticket, 1, part_of(other.delta(1, 3), 1, 2))
    with pytest.raises(UnavailableError, match="pieces that are not"):
        store.commit(ticket, receipts, without_tables(model.delta(1, 3)))
    assert served(store, model) == model.states[1]
    assert store.commit(ticket, [receipts[0], again], without_tables(model.delta(1, 3)))


@pytest.mark.parametrize("since", [0, 1])
def test_a_part_that_is_damaged_before_the_commit_changes_nothing(request, store, address, scripted, tmp_path, since):
    model = large(scripted)
    generation = store.take_over(model.card).generation
    publish(store, model.delta(0, 1), 2, generation, model.lineage)
    before = bytes_of(store)
    if since == 0:
        generation = store.take_over(msgspec.structs.replace(model.card, features=[])).generation
    for damage in (_cut, _remove, _flip):
        ticket = store.begin(since, 3, 2, generation, model.lineage)
        receipts = [store.stage(ticket, part, part_of(model.delta(since, 3), part, 2)) for part in (0, 1)]
        if address.startswith("lmdb"):
            damage(tmp_path / "store" / "staged" / ticket.attempt / "1")
        else:
            client = request.getfixturevalue("redis_server").client()
            key = f"{{demo}}:stage:{ticket.attempt}" + (":user" if since == 0 else "")
            client.hdel(key, client.hkeys(key)[0])
        with pytest.raises(UnavailableError, match=r"delta 3|lost a part of the image"):
            store.commit(ticket, receipts, model.delta(since, 3))
        assert bytes_of(store) == before
    assert publish(store, model.delta(since, 3), 2, generation, model.lineage)
    assert served(store, model) == model.states[3]


def _cut(path):
    os.truncate(path, path.stat().st_size - 9)


def _remove(path):
    path.unlink()


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
