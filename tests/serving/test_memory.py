"""A replica's memory keeps published rows byte by byte."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from monolith.errors import GapError
from monolith.serving.ledger import Version
from monolith.serving.memory import ModelMemory, PackedRows
from monolith.serving.packed import PackedTable, pack_delta
from monolith.serving.payload import PAYLOADS, RowFormat
from monolith.serving.store import Model, image_of
from monolith.serving.wire import PublishedDelta

NONE = np.zeros(0, np.int64)


def packed_table(form, ids, packed, base=0, sequence=1, removed=NONE) -> PackedTable:
    return PackedTable(base, sequence, np.array(ids, np.int64), packed, np.array(removed, np.int64), form)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 17])
def test_rows_are_read_as_their_bytes_say_whatever_those_are_as_floats(payload, dim):
    form = RowFormat(payload, dim)
    packed = np.random.default_rng(dim).integers(0, 256, (4_000, form.width), np.uint8)
    packed[::2, -1] |= 0x7F  # NaN of every kind, signalling ones too, among the words
    packed[::4, -2] |= 0x80
    rows = PackedRows("user", form)
    rows.apply(packed_table(form, range(4_000), packed))
    ids = np.random.default_rng(0).permutation(4_000)
    assert rows.lookup(ids).tobytes() == form.unpack(packed[ids]).tobytes()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_absent_and_removed_rows_read_as_zeros(payload):
    form = RowFormat(payload, 3)
    rows = PackedRows("user", form)
    rows.apply(packed_table(form, [1, 2], form.pack(np.array([[1, 2, 4], [5, 6, 7]], np.float32))))
    rows.apply(packed_table(form, [], form.pack(np.zeros((0, 3), np.float32)), base=1, sequence=2, removed=[1]))
    assert rows.lookup(np.array([1, 9], np.int64)).tobytes() == bytes(24)
    assert np.allclose(rows.lookup(np.array([2], np.int64)), [[5, 6, 7]], atol=0.01)


def test_replica_remembers_no_removed_id():
    """Nobody asks a replica for deltas, and it holds each table twice."""
    form = RowFormat("float32", 3)
    rows, one = PackedRows("user", form), form.pack(np.ones((1, 3), np.float32))
    rows.apply(packed_table(form, [0], one))
    before = rows.bytes_held()
    for n in range(1, 300):
        removed = [n - 1, *range(10**6 + 100 * n, 10**6 + 100 * n + 100)]  # held, and never held
        rows.apply(packed_table(form, [n], one, base=n, sequence=n + 1, removed=removed))
    assert rows.bytes_held() < before + 50_000


def test_eight_bits_take_less_memory_than_float32():
    held = {}
    for payload in ("float32", "int8_rowwise"):
        form = RowFormat(payload, 64)
        rows = PackedRows("user", form)
        rows.apply(packed_table(form, range(5_000), form.pack(np.ones((5_000, 64), np.float32))))
        held[payload] = rows.bytes_held()
    assert held["float32"] - held["int8_rowwise"] >= 5_000 * (256 - 72)


def test_a_delta_of_another_payload_is_a_gap(scripted):
    model = scripted(payload="float16")
    model.write(1)
    model.write(2)
    tables = pack_delta(model.delta(0, 1), "float16").tables
    version = Version(generation=1, sequence=1, lineage="run-1", image="i")
    memory = ModelMemory(image_of(Model(version, model.card, b"", b""), tables, "float16"), "here")
    with pytest.raises(GapError, match="here: delta 2 has bfloat16 rows, float16 are held"):
        memory.apply(PublishedDelta(1, "run-1", 0, pack_delta(model.delta(1, 2), "bfloat16")))
    memory.apply(PublishedDelta(1, "run-1", 0, pack_delta(model.delta(1, 2), "float16")))
    assert memory.version.sequence == 2


def test_the_two_copies_of_an_image_are_filled_beside_each_other(scripted, monkeypatch):
    model = scripted()
    model.write(1)
    tables = pack_delta(model.delta(0, 1), "float32").tables
    both, fill = threading.Barrier(2, timeout=30.0), PackedRows.apply

    def meet_and_fill(*arguments):
        both.wait()  # raises where the other one is not begun
        fill(*arguments)

    monkeypatch.setattr(PackedRows, "apply", meet_and_fill)
    version = Version(generation=1, sequence=1, lineage="run-1", image="i")
    memory = ModelMemory(image_of(Model(version, model.card, b"", b""), tables, "float32"), "here")
    assert memory.version.sequence == 1
