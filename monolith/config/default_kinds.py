"""The kind of a section of which an option sets one key and the job file has none.

``--set tables.user.optimizer.lr=0.1`` then changes the default optimizer, as it would in a section that is written out.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from monolith.config.document import Document, Keys
from monolith.config.job import JobConfig

KIND = "kind"


def give_kinds(document: Document) -> None:
    """Write the default ``kind`` into each mapping that an option made, where it needs one and none was set."""
    for keys in document.made:
        value = _at(document.data, keys)
        kind = _default_kind(inspect.type_info(JobConfig), document.data, keys)
        if isinstance(value, dict) and KIND not in value and kind is not None:
            value[KIND] = kind


def _at(data: Any, keys: Keys) -> Any:
    """The value at ``keys``; None where a later option put something else around it."""
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _default_kind(type_: inspect.Type, data: Any, keys: Keys) -> str | None:
    """The kind of the default at ``keys``; None where there is no default, or none that has a kind."""
    for depth, key in enumerate(keys):
        if isinstance(type_, inspect.ListType):
            type_ = type_.item_type
        elif isinstance(type_, inspect.DictType):
            type_ = type_.value_type
        else:
            field = _field(type_, _at(data, keys[:depth]), str(key))
            if field is None:
                return None
            if depth == len(keys) - 1:
                return _kind_of(field)
            type_ = field.type
    return None


def _field(type_: inspect.Type, value: Any, name: str) -> inspect.Field | None:
    """Field ``name`` of the struct that ``value`` is to be."""
    types = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    structs = [t for t in types if isinstance(t, inspect.StructType)]
    kind = value.get(KIND) if isinstance(value, dict) else None
    owner = next((t for t in structs if t.tag_field is None or t.tag == kind), None)
    return None if owner is None else next((f for f in owner.fields if f.encode_name == name), None)


def _kind_of(field: inspect.Field) -> str | None:
    default = None if field.default is msgspec.NODEFAULT else msgspec.to_builtins(field.default)
    return default.get(KIND) if isinstance(default, dict) else None
