"""Parts of a delta on their way into a Redis store.

Rows of an image go where one process's image waits, ``stage:ATTEMPT:TABLE``, and never pass whoever commits. The pieces
of a delta's parts are fields ``PART.PIECE`` of the hash ``stage:ATTEMPT``. ``attempt`` is the ticket of the newest
attempt, so that the next one knows what it left; without a next one it expires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from monolith.errors import CorruptError, UnavailableError
from monolith.serving import ledger
from monolith.serving.packed import PackedTable
from monolith.serving.redis_link import Keys, translated
from monolith.serving.rows import pack_keys, pack_rows
from monolith.serving.staged import StagedPart
from monolith.serving.staging import Part, Receipt, Ticket
from monolith.tables.delta import Delta

CHUNK_ROWS = 1_000  # a command
COMMANDS_AT_ONCE = 16  # on their way in
PIECES_AT_ONCE = 16  # likewise, and on their way back
STAGE_TTL_S = 3600


class StagedKeys:
    """One store's. Any process that reaches the server may call it."""

    def __init__(self, client: Any, keys: Keys, where: str) -> None:
        self._redis = client
        self._keys = keys
        self._where = where

    # --- attempts: within a transaction ---

    def left(self, sealed: bytes | None) -> list[str]:
        """The keys that the newest attempt may have left, by the record ``attempt``."""
        if sealed is None:
            return []
        keys = [self._keys.of("attempt")]
        with suppress(CorruptError):  # what it left expires
            keys += self.of(ledger.unseal_json(sealed, Ticket, f"the attempt of {self._where}"))
        return keys

    def of(self, ticket: Ticket) -> list[str]:
        """The keys of an attempt."""
        pieces = self._keys.of(f"stage:{ticket.attempt}")
        return [pieces, *(self._keys.stage(ticket.attempt, name) for name in ticket.tables)]

    def queue_begin(self, pipe: Any, ticket: Ticket, left: Sequence[str]) -> None:
        """Queue that ``ticket`` is the newest attempt, and that what the last one left goes."""
        self.queue_sweep(pipe, left)
        pipe.set(self._keys.of("attempt"), ledger.seal_json(ticket), ex=STAGE_TTL_S)

    def queue_sweep(self, pipe: Any, left: Sequence[str]) -> None:
        """Queue that the keys of an attempt go."""
        if left:
            pipe.unlink(*left)

    # --- parts ---

    def stage(self, ticket: Ticket, number: int, tables: Mapping[str, Delta]) -> Receipt:
        """See ``Store.stage``."""
        part = Part(ticket, number, tables)
        with translated(self._where):
            if ticket.is_image:
                for name, table in part.tables():
                    self.stage_rows(self._keys.stage(ticket.attempt, name), table)
            else:
                self._stage_pieces(self._keys.of(f"stage:{ticket.attempt}"), part)
        return part.receipt()

    def stage_rows(self, key: str, table: PackedTable) -> None:
        """Several commands travel at a time: a round trip costs as much as a command where the cores are busy."""
        self._send(key, row_commands(key, table), COMMANDS_AT_ONCE)

    def _stage_pieces(self, key: str, part: Part) -> None:
        named = enumerate(part.encoded())
        commands = (["HSET", key, f"{part.number}.{number}", piece] for number, piece in named)
        self._send(key, commands, PIECES_AT_ONCE)

    def _send(self, key: str, commands: Iterator[list[Any]], at_once: int) -> None:
        while some := list(islice(commands, at_once)):
            with self._redis.pipeline(transaction=False) as pipe:
                for command in some:
                    pipe.execute_command(*command)
                pipe.expire(key, STAGE_TTL_S)
                pipe.execute()

    def part(self, ticket: Ticket, receipt: Receipt) -> StagedPart:
        """A part of a delta, to be read. Reading it raises UnavailableError where it is not there any more."""
        return StagedPart(ticket, receipt, self._pieces(ticket, receipt), self._where)

    def _pieces(self, ticket: Ticket, receipt: Receipt) -> Iterator[bytes]:
        key = self._keys.of(f"stage:{ticket.attempt}")
        for start in range(0, receipt.pieces, PIECES_AT_ONCE):
            numbers = range(start, min(start + PIECES_AT_ONCE, receipt.pieces))
            with translated(self._where):
                pieces = self._redis.hmget(key, [f"{receipt.part}.{number}" for number in numbers])
            if None in pieces:
                raise UnavailableError(
                    f"{self._where} lost a piece of part {receipt.part} of delta {ticket.sequence}, or another attempt "
                    f"began; nothing was written, try again"
                )
            yield from pieces


def row_commands(key: str, table: PackedTable) -> Iterator[list[Any]]:
    """HSET commands for all of a table's rows."""
    for start in range(0, len(table.ids), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        command: list[Any] = ["HSET", key]
        pairs = zip(pack_keys(table.ids[chunk]), pack_rows(table.ids[chunk], table.packed[chunk]), strict=True)
        for pair in pairs:
            command.extend(pair)
        yield command
