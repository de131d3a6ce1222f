"""Parquet of the user's own, by a small description file (YAML); criteo8k is read in the same way.

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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monolith.config.document import Document
from monolith.datasets.sets.buckets import RULES, bucketed
from monolith.datasets.sets.description import LABEL, LIST, PART, START_MS, TIME, Column, DataSet, Form, Split
from monolith.datasets.sets.lines import Lines
from monolith.errors import ConfigError, CorruptError

_ROWS = 65_536
_TO_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}


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
    """A feature: a column of integers, of text, of truth values, or of numbers that go into buckets."""

    name: str
    column: str | None = None  # None: the feature's name
    bucket: Literal["log_squared", "quarter_octaves"] | None = None  # how a number becomes an id


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


def load(path: Path) -> tuple[DataSet, Path]:
    """The data set of a description file, and the folder of its files. Raises ConfigError, naming file and line."""
    try:
        document = Document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the description {path}: {error}") from error
    try:
        own = msgspec.convert(document.data, Own)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_where(document, str(error))}: {error}") from None
    return data_set(own, path.parent)


def _where(document: Document, text: str) -> str:
    """File and line of what ``text`` complains about: msgspec names the way to it, as `$.features[2].bucket`."""
    path = re.search(r"`\$([^`]*)`", text)
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", path[1] if path else "")
    unknown = re.search(r"unknown field `(\w+)`", text)
    keys: list[str | int] = [name or int(number) for name, number in steps]
    return document.where((*keys, unknown[1]) if unknown else tuple(keys))


def data_set(own: Own, folder: Path) -> tuple[DataSet, Path]:
    """What ``own`` describes. Raises ConfigError where its parts do not fit together, or to the files."""
    features = [FeatureRule(name=one) if isinstance(one, str) else one for one in own.features]
    names = [feature.name for feature in features]
    for key in ("item", "group"):
        if getattr(own, key) not in names:
            raise ConfigError(f"{own.name}: {key} is {getattr(own, key)!r}; allowed is a feature: {', '.join(names)}")
    for kind, key in (("lists", "lists"), ("given", "part")):
        if own.split.kind == kind and getattr(own, key) is None:
            raise ConfigError(f"{own.name}: split by {kind} needs the key {key}, which names the column")
    kinds = _types(own, features, folder)
    columns = tuple(Column(feature.name, kinds[feature.name]) for feature in features)
    form = Form(tuple(own.files), partial(read, own, features), own.sha256)
    label = own.label.column if own.label.at_least is None else f"{own.label.column} >= {own.label.at_least:g}"
    time = "event time" if own.time else "the order of the rows"
    title = own.title or f"Parquet described in {folder}"
    about = (columns, own.item, own.group, own.split, label, (form,), time)
    return DataSet(own.name, title, own.terms, *about, timed=own.time is not None), folder


def read(own: Own, features: list[FeatureRule], folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """The rows of all files in order; those without a label or a time are broken."""
    first = 0
    for name in own.files:
        path, row = folder / name, 1
        file = _open(path)
        for batch in file.iter_batches(_ROWS, columns=_columns(own, features)):
            yield _samples(own, features, batch, first, _Place(path, row, lines))
            first, row = first + batch.num_rows, row + batch.num_rows


class _Place:
    """Where a batch comes from, and which of its rows are broken."""

    def __init__(self, path: Path, row: int, lines: Lines) -> None:
        self._path, self._row, self._lines = path, row, lines

    def usable(self, fit: Any, values: Any, what: str) -> Any:
        """``fit`` (n,), the others rejected with their ``values``."""
        for place in np.flatnonzero(~fit).tolist():
            self._lines.reject(self._path, self._row + place, f"{what} is {values[place].as_py()!r}")
        return fit

    def take(self, kept: Any) -> None:
        """Count the rows that are ``kept`` (n,)."""
        self._lines.take(int(kept.sum()))


def _samples(own: Own, features: list[FeatureRule], batch: pa.RecordBatch, first: int, place: _Place) -> pa.Table:
    labels = batch.column(own.label.column).cast(pa.float64(), safe=False)
    values = labels.to_numpy(zero_copy_only=False)
    binary = own.label.at_least is None
    fit = np.isfinite(values) & (np.isin(values, (0, 1)) | (not binary))
    times = _times(own, batch, first)
    timed = np.asarray(times.is_valid().to_numpy(zero_copy_only=False))
    kept = place.usable(fit, batch.column(own.label.column), own.label.column)
    if own.time is not None:
        kept = kept & place.usable(timed | ~fit, batch.column(own.time.column), own.time.column)
    place.take(kept)
    columns: dict[str, Any] = {
        LABEL: (values >= (0.5 if own.label.at_least is None else own.label.at_least)).astype(np.int8),
        TIME: times,
        **{feature.name: _feature(feature, batch) for feature in features},
    }
    if own.lists is not None:
        columns[LIST] = pc.fill_null(batch.column(own.lists).cast(pa.int64()), -1)
    if own.part is not None:
        columns[PART] = _parts(own, own.part, batch)
    return pa.table(columns).filter(pa.array(kept & ~np.isin(values, own.label.drop)))


def _feature(feature: FeatureRule, batch: pa.RecordBatch) -> pa.Array:
    column = batch.column(feature.column or feature.name)
    if feature.bucket is not None:
        return bucketed(column, RULES[feature.bucket])
    return column.cast(pa.string() if _is_text(column.type) else pa.int64())


def _times(own: Own, batch: pa.RecordBatch, first: int) -> pa.Array:
    if own.time is None:
        return pa.array(START_MS + np.arange(first, first + batch.num_rows))
    column = batch.column(own.time.column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    up, down = _TO_MS[own.time.unit]
    return pc.divide(pc.multiply(column.cast(pa.int64(), safe=False), up), down)


def _parts(own: Own, rule: PartRule, batch: pa.RecordBatch) -> pa.Array:
    words = pa.array([rule.train, rule.valid, rule.test])
    parts = pc.index_in(batch.column(rule.column).cast(pa.string()), value_set=words)
    if parts.null_count:
        odd = pc.filter(batch.column(rule.column), parts.is_null())[0].as_py()
        allowed = ", ".join(words.to_pylist())
        raise CorruptError(f"{own.name}: {rule.column} is {odd!r}; allowed is {allowed}, as the description says")
    return parts.cast(pa.int8())


def _types(own: Own, features: list[FeatureRule], folder: Path) -> dict[str, Literal["int", "string"]]:
    """The features' types, by the first file's schema."""
    schema = _open(folder / own.files[0]).schema_arrow if own.files else pa.schema([])
    if missing := [name for name in _columns(own, features) if name not in schema.names]:
        raise ConfigError(
            f"{folder / own.files[0]} has no column {', '.join(missing)}; it has {', '.join(schema.names)}"
        )
    kinds: dict[str, Literal["int", "string"]] = {}
    for feature in features:
        kind = schema.field(feature.column or feature.name).type
        whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if feature.bucket is None and not (whole or _is_text(kind)):
            raise ConfigError(
                f"{own.name}: feature {feature.name!r} is of type {kind}; allowed are integers, text and truth values, "
                f"and numbers with a `bucket` ({', '.join(RULES)})"
            )
        kinds[feature.name] = "string" if feature.bucket is None and _is_text(kind) else "int"
    return kinds


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _columns(own: Own, features: list[FeatureRule]) -> list[str]:
    others = [own.label.column, own.time and own.time.column, own.lists, own.part and own.part.column]
    named = [feature.column or feature.name for feature in features]
    return list(dict.fromkeys([*named, *(name for name in others if name)]))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there, though its description names it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path} cannot be read as Parquet: {error}") from None
