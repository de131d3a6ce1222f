"""Reads the joiner's state of version 1, whose features were MessagePack maps, as one of version 2: packed rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import msgspec
import numpy as np

from monolith.errors import CorruptError
from monolith.events import ActionEvent, FeatureEvent, FeatureValue
from monolith.streaming.codec import decode
from monolith.streaming.joiner import draw
from monolith.streaming.joiner_state import ACTION, JOINED, SHOWN, Columns, JoinCounters, JoinerState

Pack = Callable[[Mapping[str, FeatureValue]], bytes]
Member = tuple[Sequence[int], Sequence[bytes]]  # its numbers, its three texts


class _Waiting(msgspec.Struct, array_like=True):
    event_time_ms: int
    partition: int
    offset: int
    deadline_ms: int
    forget_ms: int
    open: bool
    positive: bool
    features: bytes


class _Parked(msgspec.Struct, array_like=True):
    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int
    expire_ms: int


class _StateV1(msgspec.Struct, array_like=True):
    version: int
    newest_ingestion_ms: int
    counters: JoinCounters
    pending: list[tuple[int, int, int, int, int, int, bytes]]
    waiting: list[tuple[str, str, _Waiting]]
    parked: list[tuple[str, str, _Parked]]


def upgraded(data: bytes, pack: Pack, is_ignored: Callable[[str], bool]) -> JoinerState:
    """The same state. ``is_ignored`` says which actions are no positive ones.

    Raises CorruptError, and EventError for features that the job no longer takes.
    """
    try:
        old = msgspec.msgpack.decode(data, type=_StateV1)
    except msgspec.DecodeError as error:
        raise CorruptError(f"the joiner's state of version 1 cannot be read: {error}") from None
    waiting = sorted(old.waiting, key=lambda member: (member[2].partition, member[2].offset))
    parked = sorted(old.parked, key=lambda member: (member[2].partition, member[2].offset))
    return JoinerState(
        newest_ingestion_ms=old.newest_ingestion_ms,
        counters=old.counters,
        pending=_columns([_pending(record, pack, is_ignored) for record in old.pending]),
        waiting=_columns([_waiting(*member, pack) for member in waiting]),
        parked=_columns([_parked(*member) for member in parked]),
    )


def _pending(
    record: tuple[int, int, int, int, int, int, bytes], pack: Pack, is_ignored: Callable[[str], bool]
) -> Member:
    order_ms, stream, partition, offset, ingestion_ms, _, data = record
    event = decode(data)
    place = order_ms, stream, partition, offset, ingestion_ms, event.event_time_ms
    request, item = event.request_id, event.item_id
    if isinstance(event, ActionEvent):
        return (*place, 0, 0, 0, ACTION, is_ignored(event.action)), _texts(request, item, event.action.encode())
    if isinstance(event, FeatureEvent):
        return (*place, _signed(draw(request, item)), 0, 0, SHOWN, 0), _texts(request, item, pack(event.features))
    assert not isinstance(event.label, dict)  # labels by task are younger
    numbers = (*place, 0, _bits(event.label), _bits(event.rate), JOINED, 0)
    return numbers, _texts(request, item, pack(event.features))


def _waiting(request: str, item: str, entry: _Waiting, pack: Pack) -> Member:
    numbers = (
        *(entry.event_time_ms, entry.partition, entry.offset, entry.deadline_ms, entry.forget_ms),
        *(_signed(draw(request, item)), entry.open + 2 * entry.positive),
    )
    row = pack(msgspec.msgpack.decode(entry.features)) if entry.features else b""
    return numbers, _texts(request, item, row)


def _parked(request: str, item: str, parked: _Parked) -> Member:
    event = parked.event
    numbers = event.event_time_ms, parked.partition, parked.offset, parked.ingestion_ms, parked.expire_ms
    return numbers, _texts(request, item, event.action.encode())


def _texts(request: str, item: str, rest: bytes) -> tuple[bytes, bytes, bytes]:
    return request.encode(), item.encode(), rest


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))


def _columns(members: Sequence[Member]) -> Columns:
    texts = list(chain.from_iterable(of_member for _, of_member in members))
    numbers = np.array([of_member for of_member, _ in members], np.int64)
    return numbers.tobytes(), np.array([len(text) for text in texts], np.uint32).tobytes(), b"".join(texts)
