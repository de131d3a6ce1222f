"""What waits in the joiner, and what a snapshot keeps of it: MessagePack, versioned, canonical."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from monolith.errors import CorruptError, VersionError
from monolith.events import ActionEvent, Event

JOINER_VERSION = 1

Key = tuple[str, str]  # request id, item id


class Pending(NamedTuple):
    """A record on its way to its order time."""

    order_ms: int
    stream: int
    partition: int
    offset: int
    ingestion_ms: int
    bytes: int
    event: Event


class Waiting(msgspec.Struct, array_like=True, gc=False):
    """A key whose features came. ``features`` is MessagePack, empty once they are not needed any more."""

    event_time_ms: int
    partition: int
    offset: int
    deadline_ms: int
    forget_ms: int
    open: bool  # neither positive nor negative yet
    positive: bool
    features: bytes


class Parked(msgspec.Struct, array_like=True, gc=False):
    """An action that waits for its features."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int
    expire_ms: int


class JoinCounters(msgspec.Struct, kw_only=True):
    """What became of the events since the run's first step."""

    positives: int = 0
    negatives: int = 0
    late: int = 0  # positives after their window, whatever the policy made of them
    sampled_out: int = 0  # negatives that negative sampling dropped
    passed: int = 0  # samples that came joined
    duplicate_features: int = 0
    duplicate_actions: int = 0
    unmatched_actions: int = 0  # no features within early_s
    ignored_actions: int = 0  # not one of positive_actions


class JoinerState(msgspec.Struct, array_like=True):
    """Everything that waits and every counter."""

    version: int
    newest_ingestion_ms: int
    counters: JoinCounters
    pending: list[tuple[int, int, int, int, int, int, bytes]]
    waiting: list[tuple[str, str, Waiting]]
    parked: list[tuple[str, str, Parked]]


def decode_joiner_state(data: bytes) -> JoinerState:
    """Raises VersionError or CorruptError."""
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version != JOINER_VERSION:
            raise VersionError(f"the joiner's state is of version {version!r}, this build reads {JOINER_VERSION}")
        return msgspec.msgpack.decode(data, type=JoinerState)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"the joiner's state cannot be read: {error}") from None
