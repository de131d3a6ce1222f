"""What the joiner gives: labelled samples as columns, their features still packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from monolith.streaming.labels import LabelBlocks
from monolith.tables.batch import Batch, Flags, Floats, Ints
from monolith.tables.schema import FeatureSchema

Key = tuple[str, str]  # request id, item id


class Keys(Sequence[Key]):
    """Request and item id of each sample; a key is made when it is asked for."""

    def __init__(self, texts: bytes, ends: bytes) -> None:
        self._texts = texts
        self._ends = np.frombuffer(ends, np.uint32)

    def __len__(self) -> int:
        return len(self._ends) // 2

    def __iter__(self) -> Iterator[Key]:
        return map(self._key, range(len(self)))

    @overload
    def __getitem__(self, number: int) -> Key: ...
    @overload
    def __getitem__(self, number: slice) -> list[Key]: ...
    def __getitem__(self, number: int | slice) -> Key | list[Key]:
        places = range(len(self))[number]
        return self._key(places) if isinstance(places, int) else [self._key(place) for place in places]

    def _key(self, place: int) -> Key:
        begin = int(self._ends[2 * place - 1]) if place else 0
        middle, end = self._ends[2 * place : 2 * place + 2].tolist()
        return self._texts[begin:middle].decode(), self._texts[middle:end].decode()


class JoinedSamples:
    """Samples in the order in which they are to be trained; columns (n,)."""

    def __init__(self, columns: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]) -> None:
        """``columns`` as the native joiner gives them."""
        event_times, ingestion_times, labels, rates, late, self._heads, self._bag_data, texts, ends, turns = columns
        self.event_time_ms: Ints = np.frombuffer(event_times, np.int64)
        self.ingestion_time_ms: Ints = np.frombuffer(ingestion_times, np.int64)
        self.labels: Floats = np.frombuffer(labels, np.float32)
        self.rates: Floats = np.frombuffer(rates, np.float32)
        self.late: Flags = np.frombuffer(late, np.bool_)
        self.keys = Keys(texts, ends)
        # (n, 5) where the joiner tells them, else (0, 5): what the samples of several joiners are ordered by, the first
        # column first; samples that one record made have equal ones, and stay as they are
        self.turns: Ints = np.frombuffer(turns, np.int64).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self.labels)

    def strings(self, schema: FeatureSchema, blocks: LabelBlocks) -> dict[str, dict[int, str]]:
        """What the ids of the samples stand for, by feature, of the features whose strings are kept."""
        if not schema.keeps_strings:
            return {}
        heads = blocks.columns(self._heads, len(self))[2] if blocks.size else self._heads
        return schema.texts_of(heads, self._bag_data)

    def batch(self, schema: FeatureSchema, group_by: str, blocks: LabelBlocks | None = None) -> Batch:
        """The samples with their features; ``group_by`` is the feature within whose values samples are ranked.

        ``blocks`` are the label blocks with which the rows begin; none, or of no size: the labels are the joiner's.
        """
        labels, weights, heads = self.labels[:, None], None, self._heads
        if blocks is not None and blocks.size:
            labels, weights, heads = blocks.columns(heads, len(self))
        columns = schema.unpack(heads, self._bag_data, self.event_time_ms)
        return Batch(
            bags=columns.bags,
            dense=columns.dense,
            labels=labels,
            rates=self.rates,
            event_time_ms=self.event_time_ms,
            ingestion_time_ms=self.ingestion_time_ms,
            groups=schema.groups(columns, group_by, len(self)),
            late=self.late,
            label_weights=weights,
        )
