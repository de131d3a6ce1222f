"""The native joiner; `monolith.streaming.joiner` is its face."""

from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.streaming.sample_block import Bytes
from monolith.tables.batch import Floats, Ints

Waiting = tuple[bytes, bytes, bytes]  # numbers (int64), lengths of three texts each (uint32), texts
Saved = tuple[list[tuple[int, bytes]], Waiting | None]  # number and statuses of each segment; the newest's rows, if new

class Joiner:
    def __init__(
        self,
        window_ms: int,
        early_ms: int,
        dedup_ms: int,
        keep_below: int,
        keep_all: bool,
        rate: float,
        late: int,
        head_bytes: int,
        tells_seen: bool,
        tasks: list[tuple[list[str], bool]],  # of each the actions that make its label, whether it is their value
        negative_weight: float,
        co_partitioned: bool,
        tells_turns: bool,
    ) -> None: ...
    def add_shown(
        self,
        order_ms: int,
        stream: int,
        partition: int,
        offset: int,
        ingestion_ms: int,
        event_time_ms: int,
        request: str,
        item: str,
        row: bytes,
        draw: int,
        /,
    ) -> None: ...
    def add_action(
        self,
        order_ms: int,
        stream: int,
        partition: int,
        offset: int,
        ingestion_ms: int,
        event_time_ms: int,
        request: str,
        item: str,
        action: str,
        ignored: bool,
        value: float,
        /,
    ) -> None: ...
    def add_joined(
        self,
        order_ms: int,
        stream: int,
        partition: int,
        offset: int,
        ingestion_ms: int,
        event_time_ms: int,
        request: str,
        item: str,
        row: bytes,
        label: float,
        rate: float,
        /,
    ) -> None: ...
    def add_joined_block(
        self,
        stream: int,
        partition: int,
        first_offset: int,
        order_ms: Ints,
        event_time_ms: Ints,
        labels: Floats,
        heads: Bytes,
        bag_data: Bytes,
        bag_lengths: Ints,
        keys: Bytes,
        key_lengths: Ints,
        /,
    ) -> None: ...
    def advance(self, watermark_ms: int, released_ms: int, newest_ms: int, last_ms: int) -> None: ...
    def take_samples(self) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]: ...
    def take_seen(self) -> list[tuple[int, str, str, int, bytes]]: ...
    def take_late_actions(self) -> list[tuple[str, str, str, int, int, int, int, float]]: ...
    pending_ms: int
    last_ms: int
    due_ms: int
    pending_bytes: int
    held_bytes: int
    crossed: int
    counters: list[int]
    newest_ingestion_ms: int
    def pending(self) -> Waiting: ...
    def waiting(self) -> Waiting: ...
    def parked(self) -> Waiting: ...
    def put_pending(self, numbers: bytes, lengths: bytes, texts: bytes, /) -> None: ...
    def put_waiting(self, numbers: bytes, lengths: bytes, texts: bytes, /) -> None: ...
    def put_parked(self, numbers: bytes, lengths: bytes, texts: bytes, /) -> None: ...
    def save(self, whole: bool, /) -> tuple[Saved, Saved, Saved]: ...

def merged(group: int, segments: list[tuple[bytes, bytes, bytes, bytes]], /) -> Waiting: ...

class Decoder:
    def __init__(
        self,
        kind: int,
        features: list[tuple[Any, ...]],  # name, value, place, width, seed, takes missing, ids, numbers, ids of NaN
        tasks: list[tuple[str, bool]],  # name, whether labels are 0 and 1
        ignores_unknown: bool,
        version: int,
        times_up: int,
        times_down: int,
        latest_ms: int,
        most_ahead_ms: int,
        largest_weight: float,
        largest_label: float,
        sampling_seed: int,
    ) -> None: ...
    head_bytes: int
    # Fit, event times, heads, bag_data with ends, keys with ends, draws, labels, rates, actions with names, numbers of
    # buckets; those that the kind of event does not have are empty.
    def decode(
        self, values: bytes, ends: Ints, ingestion_ms: Ints, /
    ) -> tuple[
        Bytes,
        Ints,
        Bytes,
        Bytes,
        Ints,
        Bytes,
        Ints,
        npt.NDArray[np.uint64],
        Floats,
        Floats,
        npt.NDArray[np.int32],
        list[str],
        npt.NDArray[np.float64],
    ]: ...

# Keys with ends and which are none, values likewise, event times; None for what is no such list, beyond doubt.
def split_records(body: bytes, begin: int, /) -> tuple[bytes, Ints, Bytes, bytes, Ints, Bytes, Ints] | None: ...

# Each begins with stream, partition, offsets, order, ingestion and event times, keys with ends.
def add_shown_block(
    joiner: Joiner,
    stream: int,
    partition: int,
    offsets: Ints,
    order_ms: Ints,
    ingestion_ms: Ints,
    event_time_ms: Ints,
    keys: Bytes,
    key_ends: Ints,
    heads: Bytes,
    bag_data: Bytes,
    bag_ends: Ints,
    draws: npt.NDArray[np.uint64],
    /,
) -> None: ...
def add_joined_events(
    joiner: Joiner,
    stream: int,
    partition: int,
    offsets: Ints,
    order_ms: Ints,
    ingestion_ms: Ints,
    event_time_ms: Ints,
    keys: Bytes,
    key_ends: Ints,
    heads: Bytes,
    bag_data: Bytes,
    bag_ends: Ints,
    labels: Floats,
    rates: Floats,
    /,
) -> None: ...
def add_action_block(
    joiner: Joiner,
    stream: int,
    partition: int,
    offsets: Ints,
    order_ms: Ints,
    ingestion_ms: Ints,
    event_time_ms: Ints,
    keys: Bytes,
    key_ends: Ints,
    actions: npt.NDArray[np.int32],
    names: list[str],
    ignored: list[bool],
    /,
) -> None: ...
