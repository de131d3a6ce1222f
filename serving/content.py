"""What a table's rows come to: how many they are, and a checksum that does not depend on their order.

The checksum is the sum of the CRC-32s that stand behind the rows (``rows``), so a delta moves it by what it writes and
what it takes away, in the same atomic step, and whoever reads a whole table finds out whether a row is missing, is one
too many, is older than it should be, or belongs to another table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from monolith.serving.payload import Packed
from monolith.serving.rows import CHECK_BYTES, Ids, checks


class Content(msgspec.Struct, frozen=True, array_like=True):
    """Of one table."""

    rows: int = 0
    checksum: int = 0  # sum of the rows' CRC-32

    def __add__(self, other: Content) -> Content:
        return Content(self.rows + other.rows, self.checksum + other.checksum)

    def __sub__(self, other: Content) -> Content:
        return Content(self.rows - other.rows, self.checksum - other.checksum)


Contents = dict[str, Content]  # by table


def of_stored(stored: Sequence[bytes]) -> Content:
    """Of rows as they are stored, each with its CRC-32 at its end."""
    tails = np.frombuffer(b"".join([row[-CHECK_BYTES:] for row in stored]), "<u4")
    return Content(len(stored), int(tails.sum(dtype=np.uint64)))


def of_rows(ids: Ids, packed: Packed) -> Content:
    """Of rows (n, width) that are read already."""
    return Content(len(ids), int(checks(ids, packed).sum(dtype=np.uint64)))


def lost(counts: Mapping[str, int], contents: Contents | None) -> str | None:
    """What is wrong with tables that have so many rows, in words; None where nothing is, or nobody can tell."""
    if contents is None:
        return None
    wrong = {name: seen for name, seen in counts.items() if seen != contents[name].rows}
    words = [f"table {name!r} has {seen} of {contents[name].rows}" for name, seen in wrong.items()]
    return f"has lost or gained rows: {', '.join(words)}" if wrong else None


def differs(seen: Contents, contents: Contents | None) -> str | None:
    """What is wrong with tables whose rows were all read, in words; None where nothing is, or nobody can tell."""
    if contents is None:
        return None
    if reason := lost({name: content.rows for name, content in seen.items()}, contents):
        return reason
    wrong = [name for name, content in seen.items() if content != contents[name]]
    return f"has rows of another version or table: checksum of {', '.join(map(repr, wrong))}" if wrong else None
