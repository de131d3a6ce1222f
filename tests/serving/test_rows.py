"""The bytes of a stored row."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from monolith.errors import CorruptError
from monolith.serving.payload import PAYLOADS, RowFormat
from monolith.serving.rows import pack_keys, pack_rows, unpack_keys, unpack_rows

IDS = np.array([-1, 0, 77, 2**63 - 1], np.int64)
FORM = RowFormat("float32", 2)
VALUES = FORM.pack(np.array([[1, 2], [3, np.nan], [-0.0, 5], [7, 8]], np.float32))


def test_a_row_is_what_the_format_says():
    key, row = pack_keys(IDS)[2], pack_rows(IDS, VALUES)[2]
    assert key == struct.pack(">q", 77)
    body = struct.pack("<2f", -0.0, 5.0)
    assert row == body + struct.pack("<I", zlib.crc32(key + body))


def test_rows_come_back_bit_by_bit():
    assert unpack_keys(pack_keys(IDS), "here").tolist() == IDS.tolist()
    assert unpack_rows(IDS, pack_rows(IDS, VALUES), FORM, "here").tobytes() == VALUES.tobytes()


def test_no_rows_are_rows():
    none = np.zeros(0, np.int64)
    assert pack_rows(none, np.zeros((0, 8), np.uint8)) == []
    assert unpack_rows(none, [], FORM, "here").shape == (0, 8)
    assert unpack_keys([], "here").shape == (0,)


def test_every_flipped_bit_is_found_and_the_row_named():
    rows = pack_rows(IDS, VALUES)
    for bit in range(8 * len(rows[2])):
        damaged = bytearray(rows[2])
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match="here: row 77 fails its checksum"):
            unpack_rows(IDS, [*rows[:2], bytes(damaged), rows[3]], FORM, "here")


def test_a_row_under_another_key_is_found():
    with pytest.raises(CorruptError, match="row 5 fails"):
        unpack_rows(np.array([5]), pack_rows(IDS[:1], VALUES[:1]), FORM, "here")


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_row_of_the_wrong_size_says_both_sizes(size):
    with pytest.raises(CorruptError, match=f"row -1 has {size} bytes, dim 2 in float32 takes 12"):
        unpack_rows(IDS[:1], [bytes(size)], FORM, "here")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_row_of_any_payload_is_its_bytes_and_their_check(payload):
    form = RowFormat(payload, 3)
    packed = form.pack(np.array([[1, 2, 4], [0.5, -1, 0]], np.float32))
    stored = pack_rows(IDS[1:3], packed)
    assert stored[1] == packed[1].tobytes() + struct.pack("<I", zlib.crc32(struct.pack(">q", 77) + packed[1].tobytes()))
    assert unpack_rows(IDS[1:3], stored, form, "here").tobytes() == packed.tobytes()


def test_a_key_of_the_wrong_size_is_found():
    with pytest.raises(CorruptError, match="not 8 bytes"):
        unpack_keys([b"short", bytes(11)], "here")
