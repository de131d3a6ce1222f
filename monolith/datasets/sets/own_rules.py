"""What a description file of the user's own Parquet may say: its sections, and the rules that one file can break.

name: clicks
files: [impressions.parquet]          # beside the description; several are read one after another
label: {column: rating, at_least: 4}  # or a column of 0 and 1 or true and false
time: {column: ts, unit: s}           # left out: the order of the rows is the time
features: [user, item, {name: price, column: eur, bucket: log_squared}]
item: item
group: user
split: {kind: time}
sha256: {impressions.parquet: ...}    # may be left out
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import msgspec

from monolith.datasets.sets.description import RESERVED, Split

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # as a job allows: names become those of tables and folders
_NAMES = "letters, digits, '_', '-' and '.', a letter or digit first"
_SEEDS = 1 << 24


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the file; an unknown key is an error."""


class LabelRule(_Section, frozen=True):
    """Which rows are positive."""

    column: str
    at_least: float | None = None  # positive from here on; None: the column holds 0 and 1, or true and false
    drop: list[float] = []  # rows with one of these are no sample


class TimeRule(_Section, frozen=True):
    """The column of the event time."""

    column: str
    unit: Literal["s", "ms", "us", "ns"] = "ms"  # of a number


class FeatureRule(_Section, frozen=True):
    """A feature: a column of integers, text, truth values or lists of these, or of numbers that go into buckets."""

    name: str
    column: str | None = None  # None: the feature's name
    bucket: Literal["log_squared", "quarter_octaves"] | None = None  # how a number becomes an id

    @property
    def source(self) -> str:
        """The column that is read."""
        return self.column or self.name


class PartRule(_Section, frozen=True):
    """The column that says which part a row is of, for split: {kind: given}."""

    column: str
    train: str = "train"
    valid: str = "valid"
    test: str = "test"


class Own(_Section, frozen=True):
    """A description file."""

    name: str
    files: list[str]
    label: LabelRule
    features: list[str | FeatureRule]
    item: str  # the feature of what is shown
    group: str  # the feature within whose values GAUC compares
    title: str = ""
    terms: str = "The user's own data."
    time: TimeRule | None = None
    lists: str | None = None  # column: rows with one value that follow each other were shown together
    part: PartRule | None = None
    split: Split = Split()
    sha256: dict[str, str] = {}

    def rules(self) -> list[FeatureRule]:
        """The features, each with all its keys."""
        return [FeatureRule(name=one) if isinstance(one, str) else one for one in self.features]

    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        others = [self.label.column, self.time and self.time.column, self.lists, self.part and self.part.column]
        named = [feature.source for feature in self.rules()]
        return list(dict.fromkeys([*named, *(name for name in others if name)]))


def faults(own: Own) -> Iterator[str]:
    """Every rule that the description breaks by itself, whatever is in its files."""
    if not own.files:
        yield "files is empty; allowed are Parquet files beside the description, or patterns as part-*.parquet"
    yield from _odd_names(own)
    yield from _odd_split(own)
    if strange := sorted(own.sha256.keys() - set(own.files)):
        yield f"sha256 names {', '.join(strange)}; allowed are its files: {', '.join(own.files)}"


def _odd_names(own: Own) -> Iterator[str]:
    features = own.rules()
    names = [feature.name for feature in features]
    for name in [own.name, *names]:
        if not _NAME.fullmatch(name):
            yield f"{name!r} is no name; allowed: {_NAMES}. A column of any name is read by {{name: NAME, column: ...}}"
        if name in RESERVED and name != own.name:
            yield f"a feature cannot be called {name!r}, as prepared files have such a column; give it another `name`"
    for name in (name for name, count in Counter(names).items() if count > 1):
        yield f"there are several features {name!r}"
    for feature in features:
        if feature.source == own.label.column:
            yield f"feature {feature.name!r} reads the label's column {own.label.column!r}: it would tell the answer"
    for key in ("item", "group"):
        if getattr(own, key) not in names:
            yield f"{key} is {getattr(own, key)!r}; allowed is a feature: {', '.join(names)}"


def _odd_split(own: Own) -> Iterator[str]:
    for kind, key in (("lists", "lists"), ("given", "part")):
        if own.split.kind == kind and getattr(own, key) is None:
            yield f"split by {kind} needs the key {key}, which names the column"
    shares = own.split.shares
    if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        yield f"split.shares is {list(shares)}; allowed are three shares above 0 that sum up to 1"
    if not 0 <= own.split.seed < _SEEDS:
        yield f"split.seed is {own.split.seed}; allowed is 0 to {_SEEDS - 1:,}"
    if own.part and len({own.part.train, own.part.valid, own.part.test}) < len(("train", "valid", "test")):
        yield f"part has one word for two parts: {own.part.train}, {own.part.valid}, {own.part.test}"
