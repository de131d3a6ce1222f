"""A delta that several processes hand in, each the buckets that it has: *parts*, staged where no replica looks.

Whoever took the store over begins an *attempt* (``Store.begin``) and gives its ticket to all; each stages one part and
gives back a receipt; with the receipts of all, the delta is committed in the atomic step in which one process's delta
becomes visible, and leaves the same bytes. Rows lie under the attempt's name, which none had before, so what a dead
attempt left is in no later delta.

A part is cut into *pieces*: for each table, by name, its rows in the order of their keys, then its removed ids. A piece
is a published delta (``wire``) with some rows of one table.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import xxhash

from monolith.errors import InputError
from monolith.serving import ledger
from monolith.serving.content import Content, Contents, of_rows
from monolith.serving.ledger import Cards, Head, Writer
from monolith.serving.packed import PackedDelta, PackedTable, pack_table, published
from monolith.serving.payload import RowFormat
from monolith.serving.rows import in_key_order
from monolith.serving.wire import PublishedDelta, encode
from monolith.tables.buckets import Buckets
from monolith.tables.delta import Delta, ModelDelta

PIECE_ROWS = 65_536  # of all parts together: a commit has a piece of each in memory
LEAST_PIECE_ROWS = 1_024
CHECKSUM = slice(16, 24)  # where a published delta has it
_NONE = np.zeros(0, np.int64)


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: what whoever stages a part of it must know. It travels between processes as it is."""

    attempt: str
    generation: int
    lineage: str
    payload: str
    tables: dict[str, int]  # name -> dim
    base_sequence: int
    sequence: int
    parts: int  # that are expected, numbered from 0

    @property
    def is_image(self) -> bool:
        """Whether the parts hold every row."""
        return self.base_sequence == 0


class StagedTable(msgspec.Struct, frozen=True, array_like=True):
    """What a part has of one table."""

    written: Content
    removed: int
    buckets: list[tuple[int, int]]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was staged of one part: a commit takes exactly this. It travels between processes as it is."""

    attempt: str
    part: int
    pieces: int
    digest: int  # of the checksums of all pieces
    tables: dict[str, StagedTable]


class Part:
    """One part, to be staged. Raises InputError where it is not of the ticket's delta."""

    def __init__(self, ticket: Ticket, number: int, tables: Mapping[str, Delta]) -> None:
        self._ticket, self.number = ticket, number
        self._tables = dict(sorted(published(tables)))
        if problem := self._problem():
            raise InputError(f"part {number} of delta {ticket.sequence} {problem}; nothing of it was staged")
        self._written = dict.fromkeys(self._tables, Content())
        self._pieces = 0
        self._digest = xxhash.xxh3_64()

    def tables(self) -> Iterator[tuple[str, PackedTable]]:
        """The pieces. All have to be taken before the receipt is asked for."""
        rows = max(LEAST_PIECE_ROWS, PIECE_ROWS // self._ticket.parts)
        for name, table in self._tables.items():
            for some in in_key_order(table.ids, rows):
                piece = replace(table, ids=table.ids[some], values=table.values[some], removed=_NONE, tail=None)
                packed = pack_table(name, piece, self._ticket.payload)
                self._written[name] += of_rows(packed.ids, packed.packed)
                yield name, packed
            for start in range(0, len(table.removed), rows):
                gone = table.removed[start : start + rows]
                piece = replace(table, ids=_NONE, values=table.values[:0], removed=gone, tail=None)
                yield name, pack_table(name, piece, self._ticket.payload)

    def encoded(self) -> Iterator[bytes]:
        """The bytes of the pieces."""
        for name, table in self.tables():
            data = encode(PublishedDelta(self._ticket.generation, self._ticket.lineage, 0, self._piece(name, table)))
            self._pieces += 1
            self._digest.update(data[CHECKSUM])
            yield data

    def receipt(self) -> Receipt:
        """What was staged, once it is."""
        tables = {
            name: StagedTable(self._written[name], len(table.removed), [*table.buckets.ranges])
            for name, table in self._tables.items()
        }
        return Receipt(
            attempt=self._ticket.attempt,
            part=self.number,
            pieces=self._pieces,
            digest=self._digest.intdigest(),
            tables=tables,
        )

    def _piece(self, name: str, table: PackedTable) -> PackedDelta:
        ticket = self._ticket
        return PackedDelta(ticket.base_sequence, ticket.sequence, 0, 0, {name: table}, b"", _NONE, ticket.payload)

    def _problem(self) -> str | None:
        ticket = self._ticket
        if not 0 <= self.number < ticket.parts:
            return f"does not exist: there are parts 0 to {ticket.parts - 1}"
        if (names := sorted(self._tables)) != sorted(ticket.tables):
            return f"has tables {names}, the model has {sorted(ticket.tables)}"
        for name, table in self._tables.items():
            if table.values.shape != (len(table.ids), ticket.tables[name]):
                return (
                    f"has {len(table.ids)} ids for values of shape {table.values.shape} of table {name!r}, whose dim "
                    f"is {ticket.tables[name]}"
                )
            if (span := (table.base_sequence, table.sequence)) != (ticket.base_sequence, ticket.sequence):
                return f"has sequences {span} in table {name!r}, not {(ticket.base_sequence, ticket.sequence)}"
        return None


def begun(head: Head, writer: Writer, cards: Cards, span: tuple[int, int], parts: int, where: str) -> Ticket | None:
    """A new attempt at the delta over the sequences ``span``; None: it is known already. Raises as ``Store.begin``."""
    base, sequence = span
    if parts < 1 or not 0 <= base < sequence:
        raise InputError(f"delta {sequence} from {base} in {parts} parts: give 0 <= base < sequence and 1 part or more")
    card = ledger.check_writer(head, writer, cards, where)
    ledger.check_lineage(card, writer.lineage, sequence)
    if not ledger.follows(ledger.held_sequence(head, cards.held, card), base, sequence, where):
        return None
    return Ticket(
        attempt=f"{writer.owner}.{secrets.token_hex(4)}",
        generation=writer.generation,
        lineage=writer.lineage,
        payload=card.payload,
        tables=card.tables,
        base_sequence=base,
        sequence=sequence,
        parts=parts,
    )


def check_whole(ticket: Ticket, receipts: Sequence[Receipt]) -> None:
    """Raise InputError unless ``receipts`` are of all parts, and these together of all buckets of each table."""
    what = f"delta {ticket.sequence}"
    if strange := [receipt.part for receipt in receipts if receipt.attempt != ticket.attempt]:
        raise InputError(f"{what}: the receipt of part {strange[0]} is of another attempt; nothing was written")
    if (seen := sorted(receipt.part for receipt in receipts)) != list(range(ticket.parts)):
        raise InputError(f"{what} has receipts of parts {seen}, not of 0 to {ticket.parts - 1}; nothing was written")
    for name in ticket.tables:
        try:
            buckets = Buckets.of(*(each for receipt in receipts for each in receipt.tables[name].buckets))
        except InputError as error:
            raise InputError(f"{what}, table {name!r}: two parts have the same buckets: {error}") from None
        if not buckets.all:
            raise InputError(f"{what}, table {name!r}: the parts have {buckets}, not all; nothing was written")


def contents_of(ticket: Ticket, receipts: Sequence[Receipt]) -> Contents:
    """What the rows of all parts come to."""
    return {name: sum((each.tables[name].written for each in receipts), Content()) for name in ticket.tables}


def without_rows(ticket: Ticket, delta: ModelDelta) -> PackedDelta:
    """The ticket's delta, as ``delta`` says all but its tables, with no row yet. Raises InputError if it is another."""
    if (span := (delta.base_sequence, delta.sequence)) != (ticket.base_sequence, ticket.sequence):
        raise InputError(
            f"the delta goes over sequences {span}, its parts over {(ticket.base_sequence, ticket.sequence)}: commit "
            f"what was staged"
        )
    tables = {}
    for name, dim in ticket.tables.items():
        form = RowFormat(ticket.payload, dim)
        rows = np.zeros((0, form.width), np.uint8)
        tables[name] = PackedTable(delta.base_sequence, delta.sequence, _NONE, rows, _NONE, form)
    return PackedDelta(
        delta.base_sequence,
        delta.sequence,
        delta.step,
        delta.watermark_ms,
        tables,
        delta.dense,
        delta.ingested_ms,
        ticket.payload,
        delta.digest,
    )
