"""``RecordBlock``: consecutive records of one partition as columns, as a source gives them to the decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import attrgetter

import numpy as np

from monolith.events import Record
from monolith.tables.batch import Flags, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """``n`` byte strings, one after the other in ``data``; string ``i`` lies from ``ends[i]`` to ``ends[i + 1]``."""

    data: bytes
    ends: Ints  # (n + 1,)
    null: Flags  # (n,): there is no string, which is not an empty one

    @classmethod
    def of(cls, strings: Sequence[bytes | None]) -> Texts:
        """The same strings."""
        ends = np.fromiter(accumulate(map(len, (s or b"" for s in strings)), initial=0), np.int64, len(strings) + 1)
        return cls(b"".join([s or b"" for s in strings]), ends, np.array([s is None for s in strings], np.bool_))

    def rows(self, start: int, stop: int) -> Texts:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return Texts(self.data, self.ends[start : stop + 1], self.null[start:stop])

    def __getitem__(self, number: int) -> bytes | None:
        return None if self.null[number] else self.data[self.ends[number] : self.ends[number + 1]]

    def joined(self) -> memoryview:
        """All strings, one after the other."""
        return memoryview(self.data)[self.ends[0] : self.ends[-1]]


@dataclass(frozen=True, slots=True, eq=False)
class RecordBlock:
    """``n`` records; see `monolith.events.Record` for the columns. Shared, never changed."""

    partition: int
    offsets: Ints  # (n,)
    event_time_ms: Ints  # (n,): the records' own stamps
    ingestion_time_ms: Ints  # (n,)
    keys: Texts
    values: Texts

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordBlock:
        """The columns of ``records``, at least one, all of one partition."""
        count = len(records)
        return cls(
            records[0].partition,
            np.fromiter((r.offset for r in records), np.int64, count),
            np.fromiter((r.event_time_ms for r in records), np.int64, count),
            np.fromiter((r.ingestion_time_ms for r in records), np.int64, count),
            Texts.of([r.key for r in records]),
            Texts.of([r.value for r in records]),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def rows(self, start: int, stop: int) -> RecordBlock:
        """The records with numbers ``start`` to ``stop``; shares memory."""
        return RecordBlock(
            self.partition,
            self.offsets[start:stop],
            self.event_time_ms[start:stop],
            self.ingestion_time_ms[start:stop],
            self.keys.rows(start, stop),
            self.values.rows(start, stop),
        )

    def records(self) -> list[Record]:
        """Each as a record."""
        columns = self.event_time_ms.tolist(), self.ingestion_time_ms.tolist(), self.offsets.tolist()
        return [
            Record(self.keys[i], self.values[i], event_ms, ingestion_ms, self.partition, offset)
            for i, (event_ms, ingestion_ms, offset) in enumerate(zip(*columns, strict=True))
        ]


def blocks_of(records: Iterable[Record]) -> Iterator[RecordBlock]:
    """The records in order, those of one partition that follow one another as one block."""
    for _, group in groupby(records, key=attrgetter("partition")):
        yield RecordBlock.of([*group])
