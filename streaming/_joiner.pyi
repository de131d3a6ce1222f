"""The native joiner; `monolith.streaming.joiner` is its face."""

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
        tails: Bytes,
        tail_lengths: Ints,
        keys: Bytes,
        key_lengths: Ints,
        /,
    ) -> None: ...
    def advance(self, watermark_ms: int, released_ms: int, newest_ms: int) -> None: ...
    def take_samples(self) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]: ...
    def take_seen(self) -> list[tuple[int, str, str, int, bytes]]: ...
    def take_late_actions(self) -> list[tuple[str, str, str, int, int, int, int, float]]: ...
    pending_ms: int
    due_ms: int
    pending_bytes: int
    held_bytes: int
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
