"""Where a table's rows and index lie while it is open: the bits are the same, and so are the files it saves.

``Ram``: in the process's memory. ``File(folder)``: in a file without a name in that folder, which the system pages in
and out, for tables larger than memory. Its space is taken 16 MiB at a time, and given back when the table or the
process goes. It is no copy that a restart could use: that is what ``Table.save`` is for.
"""

from monolith.config.table import File, Memory, Ram

__all__ = ["File", "Memory", "Ram"]
