"""The delta's bytes: whole or refused, and the same for ever (golden)."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monolith.errors import CorruptError, InputError, VersionError
from monolith.serving.packed import pack_delta
from monolith.serving.payload import PAYLOADS
from monolith.serving.wire import PublishedDelta, decode, encode
from monolith.tables.delta import Delta, ModelDelta

GOLDEN = Path(__file__).parents[1] / "golden"
HEADER_BYTES = 24


def table(base=4, sequence=7, ids=(-3, 0, 2**40), removed=(5,), dim=2):
    values = np.arange(len(ids) * dim, dtype=np.float32).reshape(len(ids), dim) / 4
    return Delta(base, sequence, np.array(ids, np.int64), values, np.array(removed, np.int64))


def published(payload="float32", **tables):
    tables = tables or {"user": table(), "movie": table(ids=(), removed=(), dim=3)}
    delta = ModelDelta(4, 7, 900, -1, tables, b"dense", np.array([10, 20], np.int64))
    return PublishedDelta(3, "lineage é", 1_700_000_000_123, pack_delta(delta, payload))


def golden(payload) -> str:
    name = "published_delta_v1" if payload == "float32" else f"published_delta_v2_{payload}"
    return (GOLDEN / f"{name}.hex").read_text().replace("\n", "")


def resealed(data: bytes) -> bytes:
    """``data`` with a header that fits its body, as a broken or hostile writer could send it."""
    body = data[HEADER_BYTES:]
    checksum = xxhash.xxh3_64_intdigest(body, seed=len(body))
    return struct.pack("<4sHHQQ", b"MDLT", data[4], 0, len(body), checksum) + body


def assert_same(left: PublishedDelta, right: PublishedDelta) -> None:
    assert (left.generation, left.lineage, left.published_ms) == (right.generation, right.lineage, right.published_ms)
    for field in ("base_sequence", "sequence", "step", "watermark_ms", "dense", "payload"):
        assert getattr(left.delta, field) == getattr(right.delta, field)
    assert left.delta.ingested_ms.tolist() == right.delta.ingested_ms.tolist()
    assert left.delta.tables.keys() == right.delta.tables.keys()
    for name, mine in left.delta.tables.items():
        theirs = right.delta.tables[name]
        assert mine.packed.shape == theirs.packed.shape
        assert mine.format == theirs.format
        for field in ("ids", "packed", "removed"):
            assert getattr(mine, field).tobytes() == getattr(theirs, field).tobytes()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_bytes_are_those_of_the_golden_file(payload):
    assert encode(published(payload)).hex() == golden(payload)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_golden_bytes_decode(payload):
    assert_same(decode(bytes.fromhex(golden(payload)), "golden"), published(payload))


def test_another_payload_is_named_as_such():
    data = bytearray(encode(published("int8_rowwise")))
    at = HEADER_BYTES + 72  # behind the numbers and the count of ingestion times
    assert int.from_bytes(data[at : at + 8], "little") == 3
    data[at : at + 8] = (9).to_bytes(8, "little")
    with pytest.raises(VersionError, match=r"payload 9, this build reads 0 \(float32\).*3 \(int8_rowwise\)"):
        decode(resealed(bytes(data)), "here")


def test_a_table_of_another_payload_than_its_delta_is_not_encoded():
    mixed = published("float16")
    mixed.delta.tables["movie"] = published("bfloat16").delta.tables["movie"]
    with pytest.raises(InputError, match="'movie' is of payload bfloat16, the model's delta of float16"):
        encode(mixed)


ID_SETS = st.sets(st.integers(-(2**63), 2**63 - 1), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_encoded_is_decoded(data):
    tables = {}
    for name in data.draw(st.sets(st.text(max_size=4), max_size=3)):
        ids = data.draw(ID_SETS)
        removed = data.draw(ID_SETS) - ids
        shape = (len(ids), data.draw(st.integers(1, 4)))
        values = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32)))
        tables[name] = Delta(4, 7, np.array(sorted(ids), np.int64), values, np.array(sorted(removed), np.int64))
    dense, times = data.draw(st.binary(max_size=20)), data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
    delta = ModelDelta(4, 7, 1, data.draw(st.integers(-(2**63), 2**63 - 1)), tables, dense, np.array(times, np.int64))
    packed = pack_delta(delta, data.draw(st.sampled_from(PAYLOADS)))
    original = PublishedDelta(2**40, data.draw(st.text(max_size=8)), 5, packed)
    assert_same(decode(encode(original), "here"), original)


@pytest.mark.parametrize("payload", ["float32", "int8_rowwise"])
def test_every_flipped_bit_is_found(payload):
    data = encode(published(payload))
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= bit
            with pytest.raises(CorruptError, match="here"):
                decode(bytes(damaged), "here")


def test_every_cut_and_every_tail_is_found():
    data = encode(published())
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            decode(data[:length], "here")
    with pytest.raises(CorruptError, match="follow"):
        decode(data + b"\0", "here")


def test_another_format_version_is_named_as_such():
    data = bytearray(encode(published()))
    data[4] = 9
    with pytest.raises(VersionError, match="format version 9, this build reads 1 and 2"):
        decode(bytes(data), "here")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10**6), value=st.binary(min_size=8, max_size=8), payload=st.sampled_from(PAYLOADS))
def test_a_checksummed_body_of_nonsense_is_corrupt_and_costs_no_memory(at, value, payload):
    data = bytearray(encode(published(payload)))
    at = HEADER_BYTES + at % (len(data) - HEADER_BYTES - 8)
    data[at : at + 8] = value
    with suppress(CorruptError):  # the only error allowed; a change of a value or a time is a delta as good as any
        decode(resealed(bytes(data)), "here")


def test_a_count_that_asks_for_more_than_is_there_says_how_much():
    data = bytearray(encode(published()))
    rows_at = data.find(b"user") - 16
    data[rows_at : rows_at + 8] = (2**60).to_bytes(8, "little")
    with pytest.raises(CorruptError, match=rf"takes {2**63} bytes, \d+ are left"):
        decode(resealed(bytes(data)), "here")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (table(ids=(2, 1, 3)), "ids that do not ascend"),
        (table(ids=(1, 1, 3)), "ids that do not ascend"),
        (table(removed=(9, 8)), "removed ids that do not ascend"),
        (table(ids=(1, 5)), "both writes and removes"),
        (table(base=3), "has sequences"),
        (table(dim=0), "values of shape"),
        (Delta(4, 7, np.zeros(2, np.int64), np.zeros((1, 2), np.float32), np.zeros(0, np.int64)), "2 ids for values"),
    ],
)
def test_a_delta_that_breaks_a_rule_is_not_encoded(broken, message):
    with pytest.raises(InputError, match=message):
        encode(published(user=broken))


def test_a_delta_that_goes_backward_is_not_encoded():
    with pytest.raises(InputError, match="not forward"):
        encode(PublishedDelta(1, "run", 0, pack_delta(ModelDelta(7, 7, 0, 0, {}, b""), "float32")))


def test_a_decoded_delta_that_breaks_a_rule_is_corrupt():
    data = bytearray(encode(published()))
    at = data.find(np.array([-3, 0, 2**40], "<i8").tobytes())
    data[at : at + 8] = (1).to_bytes(8, "little")
    with pytest.raises(CorruptError, match="do not ascend"):
        decode(resealed(bytes(data)), "here")
