"""Bytes on disk and on the wire, as docs/formats.md describes them: a change here is a new version there."""

from __future__ import annotations

import struct
import zlib

import msgspec

from monolith.events import ActionEvent, FeatureEvent, SampleEvent
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetter
from monolith.streaming.journal import Journal, StepEntry
from monolith.streaming.log import EventLog
from monolith.streaming.log_batch import BatchHead, Extent, pack_batch


def test_events_are_maps_in_field_order():
    assert encode(FeatureEvent("r", "i", 5, {"user": 7})) == msgspec.msgpack.encode(
        {"type": "feature", "request_id": "r", "item_id": "i", "event_time_ms": 5, "features": {"user": 7}, "v": 1}
    )
    assert encode(ActionEvent("r", "i", "click", 5)) == msgspec.msgpack.encode(
        {"type": "action", "request_id": "r", "item_id": "i", "action": "click", "event_time_ms": 5, "v": 1}
    )
    assert encode(SampleEvent("r", "i", 5, {}, 1.0), "json") == (
        b'{"type":"sample","request_id":"r","item_id":"i","event_time_ms":5,"features":{},"label":1.0,"rate":1.0,"v":1}'
    )


def test_batch_of_a_log():
    body = msgspec.msgpack.encode([[b"k", b"v", 9], [None, b"w", 10]])
    sealed = struct.pack(">BIQIq", 1, 3, 40, 2, 77) + body
    expected = struct.pack(">II", len(sealed) + 4, zlib.crc32(sealed)) + sealed
    assert pack_batch(BatchHead(3, 40, 2, 77), [(b"k", b"v", 9), (None, b"w", 10)]) == expected


def test_extent_of_a_partition():
    fields = struct.pack(">QQQ", 1, 2, 3)
    assert Extent(1, 2, 3).pack() == struct.pack(">I", zlib.crc32(fields)) + fields


def test_keys_of_a_log(tmp_path):
    log = EventLog(tmp_path / "log", create=True, partitions=1)
    log.append([(b"k", b"v", 9)] * 3)
    log.append([(b"k", b"v", 9)])
    keys = log._environment.read(lambda txn: [bytes(key) for key, _ in txn.cursor()])
    assert keys == [b"b" + struct.pack(">IQ", 0, 0), b"b" + struct.pack(">IQ", 0, 3), b"m", b"p" + bytes(4)]


def test_file_of_a_journal(tmp_path):
    journal = Journal(tmp_path)
    journal.settle(1, b'{"seed":0}')
    journal.append(
        StepEntry(step=1, ends={"features": {0: 5}}, watermark_ms=9, agree=8, publish=True, begins={"features": {0: 2}})
    )
    head = msgspec.msgpack.encode({"version": 4, "lineage": journal.lineage, "first_step": 1})
    length = struct.pack("<I", len(head))
    body = msgspec.msgpack.encode(
        {
            "step": 1,
            "ends": {"features": {0: 5}},
            "watermark_ms": 9,
            "agree": 8,
            "publish": True,
            "begins": {"features": {0: 2}},
        }
    )
    settings = msgspec.msgpack.encode({"settings": b'{"seed":0}', "from_step": 1, "format": 1})
    expected = b"MNLJRNL1" + length + struct.pack("<I", zlib.crc32(length + head)) + head
    for part in (settings, body):
        part_length = struct.pack("<I", len(part))
        expected += part_length + struct.pack("<II", zlib.crc32(part_length), zlib.crc32(part)) + part
    assert (tmp_path / "000000000001.journal").read_bytes() == expected


def test_dead_letter_is_a_map():
    letter = DeadLetter(
        reason="future",
        detail="d",
        key=None,
        value=b"v",
        stream="features",
        partition=1,
        offset=2,
        event_time_ms=3,
        ingestion_time_ms=4,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(letter)) == {
        "reason": "future",
        "detail": "d",
        "key": None,
        "value": b"v",
        "stream": "features",
        "partition": 1,
        "offset": 2,
        "event_time_ms": 3,
        "ingestion_time_ms": 4,
        "v": 1,
    }
