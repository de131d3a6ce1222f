"""Where a table's rows and index lie while it is open: the bits are the same, and so are the files it saves.

``Ram``: in the process's memory. ``File(folder)``: in a file without a name in that folder, which the system pages in
and out, for tables larger than memory. Its space is taken 16 MiB at a time, and given back when the table or the
process goes. It is no copy that a restart could use: that is what ``Table.save`` is for.
"""

from __future__ import annotations

from monolith.config.variant import Variant


class Ram(Variant, frozen=True, tag="ram"):
    """In the process's memory."""


class File(Variant, frozen=True, tag="file"):
    """In a file without a name in ``folder``, by way of the system's page cache; it goes with the process."""

    folder: str  # on a local disk with room for the rows


Memory = Ram | File
