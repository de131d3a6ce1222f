"""One choice among several in the job file, told apart by ``kind``: ``admission: {kind: min_count, count: 3}``."""

from __future__ import annotations

import msgspec


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One of the choices; its tag is the ``kind``."""
