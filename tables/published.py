"""What is published of tables: rows under names. A table has its own, and some publish more: see `tables.vectors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from monolith.config.absent import TAIL_MARK
from monolith.tables.arguments import Ids, Matrix


class HasRows(Protocol):
    """What is published under one name."""

    def rows(self) -> tuple[Ids, Matrix]:
        """All rows: keys (n,) ascending, and values (n, dim)."""


class Publishes(Protocol):
    """A table of whatever kind; every `tables.embedding.Embedding` is one."""

    def published(self) -> Mapping[str, HasRows]:
        """All rows as they are, by the name under which they are published."""


def owner_of(name: str) -> str:
    """The table of which ``name`` publishes rows."""
    return name.partition(TAIL_MARK)[0]


def published(tables: Mapping[str, Publishes]) -> dict[str, HasRows]:
    """Everything that is published of ``tables``, under its name: tables' own names first."""
    found = {name: rows for table in tables.values() for name, rows in table.published().items()}
    return dict(sorted(found.items(), key=lambda item: TAIL_MARK in item[0]))
