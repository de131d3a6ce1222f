"""``kind: cafe`` on ranks: each rank knows of all ids which are hot, and the rows are divided by their numbers.

What an id's score gains is known where its sample is. In every step that is scored each rank tells all others, and all
add it in the order of the global batch: so every rank's index is the one that a single process would have, and so are
the rows that change hands. A newcomer's values go from the owner of the row that it shared to that of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError
from monolith.tables import _core
from monolith.tables.buckets import union
from monolith.tables.hot_index import HotIndex, Newcomers
from monolith.tables.split import buckets_of
from monolith.tables.tail import tail_numbers
from monolith.training.sharding.answers import OwnPart
from monolith.training.sharding.division import Division
from monolith.training.sharding.messages import MessageReader, as_ints
from monolith.training.sharding.questions import TableQuestion
from monolith.training.sharding.transport import Transport

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


_NONE = np.zeros(0, np.int64)


@dataclass
class HotTable:
    """One of a collection's."""

    number: int  # in the collection
    division: Division
    index: HotIndex
    column: int  # of a matrix of all vectors: the table's first
    unwritten: Ints = field(default_factory=lambda: _NONE)  # numbers of rows that are to get their newcomers' values

    @property
    def name(self) -> str:
        """The table's."""
        return self.division.native.table.name

    def told(self, question: TableQuestion, grads: Floats, shared_by: int) -> list[Ints]:
        """How many ids each feature has in this rank's samples; the ids; and what their scores gain."""
        dim, mean = self.division.config.dim, self.division.native.table.pooling == "mean"
        ids, amounts = [], []
        for k, (name, bag) in enumerate(zip(self.division.names, question.bags, strict=True)):
            begin = self.column + k * dim
            own = grads[:, begin : begin + dim]
            own = own if shared_by == 1 else own / np.float32(shared_by)
            ids.append(self.division.native.salted(name, bag.ids))
            amounts.append(self.index.amounts(bag, own, mean=mean))
        counts = np.array([len(each) for each in ids], np.int64)
        return [counts, *ids, as_ints(np.concatenate(amounts))]

    def hear(self, everyones: Sequence[MessageReader]) -> None:
        """Add what all ranks told: by feature, then rank, then position."""
        features = len(self.division.names)
        heard = []
        for reader in everyones:
            counts = reader.ints(features)
            ids, amounts = reader.ints(int(counts.sum())), reader.floats(int(counts.sum()))
            cuts = np.cumsum(counts)[:-1]
            heard.append(list(zip(np.split(ids, cuts), np.split(amounts, cuts), strict=True)))
        for feature in range(features):
            for rank in heard:
                ids, amounts = rank[feature]
                self.index.add(np.ascontiguousarray(ids), np.ascontiguousarray(amounts))

    # --- for ranks that are left when another one is lost -------------------------------------------------------------

    def left(self) -> bytes:
        """What ``take_left`` needs beside the rank's rows."""
        return msgspec.msgpack.encode((self.index.kept(), self.unwritten.tolist()))

    def take_left(self, data: bytes, where: str) -> None:
        """Be what ``left`` said. Raises CorruptError, naming ``where``."""
        try:
            kept, unwritten = msgspec.msgpack.decode(data, type=tuple[bytes, list[int]])
        except msgspec.DecodeError as error:
            raise CorruptError(f"{where} cannot be read: {error}") from None
        self.index.keep(kept, where)
        self.unwritten = np.array(unwritten, np.int64)


def hot_tables_of(divisions: Sequence[Division]) -> list[HotTable]:
    """Those of a collection, with their columns."""
    found, column, before = [], 0, None
    for number, division in enumerate(divisions):
        table = division.native.table
        if division.native.index is not None:
            found.append(HotTable(number, division, division.native.index, column))
        if table.name != before:
            column += sum(map(table.vector_width, table.feature_names()))
        before = table.name
    return found


def end_step(
    transport: Transport,
    hot_tables: Sequence[HotTable],
    parts: Sequence[OwnPart],
    questions: Sequence[TableQuestion],
    grads: Floats,
    shared_by: int,
) -> None:
    """The rows took a step: scores grow and decay, and rows change hands. Collective, if there is such a table.

    ``grads`` (batch, all dims) are those of this rank's vectors, each divided by ``shared_by``.
    """
    if scored := [hot for hot in hot_tables if hot.index.scores]:
        told = [piece for hot in scored for piece in hot.told(questions[hot.number], grads, shared_by)]
        everyones = _to_all(transport, told)
        for hot in scored:
            hot.hear(everyones)
    moves = []
    for hot in hot_tables:
        sequence = next(part.table.sequence for part in parts if part.number == hot.number)
        if (newcomers := hot.index.end_step(sequence)) is not None:
            moves.append((hot, newcomers))
    if moves:
        _start_rows(transport, parts, moves)


def _start_rows(transport: Transport, parts: Sequence[OwnPart], moves: Sequence[tuple[HotTable, Newcomers]]) -> None:
    """Have newcomers' rows start with the values of those that they shared. Collective."""
    owns = [([part for part in parts if part.number == hot.number], newcomers) for hot, newcomers in moves]
    for hot, newcomers in moves:
        hot.unwritten = newcomers.numbers
    everyones = _to_all(transport, [piece for own, newcomers in owns for piece in _values_here(own, newcomers)])
    for own, newcomers in owns:
        _write(own, newcomers, everyones)
    for hot, _ in moves:
        hot.unwritten = _NONE


def _to_all(transport: Transport, pieces: Sequence[Ints]) -> list[MessageReader]:
    message = np.concatenate(pieces)
    return [MessageReader(each) for each in transport.send([message] * transport.ranks).wait()]


def _values_here(parts: Sequence[OwnPart], newcomers: Newcomers) -> list[Ints]:
    """Of the rows that newcomers shared, those in ``parts``: how many, which, and their values."""
    places, values = [], []
    for part in parts:
        here = np.flatnonzero(part.table.buckets.mask()[buckets_of(newcomers.shared)])
        places.append(here)
        values.append(part.table.lookup(newcomers.shared[here]))
    count = np.array([sum(map(len, places))], np.int64)
    return [count, *places, as_ints(np.concatenate(values))]


def _write(parts: Sequence[OwnPart], newcomers: Newcomers, everyones: Sequence[MessageReader]) -> None:
    dim = parts[0].division.config.dim
    values = np.empty((len(newcomers.numbers), dim), np.float32)
    for reader in everyones:
        places = reader.ints(int(reader.ints(1)[0]))
        values[places] = reader.floats(len(places) * dim).reshape(-1, dim)
    for part in parts:
        here = part.table.buckets.mask()[buckets_of(newcomers.numbers)]
        if here.any():
            _core.write_rows(part.table.native, newcomers.numbers[here], np.ascontiguousarray(values[here]))


def agree(transport: Transport, hot_tables: Sequence[HotTable], parts: Sequence[OwnPart]) -> None:
    """Have all ranks take the newest index, where their rows are of several moments. Collective.

    An id that had not got its row yet when the part with the row was left starts again from the row that it shares.
    """
    for hot in hot_tables:
        before = dict(zip(*(each.tolist() for each in reversed(hot.index.own_ids())), strict=True))
        everyones = cast("list[tuple[int, bytes]]", transport.objects((hot.index.steps, hot.index.kept())))
        newest = max(range(len(everyones)), key=lambda rank: (everyones[rank][0], -rank))
        hot.index.keep(everyones[newest][1], f"rank {newest}'s index of table {hot.name!r}")
        ids, numbers = hot.index.own_ids()
        other = np.array(
            [before.get(number) != one for one, number in zip(ids.tolist(), numbers.tolist(), strict=True)]
        )
        own = union(part.table.buckets for part in parts if part.number == hot.number)
        here = own.mask()[buckets_of(numbers)]
        stale = numbers[here & (other.astype(bool) | np.isin(numbers, hot.unwritten))]
        all_stale = np.isin(numbers, np.concatenate(cast("list[Ints]", transport.objects(stale))))
        shared = tail_numbers(ids[all_stale], hot.index.kind.rows)
        if len(shared):
            _start_rows(transport, parts, [(hot, Newcomers(numbers[all_stale], shared))])
        hot.unwritten = _NONE
