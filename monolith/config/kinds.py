"""The kinds of embedding that a table can be, and what a replica must know of one besides its rows.

A job names the kind by one word in a table; `kind_of` is the rest of it, with every default filled in. It stands in the
model card and beside the saved rows, so that both are read without the job.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from monolith.config.document import Keys, nearest
from monolith.config.limits import Count, Share
from monolith.config.table import Combine, TableConfig

Found = tuple[Keys, str]

MAX_ROWS = 2**32 - 1  # a row's number comes from the 32 upper bits of a hash


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One kind, told apart by ``kind``."""


class Collisionless(_Kind, frozen=True, tag="collisionless"):
    """Each id has a row of its own, or none."""


class Hashed(_Kind, frozen=True, tag="hashed"):
    """Each id reads one of ``rows`` rows, by a hash of the id; ids share rows."""

    rows: Count


class QuotientRemainder(_Kind, frozen=True, tag="qr"):
    """A hash of the id, below ``rows``, is divided by ``remainders``: a row for the quotient, and one for the rest."""

    rows: Count
    remainders: Count
    combine: Combine

    @property
    def quotients(self) -> int:
        """How many rows there are for quotients."""
        return -(-self.rows // self.remainders)


class OptEmbed(_Kind, frozen=True, tag="optembed"):
    """Each id has a row of its own, or none; a row holds the first ``width`` of a vector's ``dim`` values."""

    width: Count
    dim: Count


class Unified(_Kind, frozen=True, tag="unified"):
    """All features share ``rows`` rows; ``probes`` of them by hashes of their own, side by side, are an id's vector."""

    rows: Count
    probes: dict[str, Count]  # feature -> how many, of every feature


class Cafe(_Kind, frozen=True, tag="cafe"):
    """The ids of the highest scores, at most ``own_rows``, have rows of their own; all others share ``rows`` rows."""

    rows: Count
    own_rows: Count
    score_decay: Share


Kind = Collisionless | Hashed | QuotientRemainder | OptEmbed | Unified | Cafe

MAX_PROBES = 64
_POLICIES = ("admission", "expiry", "per_feature", "eviction", "absent")
_PRUNING = ("threshold", "probation_s")
_OWN_KEYS = {
    "collisionless": _PRUNING,
    "hashed": ("rows",),
    "qr": ("rows", "remainders", "combine"),
    "optembed": ("width", *_PRUNING),
    "unified": ("rows", "probes"),
    "cafe": ("rows", "own_rows", "score_decay"),
}
_ALL_KEYS = tuple(dict.fromkeys(key for keys in _OWN_KEYS.values() for key in keys))
SHARES_ROWS = ("hashed", "qr", "unified")  # kinds in which which ids share rows is a matter of their hashes alone
HAS_ROWS_OF_IDS = ("collisionless", "optembed")  # kinds in which an id has a row of its own, which comes and goes
_DEFAULTS = {field.encode_name: field for field in msgspec.structs.fields(TableConfig)}


def kind_of(config: TableConfig) -> Kind:
    """The kind of a table that breaks no rule."""
    rows = config.rows or 1
    if config.kind == "hashed":
        return Hashed(rows)
    if config.kind == "qr":
        root = math.isqrt(rows - 1) + 1  # rounded up: the fewest rows in all
        return QuotientRemainder(rows, config.remainders or root, config.combine or "product")
    if config.kind == "optembed":
        return OptEmbed(config.width or config.dim, config.dim)
    if config.kind == "unified":
        return Unified(rows, {feature: config.probes.get(feature, 1) for feature in config.feature_names()})
    if config.kind == "cafe":
        return Cafe(rows, config.own_rows or 1, config.score_decay or 0.999)
    return Collisionless()


def kind_words(kind: Kind) -> str:
    """The kind and its numbers, for people."""
    said = []
    for key, value in msgspec.to_builtins(kind).items():
        each = [f"{name} {count}" for name, count in value.items()] if isinstance(value, dict) else []
        said.append(f"{key} ({', '.join(each)})" if each else f"{key} {value}")
    return ", ".join(said)


def broken_kind_rules(table: TableConfig) -> Iterator[Found]:
    """Every rule that the table's kind breaks, with the way to the key from the table."""
    own = _OWN_KEYS[table.kind]
    for key in _ALL_KEYS:
        if key not in own and getattr(table, key) != _default(key):
            *others, last = [kind for kind, keys in _OWN_KEYS.items() if key in keys]
            kinds = f"{', '.join(others)} and {last}" if others else last
            yield (key,), f"a table of kind {table.kind} has no {key}; of kind {kinds} it has"
    if table.kind in HAS_ROWS_OF_IDS:
        yield from _of_rows_of_ids(table)
        return
    if table.rows is None:
        yield ("rows",), f"a table of kind {table.kind} needs the number of rows that its ids are hashed to"
    elif table.rows > MAX_ROWS:
        yield ("rows",), f"allowed: 1 to {MAX_ROWS}; saw {table.rows}"
    for key in _POLICIES:
        if getattr(table, key) != _default(key):
            text = f"a table of kind {table.kind} has all its rows from the start and keeps them, so it has no {key}"
            yield (key,), f"{text}; leave it out, or take kind: collisionless"
    if table.kind == "qr":
        yield from _of_quotient_remainder(table)
    if table.kind == "unified":
        yield from _of_unified(table)
    if table.kind == "cafe":
        yield from _of_cafe(table)


def _of_rows_of_ids(table: TableConfig) -> Iterator[Found]:
    if table.probation_s is not None and table.threshold is None:
        yield ("probation_s",), "rows are on probation where there is a threshold; give one, or leave this out"
    if (table.width or 1) > table.dim:
        yield ("width",), f"allowed: 1 to dim, which is {table.dim}; saw {table.width}"
    if table.slices and table.width is not None and table.width != table.dim:
        yield ("slices",), "slices make up dim columns, and rows hold only the first of them; give one optimizer"


def _of_quotient_remainder(table: TableConfig) -> Iterator[Found]:
    if table.rows is not None and (table.remainders or 1) > table.rows:
        yield ("remainders",), f"allowed: 1 to rows, which is {table.rows}; saw {table.remainders}"
    if table.combine == "concat" and table.dim % 2:
        yield ("dim",), f"combine: concat makes a vector of two halves, so dim is even; saw {table.dim}"
    if table.combine == "concat" and table.slices:
        yield ("slices",), "combine: concat makes a vector of two rows, which slices do not fit; give one optimizer"


def _of_unified(table: TableConfig) -> Iterator[Found]:
    if table.shared_ids:
        text = "a unified table keeps the ids of its features apart; leave it out, or take kind: hashed, which need not"
        yield ("shared_ids",), text
    for feature, probes in table.probes.items():
        if feature not in table.feature_names():
            read = table.feature_names()
            yield ("probes", feature), f"no feature of the table{nearest(feature, read)}; allowed: {', '.join(read)}"
        elif probes > MAX_PROBES:
            yield ("probes", feature), f"allowed: 1 to {MAX_PROBES}; saw {probes}"


def _of_cafe(table: TableConfig) -> Iterator[Found]:
    if table.own_rows is None:
        yield ("own_rows",), "a table of kind cafe needs the number of ids that may have rows of their own"
    elif table.own_rows + (table.rows or 0) > MAX_ROWS // 2:
        yield ("own_rows",), f"allowed: up to {MAX_ROWS // 2} with rows; saw {table.own_rows} and {table.rows}"


def _default(key: str) -> object:
    field = _DEFAULTS[key]
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
