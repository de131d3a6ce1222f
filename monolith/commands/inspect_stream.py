"""What is in a stream: how much of it there is, and its first records, decoded, as JSON lines."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from monolith.echo import clipped
from monolith.errors import CorruptError, EventError, UnavailableError
from monolith.events import Record
from monolith.streaming.codec import decode, encode
from monolith.streaming.deadletters import DeadLetter, decode_letter

if TYPE_CHECKING:
    from monolith.streaming.source import Source

MOST_OF_A_RECORD = 2000  # characters that are shown of a value that is neither event nor letter
ANSWER_S = 4.0  # for a broker: an attempt to reach one takes two


def stream_lines(url: str, head: int) -> Iterator[str]:
    """Partitions and offsets, then the first ``head`` records, each as one line of JSON."""
    from monolith.streaming.source import open_source

    source = answering(open_source, url)
    try:
        begins, ends = source.position(), source.end_position()
        total = sum(ends[p] - begins[p] for p in ends)
        yield f"stream {source.name}: {total:,} records in {len(ends)} partitions"
        for partition in sorted(ends):
            yield f"  partition {partition}: offsets {begins[partition]:,} to {ends[partition]:,}"
        for record in records_of(source, head):
            yield msgspec.json.encode(described(record)).decode()
    finally:
        source.close()


def described(record: Record) -> dict[str, Any]:
    """A record for people: its place and times, and the event or dead letter that it holds, or its text."""
    what: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "event_time_ms": record.event_time_ms,
        "ingestion_time_ms": record.ingestion_time_ms,
    }
    value = record.value or b""
    try:
        letter = decode_letter(value)
    except CorruptError:
        return what | contents(value)
    return what | described_letter(letter)


def described_letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with the record that it is about, decoded where that can be done."""
    fields = msgspec.structs.asdict(letter)
    key, value = fields.pop("key"), fields.pop("value")
    return {
        "letter": {name: fields[name] for name in ("reason", "detail", "stream", "partition", "offset")},
        "record": {
            "key": None if key is None else key.decode(errors="backslashreplace"),
            "event_time_ms": letter.event_time_ms,
            **contents(value or b""),
        },
    }


def contents(value: bytes) -> dict[str, Any]:
    """``event``: the map in the bytes, whether or not it is an event of ours; or ``text``, with ``bytes`` in base64."""
    try:
        return {"event": msgspec.json.decode(encode(decode(value), "json"))}
    except EventError:
        pass
    try:
        loose = msgspec.json.decode(value) if value[:1] == b"{" else msgspec.msgpack.decode(value)
        if isinstance(loose, dict):
            return {"event": msgspec.to_builtins(loose)}
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        pass
    return {
        "text": clipped(value[:MOST_OF_A_RECORD].decode(errors="backslashreplace"), MOST_OF_A_RECORD),
        "bytes": base64.b64encode(value).decode(),
    }


def answering(open_source: Callable[[str], Source], url: str) -> Source:
    """The stream, which has told its partitions; raises UnavailableError if a broker does not within some seconds."""
    waiting, deadline = logging.getLogger("monolith.streaming.waiting"), time.monotonic() + ANSWER_S
    level = waiting.level
    waiting.setLevel(logging.ERROR)  # the error says it, once
    try:
        source = open_source(url)
        while not source.partitions():
            if time.monotonic() >= deadline:
                source.close()
                raise UnavailableError(
                    f"{source.name} does not answer: no broker was reached in {ANSWER_S:.0f} s. Is it running, and is "
                    f"this its address?"
                )
            time.sleep(0.1)
        return source
    finally:
        waiting.setLevel(level)


def records_of(source: Source, count: int | None = None) -> Iterator[Record]:
    """The first ``count`` records, or all there are; a source may hand out what stands before a damage first."""
    left = 2**62 if count is None else count
    while left > 0 and source.lag() and (records := source.poll(min(left, 1000), 5.0)):
        yield from records
        left -= len(records)
