"""Parquet of the user's own, by a small description file (YAML, see `own_rules`); criteo8k is read in the same way."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa

from monolith.config.document import Document
from monolith.datasets.sets.buckets import RULES
from monolith.datasets.sets.description import Column, DataSet, Form, files_like
from monolith.datasets.sets.own_rows import Kind, Kinds, is_number, is_text, is_whole, open_file, read, value_type
from monolith.datasets.sets.own_rules import FeatureRule, Own, faults
from monolith.errors import ConfigError
from monolith.streaming.parquet import is_moment


def load(path: Path, folder: Path | None = None) -> tuple[DataSet, Path]:
    """The data set of a description file, and the folder of its files, ``folder`` or that of the description.

    Raises ConfigError, naming file and line.
    """
    try:
        document = Document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the description {path}: {error}") from error
    try:
        own = msgspec.convert(document.data, Own)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_where(document, str(error))}: {error}") from None
    return data_set(own, folder or path.parent)


def _where(document: Document, text: str) -> str:
    """File and line of what ``text`` complains about: msgspec names the way to it, as `$.features[2].bucket`."""
    path = re.search(r"`\$([^`]*)`", text)
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", path[1] if path else "")
    unknown = re.search(r"unknown field `(\w+)`", text)
    keys: list[str | int] = [name or int(number) for name, number in steps]
    return document.where((*keys, unknown[1]) if unknown else tuple(keys))


def data_set(own: Own, folder: Path) -> tuple[DataSet, Path]:
    """What ``own`` describes. Raises ConfigError where its parts do not fit together, or to the files."""
    if broken := list(faults(own)):
        raise ConfigError(f"{own.name}: {'; '.join(broken)}")
    features = own.rules()
    kinds = _kinds(own, features, folder)
    columns = tuple(Column(feature.name, *kinds[feature.name]) for feature in features)
    form = Form(tuple(own.files), partial(read, own, kinds), own.sha256)
    label = own.label.column if own.label.at_least is None else f"{own.label.column} >= {own.label.at_least:g}"
    time = "event time" if own.time else "the order of the rows"
    title = own.title or f"Parquet described in {folder}"
    about = (columns, own.item, own.group, own.split, label, (form,), time)
    return DataSet(own.name, title, own.terms, *about, timed=own.time is not None), folder


def _kinds(own: Own, features: list[FeatureRule], folder: Path) -> Kinds:
    """The features' types: the first file's, which the others must have too."""
    first: tuple[Path, Kinds] | None = None
    if absent := [name for name in own.files if not files_like(folder, name)]:
        raise ConfigError(f"{folder / absent[0]} is not there, though its description names it")
    for path in (path for name in own.files for path in files_like(folder, name)):
        schema = open_file(path).schema_arrow
        _check_columns(own, path, schema)
        kinds = {feature.name: _kind(feature, path, schema.field(feature.source).type) for feature in features}
        first = first or (path, kinds)
        for name, kind in kinds.items():
            if kind != first[1][name]:
                raise ConfigError(f"feature {name!r} is {_said(first[1][name])} in {first[0]}, {_said(kind)} in {path}")
    assert first is not None, "there is a file, see `faults`"
    if first[1][own.group][1]:
        raise ConfigError(f"{own.name}: group is {own.group!r}, whose lists name no group; allowed is a single value")
    return first[1]


def _said(kind: Kind) -> str:
    return ("lists of " if kind[1] else "") + ("text" if kind[0] == "string" else "integers")


def _kind(feature: FeatureRule, path: Path, kind: pa.DataType) -> Kind:
    """``int`` or ``string``, and whether a sample has several. Raises ConfigError for a column that is no feature."""
    bag = bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
    value = value_type(kind.value_type if bag else kind)
    if feature.bucket is not None and not bag and is_number(value):
        return "int", False
    if feature.bucket is None and (is_whole(value) or is_text(value)):
        return ("string" if is_text(value) else "int"), bag
    raise ConfigError(
        f"{path}: feature {feature.name!r} is of type {kind}; allowed are integers, text and truth values, lists of "
        f"these, and numbers with a `bucket` ({', '.join(RULES)})"
    )


def _check_columns(own: Own, path: Path, schema: pa.Schema) -> None:
    """Raises ConfigError for columns that are not there, or not of a type that their place allows."""
    if missing := [name for name in own.columns() if name not in schema.names]:
        raise ConfigError(f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    if twice := [name for name in own.columns() if schema.names.count(name) > 1]:
        raise ConfigError(f"{path} has several columns {', '.join(twice)}: leave one of each there")

    def require(column: str | None, key: str, fits: bool, allowed: str) -> None:
        if not fits:
            raise ConfigError(f"{path}: {key}, {column!r}, is of type {schema.field(column).type}; allowed {allowed}")

    def kind(column: str) -> pa.DataType:
        return value_type(schema.field(column).type)

    label = kind(own.label.column)
    require(own.label.column, "the label", is_number(label) or is_text(label), "are numbers and truth values")
    if own.time is not None:
        time = kind(own.time.column)
        fits = is_moment(time) or (is_number(time) and not pa.types.is_boolean(time))
        require(own.time.column, "the time", fits, "is a timestamp, a date, or a number in `unit`")
    for key, column in (("lists", own.lists), ("part", own.part.column if own.part else None)):
        if column is not None:
            value = kind(column)
            require(
                column, key, is_whole(value) or is_text(value) or pa.types.is_binary(value), "are integers and text"
            )
