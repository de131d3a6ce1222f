"""The records of an LMDB store, read and written within one transaction.

Three databases (``docs/formats.md`` has the bytes):

meta   ``head``, ``card``, ``graph``, ``dense``, ``log`` (its index), ``next_card``, ``next_graph``: each sealed
rows   u32 number of the table, big-endian, and the row's key -> the row; the number counts the sorted table names
log    sequence, u64 big-endian -> the encoded delta
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from monolith.card import ModelCard
from monolith.errors import CorruptError, UnavailableError
from monolith.serving import ledger
from monolith.serving.content import Content, Contents, of_stored
from monolith.serving.ledger import Head, LogEntry, LogLimits
from monolith.serving.lmdb_env import Environment
from monolith.serving.packed import PackedDelta, PackedTable
from monolith.serving.payload import Packed
from monolith.serving.rows import KEY_BYTES, in_key_order, pack_keys, pack_rows, unpack_keys, unpack_rows
from monolith.serving.store import Found, Ids, Model, Values, scatter
from monolith.serving.wire import PublishedDelta, decode

CHUNK_ROWS = 65_536
_NUMBER_BYTES = 4


class Transaction:
    """One LMDB transaction with the store's meaning. Not for use after it ends."""

    def __init__(self, environment: Environment, txn: Any, where: str) -> None:
        self._environment = environment
        self._txn = txn
        self._where = where

    # --- single records ---

    def get(self, name: str) -> bytes | None:
        """A record of ``meta``, still sealed."""
        data: bytes | None = self._txn.get(name.encode(), db=self._environment.meta)
        return data

    def put(self, name: str, sealed: bytes) -> None:
        """Replace a record of ``meta``."""
        self._txn.put(name.encode(), sealed, db=self._environment.meta)

    def head(self) -> Head:
        """The head, an empty one in an empty store."""
        return ledger.unseal_head(self.get("head"), self._where)

    def card(self, name: str = "card") -> ModelCard | None:
        """The card of what is held, or ``next_card``: that of a trainer which has published nothing yet."""
        data = self.get(name)
        return None if data is None else ledger.unseal_card(data, self._where)

    def model(self) -> Model:
        """Everything but the rows. Raises UnavailableError in an empty store."""
        head, card = self.head(), self.card()
        if card is None or head.version.sequence == 0:
            raise UnavailableError(f"{self._where} holds no model yet: wait for the trainer's first delta")
        return Model(head.version, card, self._blob("graph"), self._blob("dense"))

    def _blob(self, name: str) -> bytes:
        data = self.get(name)
        if data is None:
            raise CorruptError(f"{self._where} has lost its {name}: empty the store, restart the trainer")
        return ledger.unseal(data, f"the {name} of {self._where}")

    def promote(self) -> None:
        """Make the last take-over's card and graph those of what is held."""
        for name in ("card", "graph"):
            staged = self._txn.pop(f"next_{name}".encode(), db=self._environment.meta)
            if staged is not None:
                self.put(name, staged)

    # --- rows ---

    def write_rows(self, delta: PackedDelta, before: Contents | None) -> Contents | None:
        """Put the delta's rows and take its removed ids away; an image empties everything first.

        Returns what the tables hold then; ``before`` is what they held, None where nobody knows.
        """
        if delta.base_sequence == 0:
            return self.write_image(delta.tables, _pieces(delta))
        moves = {name: self._write_table(n, delta.tables[name]) for n, name in enumerate(sorted(delta.tables))}
        return None if before is None else {name: before[name] + move for name, move in moves.items()}

    def write_image(self, names: Iterable[str], rows: Iterable[tuple[str, Ids, Packed]]) -> Contents:
        """Put ``rows``, pieces by table in order of names and of keys, in the place of all that is there."""
        self._txn.drop(self._environment.rows, delete=False)
        numbers = {name: number for number, name in enumerate(sorted(names))}
        contents = dict.fromkeys(numbers, Content())
        for name, ids, packed in rows:
            contents[name] += self._write_piece(numbers[name], ids, packed, image=True)
        return contents

    def _write_table(self, number: int, table: PackedTable) -> Content:
        """By how much the table's content changes. In pieces: every row is a Python object on its way to LMDB."""
        move = Content()
        for part in in_key_order(table.ids, CHUNK_ROWS):
            move += self._write_piece(number, table.ids[part], table.packed[part], image=False)
        for start in range(0, len(table.removed), CHUNK_ROWS):
            keys = _keys(number, table.removed[start : start + CHUNK_ROWS])
            popped = [self._txn.pop(key, db=self._environment.rows) for key in keys]
            move = move - of_stored([row for row in popped if row is not None])
        return move

    def _write_piece(self, number: int, ids: Ids, packed: Packed, *, image: bool) -> Content:
        keys, stored = _keys(number, ids), pack_rows(ids, packed)
        with self._txn.cursor(db=self._environment.rows) as cursor:
            replaced = [] if image else [row for _, row in cursor.getmulti(keys)]
            cursor.putmulti(zip(keys, stored, strict=True), append=image)
        return of_stored(stored) - of_stored(replaced)

    def fault(self, head: Head) -> str | None:
        """Why the rows are not those that the head tells of. LMDB counts all tables' rows together, at no cost."""
        if head.contents is None:
            return None
        told = sum(content.rows for content in head.contents.values())
        seen = self._txn.stat(self._environment.rows)["entries"]
        if seen == told:
            return None
        return f"{self._where} has {seen} rows, its head tells of {told}: the trainer sends an image when it looks"

    def read(self, head: Head, table: str, ids: Ids) -> tuple[Values, Found]:
        """Values (n, dim), zeros for absent ids, and which were found (n,)."""
        form = head.row_format(table, self._where)
        keys = _keys(sorted(head.tables).index(table), ids)
        stored = [self._txn.get(key, db=self._environment.rows) for key in keys]
        found = np.fromiter((row is not None for row in stored), np.bool_, len(stored))
        present = [row for row in stored if row is not None]
        packed = unpack_rows(ids[found], present, form, self._place(table))
        return scatter(ids, found, form.unpack(packed)), found

    def chunks(self, head: Head, table: str) -> Iterator[tuple[Ids, Packed]]:
        """Every row of a table in key order, ``CHUNK_ROWS`` at a time."""
        for ids, packed, _ in self._stored_chunks(head, table):
            yield ids, packed

    def _stored_chunks(self, head: Head, table: str) -> Iterator[tuple[Ids, Packed, list[bytes]]]:
        """The same, and behind each chunk its rows as they are stored, whose checksums were found right."""
        form = head.row_format(table, self._where)
        prefix = _prefix(sorted(head.tables).index(table))
        with self._txn.cursor(db=self._environment.rows) as cursor:
            items = _items_below(cursor, prefix)
            while chunk := list(islice(items, CHUNK_ROWS)):
                stored = [row for _, row in chunk]
                ids = unpack_keys([key[_NUMBER_BYTES:] for key, _ in chunk], self._place(table))
                yield ids, unpack_rows(ids, stored, form, self._place(table)), stored

    def all_rows(self, head: Head) -> dict[str, PackedTable]:
        """Every table's rows as an image. Raises CorruptError when they are not those that the head tells of."""
        tables, contents = {}, {}
        for name in head.tables:
            tables[name], contents[name] = self._table_image(head, name)
        seen = sum(len(table.ids) for table in tables.values())
        kept = self._txn.stat(self._environment.rows)["entries"]
        if seen != kept:
            raise CorruptError(f"{self._where} keeps {kept} rows, {seen} can be read: empty it, restart the trainer")
        ledger.check_contents(contents, head, self._where)
        return tables

    def _table_image(self, head: Head, table: str) -> tuple[PackedTable, Content]:
        form = head.row_format(table, self._where)
        chunks, content = [], Content()
        for ids, packed, stored in self._stored_chunks(head, table):
            chunks.append((ids, packed))
            content += of_stored(stored)
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in chunks)])
        packed = np.concatenate([np.zeros((0, form.width), np.uint8), *(packed for _, packed in chunks)])
        order = np.argsort(ids, kind="stable")
        none = np.zeros(0, np.int64)
        return PackedTable(0, head.version.sequence, ids[order], packed[order], none, form), content

    def _place(self, table: str) -> str:
        return f"{self._where}, table {table!r}"

    # --- the delta log ---

    def log_index(self) -> list[LogEntry]:
        """What the log holds, oldest first."""
        data = self.get("log")
        return [] if data is None else ledger.unseal_json(data, list[LogEntry], f"the log index of {self._where}")

    def append(self, delta: PackedDelta, data: bytes, limits: LogLimits) -> None:
        """Put an encoded delta at the log's end and let old ones go; an image starts an empty log instead."""
        log = self._environment.log
        if delta.base_sequence == 0:
            self._txn.drop(log, delete=False)
            self.put("log", ledger.seal_json([]))
            return
        before = [*self.log_index(), LogEntry(delta.base_sequence, delta.sequence, len(data))]
        kept = ledger.trimmed(before, limits)
        self._txn.put(_sequence_key(delta.sequence), data, db=log)
        for entry in before[: len(before) - len(kept)]:
            self._txn.delete(_sequence_key(entry.sequence), db=log)
        self.put("log", ledger.seal_json(kept))

    def logged_after(self, sequence: int, limit: int) -> list[PublishedDelta]:
        """The log's first ``limit`` deltas beyond ``sequence``."""
        with self._txn.cursor(db=self._environment.log) as cursor:
            if not cursor.set_range(_sequence_key(sequence + 1)):
                return []
            return [
                decode(data, f"{self._where}, log entry {int.from_bytes(key, 'big')}")
                for key, data in islice(cursor.iternext(), limit)
            ]


def _pieces(image: PackedDelta) -> Iterator[tuple[str, Ids, Packed]]:
    for name in sorted(image.tables):
        table = image.tables[name]
        for part in in_key_order(table.ids, CHUNK_ROWS):
            yield name, table.ids[part], table.packed[part]


def _prefix(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _keys(number: int, ids: Ids) -> list[bytes]:
    prefix = _prefix(number)
    return [prefix + key for key in pack_keys(ids)]


def _sequence_key(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def _items_below(cursor: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Items whose key starts with ``prefix``. A key of another size ends up with its check, not here."""
    if not cursor.set_range(prefix):
        return
    for key, row in cursor.iternext():
        if not key.startswith(prefix) or len(key) < _NUMBER_BYTES + KEY_BYTES - 1:
            return
        yield key, row
