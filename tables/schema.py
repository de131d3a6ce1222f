"""The job's features together: events and requests to packed rows, packed rows to the columns of a `Batch`.

A *packed row* is what one sample's features take while they wait, in the order of the job's features, little-endian:

    presence bytes   one bit for each single-id feature, lowest first: whether the sample has an id
    int64            one for each single-id feature; 0 where it has none
    float64          `width` for each dense feature, before its transforms; NaN: missing
    uint32           one for each bag: 2 * ids + (1 if they are weighted); one more where strings are kept: 2 * words
    int64, float64   for each bag its ids, then its weights if there are any
    words of 8 bytes where strings are kept, see `monolith.tables.kept_texts`

So rows of one job without bags have one length, and a batch of them becomes columns by one copy. The layout belongs to
the job's features: `FeatureSchema.layout` names it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from monolith.card import CardFeature, Read
from monolith.config import JobConfig, TableConfig
from monolith.echo import clipped, shown
from monolith.errors import EventError
from monolith.events import FeatureValue
from monolith.tables.batch import NO_GROUP, Bag, Floats, Ints, spans
from monolith.tables.columns import Column, Dense, IdBag, OneId, PackedColumn, TimePart, column_of
from monolith.tables.kept_texts import packed_texts, unpacked_texts
from monolith.tables.packing import PackedPiece, bag_data_of, heads_of

Piece = Any  # what a column's `pack` gives: an id or None, numbers, or ids and weights


@dataclass(frozen=True, slots=True)
class Columns:
    """The features of some samples, as `Batch` wants them."""

    bags: dict[str, Bag]
    dense: dict[str, Floats]


class FeatureSchema:
    """Packs and unpacks the features of one job or model. Immutable: any thread may call it."""

    def __init__(
        self, features: Sequence[CardFeature], *, ignore_unknown: bool = False, keep_strings: bool = False
    ) -> None:
        """With ``keep_strings`` rows carry the strings of those features that ask for it."""
        self.features = tuple(features)
        self.columns: dict[str, Column] = {feature.name: column_of(feature) for feature in features}
        self.layout = xxhash.xxh3_64_hexdigest(msgspec.json.encode([(f.config, f.seed) for f in features]))
        self._seeds = {feature.name: feature.seed for feature in features}
        self._ignore_unknown = ignore_unknown
        self._single = [c for c in self.columns.values() if isinstance(c, OneId)]
        self._dense = [c for c in self.columns.values() if isinstance(c, Dense)]
        self._bags = [c for c in self.columns.values() if isinstance(c, IdBag)]
        by_id: list[OneId | IdBag] = [*self._single, *self._bags]
        self._kept = [column for column in by_id if keep_strings and column.config.keep_strings]
        self._packed: list[PackedColumn] = [*self._single, *self._dense, *self._bags]
        self._presence = -(-len(self._single) // 8)
        self._all_present = ((1 << len(self._single)) - 1).to_bytes(self._presence, "little")
        self._has_bag_data = bool(self._bags or self._kept)
        counts = len(self._bags) + bool(self._kept)
        self._only_integers = len(self._packed) == len(self._single) and all(
            column.config.type == "int" for column in self._single
        )
        widths = sum(c.config.width for c in self._dense)
        self._fixed = struct.Struct(f"<{self._presence}s{len(self._single)}q{widths}d{counts}I")
        self._fixed_type = np.dtype(
            [
                ("presence", "u1", (self._presence,)),
                ("ids", "<i8", (len(self._single),)),
                ("dense", "<f8", (widths,)),
                ("bags", "<u4", (counts,)),
            ]
        )

    @property
    def packed(self) -> Sequence[PackedColumn]:
        """The columns of which something is packed, in the order of the layout."""
        return tuple(self._packed)

    def seed(self, name: str) -> str:
        """The name that seeds the strings of feature ``name``."""
        return self._seeds[name]

    def id_place(self, name: str) -> int:
        """Where in a packed row the id of the single-id feature ``name`` lies."""
        return self._presence + 8 * [column.name for column in self._single].index(name)

    # --- values to packed rows ---------------------------------------------------------------------------------------

    def pack(self, values: Mapping[str, FeatureValue]) -> bytes:
        """The packed row of one sample's feature values.

        Raises EventError, naming the feature, for a value that it does not take, and (unless ignored) for a name that
        is no feature of the job.
        """
        if not self.takes_names(values):
            self._refuse_unknown(values)
        pieces = {column.name: column.pack(values.get(column.name)) for column in self._packed}
        return self._assembled(pieces, [column.texts(values.get(column.name)) for column in self._kept])

    @property
    def keeps_strings(self) -> bool:
        """Whether packed rows carry strings; then every row is made by `pack` or `pack_wire`."""
        return bool(self._kept)

    def takes_names(self, names: Mapping[str, object]) -> bool:
        """Whether an event may have features of these names."""
        return self._ignore_unknown or names.keys() <= self.columns.keys()

    def wire_type(self) -> type[msgspec.Struct]:
        """A struct that msgspec decodes features into, in one pass; whatever it takes, `pack` takes too.

        The converse does not hold: what msgspec refuses must be asked of `pack`, which has the last word.
        """
        names = {f"f{i}": column.name for i, column in enumerate(self._packed)}  # names need not be identifiers
        fields = [(f"f{i}", column.wire, None) for i, column in enumerate(self._packed)]
        return msgspec.defstruct(
            "Features", fields, rename=names, forbid_unknown_fields=not self._ignore_unknown, gc=False
        )

    def pack_wire(self, features: msgspec.Struct) -> bytes:
        """The packed row of a `wire_type`. Raises EventError as `pack` does."""
        values = msgspec.structs.astuple(features)
        if self._only_integers:
            try:
                return self._fixed.pack(self._all_present, *values)
            except struct.error:  # one is missing, or does not fit
                pass
        pieces = {c.name: c.pack(value) for c, value in zip(self._packed, values, strict=True)}
        if not self._kept:
            return self._assembled(pieces, [])
        named = dict(zip((c.name for c in self._packed), values, strict=True))
        return self._assembled(pieces, [column.texts(named[column.name]) for column in self._kept])

    def pack_columns(
        self, before: npt.NDArray[np.uint8], column: Callable[[PackedColumn], PackedPiece]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Ints]:
        """Packed rows of columns: heads (rows, size + head_bytes), all bag data (total,), bytes of each row's (rows,).

        ``before`` (rows, size) is what the heads begin with; ``column`` gives what is packed of one feature.
        """
        pieces = [column(one) for one in self._packed]
        return heads_of(self._fixed_type, before, pieces), *bag_data_of(len(before), pieces)

    def _assembled(self, pieces: Mapping[str, Piece], texts: list[list[str]]) -> bytes:
        ids = [pieces[column.name] for column in self._single]
        present = sum((one is not None) << bit for bit, one in enumerate(ids))
        numbers = [number for column in self._dense for number in pieces[column.name]]
        bags = [pieces[column.name] for column in self._bags]
        counts = [2 * len(of_bag) + bool(weights) for of_bag, weights in bags]
        kept = packed_texts(texts) if self._kept else b""
        if self._kept:
            counts.append(2 * (len(kept) // 8))
        fixed = self._fixed.pack(
            present.to_bytes(self._presence, "little"), *(one or 0 for one in ids), *numbers, *counts
        )
        return fixed + b"".join(struct.pack(f"<{len(i)}q{len(w)}d", *i, *w) for i, w in bags) + kept

    def _pieces(self, row: bytes) -> tuple[dict[str, Piece], dict[str, list[str]]]:
        """What `_assembled` made ``row`` of: by feature what was packed, and the strings of those that are kept."""
        presence, *fixed = self._fixed.unpack_from(row)
        present, words = int.from_bytes(presence, "little"), iter(fixed)
        pieces: dict[str, Piece] = {}
        for bit, single in enumerate(self._single):
            one = next(words)
            pieces[single.name] = one if present >> bit & 1 else None
        for dense in self._dense:
            pieces[dense.name] = [next(words) for _ in range(dense.config.width)]
        at = self._fixed.size
        for bag in self._bags:
            count, weighted = divmod(next(words), 2)
            ids = struct.unpack_from(f"<{count}q", row, at)
            weights = struct.unpack_from(f"<{count * weighted}d", row, at + 8 * count)
            pieces[bag.name] = (list(ids), list(weights))
            at += 8 * count * (1 + weighted)
        texts = unpacked_texts(row[at : at + 4 * next(words)]) if self._kept else []
        return pieces, dict(zip((column.name for column in self._kept), texts, strict=False))

    def repacked(self, row: bytes, old: FeatureSchema) -> bytes:
        """A row of ``old`` as one of this schema: features of the same configuration stay, others count as missing."""
        pieces, texts = old._pieces(row)
        before = {feature.name: _what_is_packed(feature) for feature in old.features}
        same = {f.name for f in self.features if f.name in pieces and _what_is_packed(f) == before[f.name]}
        return self._assembled(
            {c.name: pieces[c.name] if c.name in same else c.absent() for c in self._packed},
            [texts.get(column.name, []) if column.name in same else [] for column in self._kept],
        )

    def _refuse_unknown(self, values: Mapping[str, FeatureValue]) -> None:
        known = clipped(", ".join(sorted(self.columns)), 240)
        for name in values:
            if name not in self.columns:
                raise EventError(
                    "unknown_feature",
                    f"feature {shown(name)} belongs to no table of the job, which has {known}: "
                    f"add it to a table, or set input.unknown_features to ignore",
                )

    # --- packed rows to columns --------------------------------------------------------------------------------------

    @property
    def head_bytes(self) -> int:
        """Length of that part of a packed row which is as long in every row: all but the bags' ids and weights."""
        return self._fixed.size

    def unpack_rows(self, rows: Sequence[bytes], event_time_ms: Ints) -> Columns:
        """The columns of packed rows (n), which are of this layout; ``event_time_ms`` (n,) gives times of day."""
        size = self.head_bytes
        if not self._has_bag_data:
            return self.unpack(b"".join(rows), b"", event_time_ms)
        return self.unpack(b"".join([r[:size] for r in rows]), b"".join([r[size:] for r in rows]), event_time_ms)

    def unpack(self, heads: bytes, bag_data: bytes, event_time_ms: Ints) -> Columns:
        """The same from the rows' heads (`head_bytes` each), one after the other, and what follows the heads."""
        fixed = np.frombuffer(heads, self._fixed_type) if heads else np.zeros(len(event_time_ms), self._fixed_type)
        bags: dict[str, Bag] = {}
        self._unpack_single(fixed, bags)
        if self._bags:
            self._unpack_bags(fixed["bags"], np.frombuffer(bag_data, "<i8"), bags)
        for column in self.columns.values():
            if isinstance(column, TimePart):
                bags[column.name] = _one_each(column.ids(event_time_ms))
        dense, first = {}, 0
        for column in self._dense:
            dense[column.name] = column.column(fixed["dense"][:, first : first + column.config.width])
            first += column.config.width
        return Columns({name: bags[name] for name in self.columns if name in bags}, dense)

    def texts_of(self, heads: bytes, bag_data: bytes) -> dict[str, dict[int, str]]:
        """The strings that rows carry, by feature and id, from the rows' heads and bag data as `unpack` takes them."""
        found: dict[str, dict[int, str]] = {column.name: {} for column in self._kept}
        if not self._kept or not heads:
            return found
        counts = np.frombuffer(heads, self._fixed_type)["bags"].astype(np.int64)
        words = (counts >> 1) * (1 + (counts & 1))
        ends = 8 * np.cumsum(words.sum(axis=1))
        for end, length in zip(ends.tolist(), (8 * words[:, -1]).tolist(), strict=True):
            for column, texts in zip(self._kept, unpacked_texts(bag_data[end - length : end]), strict=False):
                found[column.name].update((column.id(text), text) for text in texts)
        return found

    def _unpack_single(self, fixed: np.ndarray, bags: dict[str, Bag]) -> None:
        by_feature = np.ascontiguousarray(fixed["ids"].T)
        present = np.unpackbits(fixed["presence"], axis=1, count=len(self._single), bitorder="little")
        everywhere: list[bool] = np.asarray(present.all(axis=0)).tolist()
        ones = np.ones(len(fixed), np.int32)
        for i, column in enumerate(self._single):
            if everywhere[i]:
                bags[column.name] = Bag(by_feature[i], ones)
            else:
                has = present[:, i]
                bags[column.name] = Bag(by_feature[i][has.view(np.bool_)], has.astype(np.int32))

    def _unpack_bags(self, heads: np.ndarray, data: Ints, bags: dict[str, Bag]) -> None:
        """``heads`` (n, bags) as packed; ``data``: the words of all rows, in order."""
        counts, weighted = (heads >> 1).astype(np.int64), (heads & 1).astype(np.int64)
        words = counts * (1 + weighted)
        starts = (np.cumsum(words.ravel()) - words.ravel()).reshape(words.shape)
        for i, column in enumerate(self._bags):
            lengths = counts[:, i]
            places = spans(starts[:, i], lengths)
            weights = None
            if weighted[:, i].any():
                weights = np.ones(len(places), np.float32)
                has = np.repeat(weighted[:, i].astype(bool), lengths)
                weights[has] = data[(places + np.repeat(lengths, lengths))[has]].view(np.float64)
            bags[column.name] = Bag(data[places], lengths.astype(np.int32), weights)

    def columns_of(self, samples: Sequence[Mapping[str, FeatureValue]], event_time_ms: Ints, first: int = 0) -> Columns:
        """The columns of feature values. Raises EventError as `pack` does; the first sample has number ``first``."""
        rows = []
        for number, sample in enumerate(samples, first):
            try:
                rows.append(self.pack(sample))
            except EventError as error:
                raise EventError(error.reason, f"sample {number}: {error.detail}") from None
        return self.unpack_rows(rows, event_time_ms)

    def ids_of(self, feature: str, values: Sequence[FeatureValue]) -> Ints:
        """One id (n,) a value of a feature that gives ids; of a bag, the id of each element. Raises EventError."""
        column = self.columns[feature]
        if isinstance(column, TimePart):
            return np.array(values, np.int64)
        assert not isinstance(column, Dense)
        return np.array([column.id(value) for value in values], np.int64)

    def groups(self, columns: Columns, feature: str, samples: int) -> Ints:
        """The id of ``feature`` in each sample, NO_GROUP where a sample or the job has none.

        The one id of all missing values is none either: samples of unknown users are not those of one user.
        """
        bag, column = columns.bags.get(feature), self.columns.get(feature)
        groups = np.full(samples, NO_GROUP, np.int64)
        if bag is None or not isinstance(column, OneId):
            return groups
        missing = column.absent()
        groups[bag.lengths == 1] = bag.ids if missing is None else np.where(bag.ids == missing, NO_GROUP, bag.ids)
        return groups


def _what_is_packed(feature: CardFeature) -> tuple[object, str]:
    """What makes a feature's packed values another's: all its settings but whether strings are kept beside them."""
    return msgspec.structs.replace(feature.config, keep_strings=False), feature.seed


def _one_each(ids: Ints) -> Bag:
    return Bag(ids, np.ones(len(ids), np.int32))


def is_salted(table: TableConfig) -> bool:
    """Whether the table keeps equal ids of its features apart."""
    return table.kind == "unified" or (len(table.feature_names()) > 1 and not table.shared_ids)


def card_features(job: JobConfig) -> list[CardFeature]:
    """The job's features: those that tables read, in table order, then the dense ones, as declared."""
    readers: dict[str, list[TableConfig]] = {}
    for table in job.tables:
        for name in table.feature_names():
            readers.setdefault(name, []).append(table)
    dense = [feature.name for feature in job.features if feature.name not in readers]
    seeds = _seeds(job.tables)
    return [
        CardFeature(config=job.feature(name), seed=seeds.get(name, name), reads=_reads(name, readers.get(name, [])))
        for name in [*readers, *dense]
    ]


def _reads(name: str, tables: Sequence[TableConfig]) -> list[Read]:
    return [
        Read(
            table=table.name,
            output=name if len(tables) == 1 else f"{name}@{table.name}",
            pooling=table.pooling,
            salted=is_salted(table),
        )
        for table in tables
    ]


def _seeds(tables: Sequence[TableConfig]) -> dict[str, str]:
    """Feature -> the name that seeds its strings: that of the table in which it shares ids with others, else its own.

    Features that share ids in one table and again in another have one seed, that of the first such table.
    """
    seeds: dict[str, str] = {}
    for table in tables:
        names = table.feature_names()
        if not table.shared_ids or len(names) == 1:
            continue
        taken = Counter(seeds[name] for name in names if name in seeds)
        seed = next(iter(taken), table.name)
        joined = set(taken)
        seeds = {name: seed if old in joined else old for name, old in seeds.items()}
        seeds |= dict.fromkeys(names, seed)
    return seeds
