"""What a stream is to the rest of the system, and how a URL names one.

    log://DIR              embedded, durable          streaming/log.py
    kafka://HOST:PORT/T    an Apache Kafka topic      streaming/kafka.py
    parquet://PATH         bounded, rows in order     streaming/parquet.py
    memory://NAME          in this process, for tests streaming/memory.py

A source hands out records by partition and offset and is told where to stand: it commits nothing by itself. A source
opened with ``wait`` may name something that is not there yet (a log no producer has created, a broker that is down, a
topic to come): it has no partitions until then, and says in the log file what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from monolith.errors import ConfigError, InputError
from monolith.events import Record
from monolith.secrets import masked, reveal_url, scrubbed
from monolith.streaming.record_block import RecordBlock

OnDataLoss = Literal["stop", "skip"]
Begin = Literal[
    "kept", "beginning", "end"
]  # where a run begins in its streams: where another stood, or at one of these
Outgoing = tuple[bytes | None, bytes | None, int]  # key, value, event time in ms

SOURCE_SCHEMES = ("log", "kafka", "parquet", "memory")
SINK_SCHEMES = ("log", "kafka", "memory")

_TIME_LIMIT = 2**63  # event times are int64


class Source(Protocol):
    """A stream to read from. One thread at a time."""

    @property
    def name(self) -> str:
        """The URL without its options: what messages call the source."""

    @property
    def bounded(self) -> bool:
        """Whether nothing will ever be appended any more."""

    @property
    def skipped(self) -> int:
        """Offsets that were gone and were passed over, with ``on_data_loss: skip``."""

    @property
    def missing(self) -> str | None:
        """Why the stream cannot be read now, in words (its broker does not answer, say); None: it can."""

    def partitions(self) -> list[int]:
        """The partitions, ascending; empty while what the URL names is not there yet."""

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """Up to ``max_records`` next records of ``partitions`` (None: all), each partition's in order of offset.

        Waits up to ``timeout_s`` for the first; an empty list when there was none. A partition that is left out keeps
        its position. Raises DataLossError if the next offset is gone and the source was opened to stop then.
        """

    def position(self) -> dict[int, int]:
        """The next offset to be polled, by partition."""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Stand at these offsets; partitions that are not named stay. Allowed before the source is there."""

    def end_position(self) -> dict[int, int]:
        """The offset after the last record, by partition, as last heard of."""

    def lag(self) -> int:
        """Records between the positions and the ends."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the outside, for people and lag tools, what is safely done. Nothing here reads it back."""

    def close(self) -> None:
        """Let go of files and connections. Twice is fine."""


@runtime_checkable
class BlockSource(Source, Protocol):
    """A source that has its records as columns: its readers need no object for each."""

    def poll_blocks(
        self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None
    ) -> list[RecordBlock]:
        """As `poll`, the same records."""


@runtime_checkable
class MarkedSource(Source, Protocol):
    """A source that can tell a stream from another one under the same URL."""

    def mark(self) -> str | None:
        """What the stream is known by, from its making to its removal; None: it is not there yet, or has nothing.

        Whoever asks has kept positions of this very stream: `seek` is believed from here on.
        """

    def expect(self, mark: str) -> None:
        """What `seek` will be told is of the stream with this ``mark``.

        If another one is there, or comes, that is a DataLossError, here or where it is found out; or, where losses are
        skipped, `seek` goes to the beginnings.
        """


class Sink(Protocol):
    """A stream to append to."""

    def append(self, records: Sequence[Outgoing]) -> None:
        """Append ``records``; on return they are durable.

        Raises InputError for one that cannot be written, before any is, and UnavailableError if they are not all known
        to be durable.
        """

    def close(self) -> None:
        """Let go of files and connections. Twice is fine."""


def check_outgoing(name: str, records: Sequence[Outgoing]) -> None:
    """Raise InputError for the first record that no reader of the stream ``name`` could take."""
    for index, record in enumerate(records):
        if not isinstance(record, (tuple, list)) or len(record) != 3:
            _refuse(name, index, "it", record, "(key, value, event time in ms)")
        key, value, event_time_ms = record
        for part, data in (("key", key), ("value", value)):
            if data is not None and not isinstance(data, bytes):
                _refuse(name, index, f"its {part}", data, "bytes or None")
        is_int = isinstance(event_time_ms, int) and not isinstance(event_time_ms, bool)
        if not is_int or not -_TIME_LIMIT <= event_time_ms < _TIME_LIMIT:
            _refuse(name, index, "its event time", event_time_ms, "an int of 64 bits, in ms")


def _refuse(name: str, index: int, part: str, seen: object, allowed: str) -> NoReturn:
    raise InputError(f"{name}: record {index}: {part} is {seen!r:.80}, allowed: {allowed}; nothing was written")


@dataclass(frozen=True, slots=True)
class StreamUrl:
    """A parsed ``scheme://place?option=value``."""

    scheme: str
    place: str
    options: dict[str, str]
    text: str  # for people: with references in place of secrets, and no password

    @property
    def name(self) -> str:
        """The URL without options."""
        return self.text.partition("?")[0]

    def check_options(self, allowed: Collection[str]) -> None:
        """Raise ConfigError for an option that is not in ``allowed``."""
        for option in self.options:
            if option not in allowed:
                raise ConfigError(f"{self.text}: unknown option {option!r}, allowed: {', '.join(sorted(allowed))}")

    def number(self, option: str, kind: type[int] | type[float] = int, *, least: float = 0) -> int | float | None:
        """The option as a number of at least ``least``, None where it is not given. Raises ConfigError."""
        text = self.options.get(option)
        if text is None:
            return None
        try:
            value = kind(text)
        except ValueError:
            raise ConfigError(f"{self.text}: {option} is {scrubbed(text)!r}, it takes a number") from None
        if not value >= least:
            raise ConfigError(f"{self.text}: {option} is {scrubbed(text)}, it takes at least {least:g}")
        return value

    def choice(self, option: str, allowed: Sequence[str]) -> str:
        """The option, or the first of ``allowed`` where it is not given. Raises ConfigError for another value."""
        text = self.options.get(option, allowed[0])
        if text not in allowed:
            raise ConfigError(f"{self.text}: {option} is {scrubbed(text)!r}, allowed: {', '.join(allowed)}")
        return text


def parse_url(url: str, schemes: Sequence[str] = SOURCE_SCHEMES) -> StreamUrl:
    """Take ``url`` apart, its references (`monolith.secrets`) replaced.

    Raises ConfigError for another scheme, no place, an option given twice, or a reference that cannot be replaced.
    """
    shown = masked(url)
    scheme, found, rest = reveal_url(url).partition("://")
    allowed = ", ".join(f"{name}://" for name in schemes)
    if not found or scheme not in schemes:
        raise ConfigError(f"{shown!r} does not name a stream here; allowed: {allowed}")
    place, _, query = rest.partition("?")
    if not place:
        raise ConfigError(f"{shown!r} names no place after {scheme}://")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigError(f"{shown!r} gives an option twice")
    return StreamUrl(scheme, place, options, shown)


def open_source(
    url: str,
    *,
    wait: bool = False,
    on_data_loss: OnDataLoss = "stop",
    group: str | None = None,
    owns: Callable[[int], bool] | None = None,
) -> Source:
    """Open the stream ``url`` at its beginning.

    ``wait``: what is not there yet is waited for, instead of being an error. ``group``: the Kafka group whose offsets
    `Source.commit` sets. ``owns``: the partitions that will be polled; None: all. Raises ConfigError for a URL that
    cannot be, and for a missing stream without ``wait``.
    """
    parsed = parse_url(url)
    if parsed.scheme == "log":
        from monolith.streaming.logstream import LogSource

        return LogSource(parsed, wait=wait, on_data_loss=on_data_loss)
    if parsed.scheme == "kafka":
        from monolith.streaming.kafka import KafkaSource

        return KafkaSource(parsed, wait=wait, on_data_loss=on_data_loss, group=group, owns=owns)
    if parsed.scheme == "parquet":
        from monolith.streaming.parquet import ParquetSource

        return ParquetSource(parsed, on_data_loss=on_data_loss)
    from monolith.streaming.memory import MemorySource

    return MemorySource(parsed, wait=wait, on_data_loss=on_data_loss)


def open_sink(url: str) -> Sink:
    """Open the stream ``url`` for appending; a log or a memory stream is created. Raises ConfigError."""
    parsed = parse_url(url, SINK_SCHEMES)
    if parsed.scheme == "log":
        from monolith.streaming.logstream import LogSink

        return LogSink(parsed)
    if parsed.scheme == "kafka":
        from monolith.streaming.kafka_sink import KafkaSink

        return KafkaSink(parsed)
    from monolith.streaming.memory import MemorySink

    return MemorySink(parsed)
