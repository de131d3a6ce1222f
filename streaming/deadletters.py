"""Where records go that cannot be used: with their reason, their bytes and the place they came from.

A letter is one MessagePack map in the job's ``dead_letters`` stream, keyed ``stream/partition/offset``. After a crash
the records behind the newest snapshot are judged again; where the sink can be read back (``log://``), the letters that
are there already are not written twice. A sink that does not answer never stops the job: letters wait, bounded, and
are in the snapshot until they are written. A letter that is too large for the sink holds the record's beginning only.
"""

from __future__ import annotations

import logging
import time
from collections import deque

import msgspec
import xxhash

from monolith.echo import clipped
from monolith.errors import CorruptError, DurabilityError, InputError, UnavailableError, VersionError
from monolith.events import Record
from monolith.streaming.source import Outgoing, Sink, open_sink, open_source, parse_url

log = logging.getLogger(__name__)

LETTER_VERSION = 1
MAX_WAITING = 10_000  # letters that wait for a sink that does not answer; above it the oldest go, counted
MAX_WAITING_BYTES = 64 * 2**20  # of their records; likewise, but the newest always waits
CUT_BYTES = 64 * 2**10  # of a record whose letter is too large for the sink
_SHORTENED = "too large a letter"
_RETRY_S = 5.0
_LOG_EVERY_S = 1.0
_READABLE = ("log", "memory")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One record that was not used. Times are ms since the epoch."""

    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    stream: str
    partition: int
    offset: int
    event_time_ms: int
    ingestion_time_ms: int
    v: int = LETTER_VERSION

    def place(self) -> str:
        """Where the record stands; the letter's key."""
        return f"{self.stream}/{self.partition}/{self.offset}"

    def size_bytes(self) -> int:
        """Of the record, which is all that can be large."""
        return len(self.key or b"") + len(self.value or b"")

    def shortened(self) -> DeadLetter:
        """The letter with the beginnings of the record's key and value, saying so."""
        was = f"{_SHORTENED}: the record has {len(self.key or b'')} bytes of key, {len(self.value or b'')} of value"
        key, value = ((part or b"")[: CUT_BYTES // 2] for part in (self.key, self.value))
        return msgspec.structs.replace(self, detail=clipped(f"{self.detail}; {was}"), key=key, value=value)

    @property
    def is_shortened(self) -> bool:
        """Whether the letter holds the beginnings of the record's key and value only."""
        return _SHORTENED in self.detail

    def identity(self) -> tuple[str, int]:
        """Equal for two letters of one record; a new stream's record at an old place has another one."""
        return self.place(), xxhash.xxh3_64_intdigest(self.value or b"")


class _State(msgspec.Struct, array_like=True):
    counts: dict[str, int]
    lost: int
    waiting: list[DeadLetter]


_letter_decoder = msgspec.msgpack.Decoder(DeadLetter)


def decode_letter(data: bytes) -> DeadLetter:
    """A letter's bytes as a letter. Raises CorruptError or VersionError."""
    try:
        letter = _letter_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptError(f"this is no dead letter: {error}") from None
    if letter.v != LETTER_VERSION:
        raise VersionError(f"the dead letter is of version {letter.v}, this build reads {LETTER_VERSION}")
    return letter


class DeadLetters:
    """Counts every letter by reason, and writes it where there is a sink. Owned by one thread."""

    def __init__(self, url: str | None) -> None:
        """``url`` None: letters are counted and logged only. Raises ConfigError for a URL that cannot be a sink."""
        self._url = url
        self._sink: Sink | None = None
        self._written: set[tuple[str, int]] = set()
        self._known = False  # whether `_written` was read back yet
        self._from: dict[str, dict[int, int]] = {}
        self._waiting: deque[DeadLetter] = deque()
        self._waiting_bytes = 0
        self._next_try = 0.0
        self._next_log = 0.0
        self._unlogged = 0
        self.counts: dict[str, int] = {}
        self.lost = 0
        try:
            self._open_sink()
        except UnavailableError as error:
            log.warning("dead letters will wait: %s", error)

    def _open_sink(self) -> None:
        if self._sink is None and self._url is not None:
            self._sink = open_sink(self._url)

    def add(self, stream: str, record: Record, reason: str, detail: str) -> None:
        """Count the record and, if there is a sink, have it written by the next `flush`."""
        self.put(
            DeadLetter(
                reason=reason,
                detail=clipped(detail),
                key=record.key,
                value=record.value,
                stream=stream,
                partition=record.partition,
                offset=record.offset,
                event_time_ms=record.event_time_ms,
                ingestion_time_ms=record.ingestion_time_ms,
            )
        )

    def put(self, letter: DeadLetter) -> None:
        """`add` of a letter that was made already."""
        self.counts[letter.reason] = self.counts.get(letter.reason, 0) + 1
        self._tell(letter)
        if self._url is None:
            return
        self._waiting.append(letter)
        self._waiting_bytes += letter.size_bytes()
        while len(self._waiting) > MAX_WAITING or (self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > 1):
            self._waiting_bytes -= self._waiting.popleft().size_bytes()
            self.lost += 1

    def _tell(self, letter: DeadLetter) -> None:
        now = time.monotonic()
        if now < self._next_log:
            self._unlogged += 1
            return
        log.warning(
            "dead letter reason=%s at=%s unlogged=%d: %s", letter.reason, letter.place(), self._unlogged, letter.detail
        )
        self._next_log, self._unlogged = now + _LOG_EVERY_S, 0

    def flush(self) -> None:
        """Write what waits. A sink that does not answer is tried again later; nothing is raised for it."""
        if self._waiting and time.monotonic() >= self._next_try:
            try:
                self._write()
            except (UnavailableError, CorruptError, DurabilityError) as error:
                self._next_try = time.monotonic() + _RETRY_S
                log.warning("dead letters wait=%d lost=%d: %s", len(self._waiting), self.lost, error)

    def _write(self) -> None:
        assert self._url is not None
        self._open_sink()
        if not self._known:
            self._written = _read_back(self._url, self._from, {letter.place() for letter in self._waiting})
            self._known = True
        news = [letter for letter in self._waiting if letter.identity() not in self._written]
        if news and self._sink is not None:
            self.lost += _append(self._sink, news)
        self._waiting.clear()
        self._waiting_bytes = 0

    def state(self) -> bytes:
        """Counters, and the letters that are not written yet."""
        return msgspec.msgpack.encode(_State(dict(sorted(self.counts.items())), self.lost, list(self._waiting)))

    def restore(self, data: bytes, positions: dict[str, dict[int, int]]) -> None:
        """Be what gave ``data``. Letters of records at or after ``positions`` may be in the sink already."""
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except msgspec.DecodeError as error:
            raise CorruptError(f"the dead letters' state cannot be read: {error}") from None
        self.counts, self.lost, self._waiting = state.counts, state.lost, deque(state.waiting)
        self._waiting_bytes = sum(letter.size_bytes() for letter in self._waiting)
        self._from, self._known = positions, False

    def close(self) -> None:
        """Try once more to write what waits, and let go of the sink."""
        self._next_try = 0.0
        self.flush()
        if self._sink is not None:
            self._sink.close()
            self._sink = None


class KeptLetters(DeadLetters):
    """Letters for whoever takes them: those of a process that writes none."""

    def __init__(self) -> None:
        super().__init__(None)
        self._kept: list[DeadLetter] = []

    def put(self, letter: DeadLetter) -> None:
        """See `DeadLetters`; nothing is counted or logged."""
        self._kept.append(letter)

    def take(self) -> list[DeadLetter]:
        """Those since the last call."""
        kept, self._kept = self._kept, []
        return kept


def _append(sink: Sink, letters: list[DeadLetter]) -> int:
    """Append them all, one by one where the sink takes not all at once; how many it takes in no way."""
    try:
        sink.append([_outgoing(letter) for letter in letters])
    except InputError as error:
        if len(letters) == 1:
            return _append_shortened(sink, letters[0], error)
        return sum(_append(sink, [letter]) for letter in letters)
    return 0


def _append_shortened(sink: Sink, letter: DeadLetter, why: InputError) -> int:
    log.warning("dead letter at=%s is shortened to %d bytes of its record: %s", letter.place(), CUT_BYTES, why)
    try:
        sink.append([_outgoing(letter.shortened())])
    except InputError as error:
        log.error("dead letter at=%s is lost: %s", letter.place(), error)
        return 1
    return 0


def _outgoing(letter: DeadLetter) -> Outgoing:
    return letter.place().encode(), msgspec.msgpack.encode(letter), letter.event_time_ms


def _read_back(url: str, positions: dict[str, dict[int, int]], waiting: set[str]) -> set[tuple[str, int]]:
    """The letters in ``url`` that a re-run from ``positions`` could write again, or that are about to be written."""
    if parse_url(url).scheme not in _READABLE:
        return set()
    source = open_source(url, on_data_loss="skip")
    found: set[tuple[str, int]] = set()
    try:
        while source.lag():
            for record in source.poll(1000, 0.0):
                letter = decode_letter(record.value or b"")
                position = positions.get(letter.stream, {}).get(letter.partition, 0)
                if letter.offset >= position or letter.place() in waiting:
                    found.add(letter.identity())
    finally:
        source.close()
    return found
