"""Parts of a delta on their way into an LMDB store: files in its folder, ``staged/ATTEMPT/PART``.

A file is the part's pieces, each behind its length (u64, little-endian). It gets its name when it is whole, and is
never synced: what counts is the transaction that takes the rows over, and after a power cut the attempt is dead.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from monolith.errors import UnavailableError
from monolith.serving.lmdb_env import translated
from monolith.serving.staged import StagedPart
from monolith.serving.staging import Part, Receipt, Ticket
from monolith.tables.delta import Delta

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<Q")


class StagedFiles:
    """One store's. Any process that has the folder may call it."""

    def __init__(self, directory: Path, where: str) -> None:
        self._folder = directory / "staged"
        self._where = where

    def begin(self, ticket: Ticket) -> None:
        """Have room for an attempt; what earlier ones left goes."""
        self.sweep()
        with translated(self._where):
            (self._folder / ticket.attempt).mkdir(parents=True)

    def sweep(self) -> None:
        """Remove what attempts left. Who still stages for one of them gets UnavailableError."""
        with translated(self._where):
            attempts = [*self._folder.iterdir()] if self._folder.exists() else []
        for left in attempts:
            log.info("removing what an attempt to publish left attempt=%s store=%s", left.name, self._where)
            shutil.rmtree(left, ignore_errors=True)

    def remove(self, ticket: Ticket) -> None:
        """The attempt is over."""
        shutil.rmtree(self._folder / ticket.attempt, ignore_errors=True)

    def stage(self, ticket: Ticket, number: int, tables: Mapping[str, Delta]) -> Receipt:
        """See ``Store.stage``."""
        part = Part(ticket, number, tables)
        path = self._folder / ticket.attempt / str(number)
        scratch = path.with_suffix(".tmp")
        with translated(self._where):
            try:
                with scratch.open("wb") as file:
                    for piece in part.encoded():
                        file.write(_LENGTH.pack(len(piece)))
                        file.write(piece)
                scratch.replace(path)
            except FileNotFoundError:
                raise UnavailableError(self._gone(ticket, number, f"{path.parent} is not there")) from None
        return part.receipt()

    @contextmanager
    def opened(self, ticket: Ticket, receipts: Sequence[Receipt]) -> Iterator[list[StagedPart]]:
        """All parts, to be read. Raises UnavailableError where one is not there."""
        with ExitStack() as stack:
            yield [self._open(stack, ticket, receipt) for receipt in sorted(receipts, key=lambda each: each.part)]

    def _open(self, stack: ExitStack, ticket: Ticket, receipt: Receipt) -> StagedPart:
        path = self._folder / ticket.attempt / str(receipt.part)
        try:
            file = stack.enter_context(path.open("rb"))
        except FileNotFoundError:
            raise UnavailableError(self._gone(ticket, receipt.part, f"{path} is not there")) from None
        return StagedPart(ticket, receipt, _pieces(file), str(path))

    def _gone(self, ticket: Ticket, number: int, how: str) -> str:
        return (
            f"part {number} of delta {ticket.sequence} cannot be staged in {self._where}: {how}. Another attempt "
            f"began, or the processes do not see one folder: an LMDB store is for those of one machine, redis:// for "
            f"several"
        )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """One piece after the other; what is cut off comes as it is, and fails its check."""
    left = os.fstat(file.fileno()).st_size
    while head := file.read(_LENGTH.size):
        left -= _LENGTH.size
        length = min(_LENGTH.unpack(head)[0], left) if len(head) == _LENGTH.size else 0
        left -= length
        yield file.read(length)
