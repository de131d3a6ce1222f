"""Tables of each kind, as large as a number of bytes allows: `num_bytes` of all of them, index included, is at most it.

Rows are divided among the features in proportion to how many values each has in the training part; of hashed tables
also by the square roots of these numbers, or equally, which leave features of few values more than a row or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from monolith.config.kinds import MAX_ROWS
from monolith.config.table import TableConfig
from monolith.errors import ConfigError, InputError
from monolith.optembed.budget import check_bytes
from monolith.tables.kinds import new_embedding

Sized = Callable[
    [Sequence[TableConfig], Mapping[str, int], float], list[TableConfig]
]  # by rows a value, or a value raised to a power

_STEPS = 24  # halvings of the rows a value
_LARGEST = 16.0  # rows a value; more would change next to nothing


def _shared(kind: str, power: float = 1.0) -> Sized:
    """A table of ``kind`` for each feature, with rows in proportion to its number of values raised to ``power``."""

    def tables(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
        return [
            msgspec.structs.replace(table, kind=kind, rows=_rows(values[table.feature_names()[0]], scale, power))
            for table in base
        ]

    return tables


def _cafe(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
    """A table for each feature; every second row is one that a hot id may have for its own."""

    def table_of(table: TableConfig) -> TableConfig:
        rows = max(2, _rows(values[table.feature_names()[0]], scale))
        return msgspec.structs.replace(table, kind="cafe", rows=rows - rows // 2, own_rows=rows // 2)

    return [table_of(table) for table in base]


def _unified(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
    """One table for all features; tables of width 1, which models add up, may not share rows and are hashed."""
    wide = [table for table in base if table.dim > 1]
    if not wide:
        raise ConfigError(
            "a model of weights alone adds them up, and features that are added may not share rows: no table is left "
            "to be unified; take a model that reads vectors side by side, as mlp, dcnv2 and widedeep do"
        )
    features = [name for table in wide for name in table.feature_names()]
    rows = _rows(sum(values[name] for name in features), scale)
    probes = {name: sum(values[name] > least for least in _PROBES) for name in features}
    shared = [msgspec.structs.replace(wide[0], name="all", features=features, kind="unified", rows=rows, probes=probes)]
    return shared + _shared("hashed")([table for table in base if table.dim == 1], values, scale)


_PROBES = (0, 1_000, 100_000)  # a feature of more values than each of these has a probe more


def _rows(values: int, scale: float, power: float = 1.0) -> int:
    return min(MAX_ROWS, max(1, round(min(_LARGEST * values, math.pow(values, power) * scale))))


class Layout(NamedTuple):
    """How tables of a kind are made as large as a number of bytes allows."""

    sized: Sized
    power: float = 1.0  # to which numbers of values are raised before rows are divided in proportion to them


HASHED = {
    "hashed": Layout(_shared("hashed")),
    "hashed-sqrt": Layout(_shared("hashed", 0.5), 0.5),
    "hashed-equal": Layout(_shared("hashed", 0.0), 0.0),
}  # one kind, its rows divided in three ways
SEARCHED = "optembed"  # its rows and columns are found by `monolith optembed`'s stages, within the bytes
KINDS: Mapping[str, Layout | None] = {  # None: nothing is scaled
    "collisionless": None,
    **HASHED,
    "qr": Layout(_shared("qr")),
    "cafe": Layout(_cafe),
    "unified": Layout(_unified),
    SEARCHED: None,
}


def needs_bytes(kind: str) -> bool:
    """Whether tables of a kind are as large as they are told to be; others have as many rows as there are ids."""
    return KINDS[kind] is not None or kind == SEARCHED


def laid_out(
    kind: str, base: Sequence[TableConfig], values: Mapping[str, int], budget: int | None
) -> list[TableConfig]:
    """``base``, collisionless tables, as tables of ``kind`` that take at most ``budget`` bytes.

    Raises ConfigError for a kind that is none here, and for a budget below the smallest possible, which is named.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind!r} in this benchmark; allowed: {', '.join(KINDS)}")
    layout = KINDS[kind]
    if kind == SEARCHED and budget is not None:
        return _searched(base, budget)
    if layout is None or budget is None:
        return list(base)
    least = num_bytes(layout.sized(base, values, 0.0))
    if least > budget:
        raise ConfigError(
            f"{budget:,} bytes are too few for {len(base)} tables of kind {kind}: the smallest possible are {least:,}"
        )
    return _largest(layout, base, values, budget)


def _searched(base: Sequence[TableConfig], budget: int) -> list[TableConfig]:
    """Tables whose rows and columns are still to be found."""
    tables = [msgspec.structs.replace(table, kind=SEARCHED) for table in base]
    try:
        check_bytes(tables, budget)
    except InputError as error:
        raise ConfigError(str(error)) from None
    return tables


def _largest(layout: Layout, base: Sequence[TableConfig], values: Mapping[str, int], budget: int) -> list[TableConfig]:
    """The largest that fits; what fits is found by making the tables."""
    counts = [values[table.feature_names()[0]] for table in base]
    most = max(_LARGEST * count ** (1 - layout.power) for count in counts)
    cost = sum(count**layout.power * 4 * table.dim for count, table in zip(counts, base, strict=True))
    low, best = 0.0, layout.sized(base, values, 0.0)
    high = min(most, 1.0 + budget / cost)  # a row takes more than its values
    while high < most and num_bytes(layout.sized(base, values, high)) <= budget:
        high = min(most, 2 * high)  # where features have all the rows that they may have, others get more
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tables = layout.sized(base, values, middle)
        if num_bytes(tables) <= budget:
            low, best = middle, tables
        else:
            high = middle
    return best


def num_bytes(tables: Sequence[TableConfig]) -> int:
    """What the tables take to answer, as they are made."""
    return sum(new_embedding(table).num_bytes() for table in tables)
