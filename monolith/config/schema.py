"""What is wrong with plain data when a typed struct is expected, said so that a person can put it right.

The types are the structs of ``monolith.config``, seen through ``msgspec.inspect``: nothing is declared twice. All
problems are found in one pass, each with the way to the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from monolith.config.document import Keys, describe, nearest
from monolith.echo import shown

Problem = tuple[Keys, str]  # where, and what is wrong there


def problems(value: Any, type_: inspect.Type, keys: Keys = ()) -> Iterator[Problem]:
    """Every way in which ``value`` is not a ``type_``; nothing where it is one."""
    match type_:
        case inspect.Metadata():
            yield from problems(value, type_.type, keys)
        case inspect.StructType():
            yield from _struct_problems(value, type_, keys)
        case inspect.UnionType():
            yield from _union_problems(value, type_, keys)
        case inspect.ListType():
            yield from _list_problems(value, type_, keys)
        case inspect.DictType():
            yield from _dict_problems(value, type_, keys)
        case inspect.LiteralType():
            yield from _literal_problems(value, type_, keys)
        case inspect.AnyType():
            pass
        case _:
            yield from _scalar_problems(value, type_, keys)


def _struct_problems(value: Any, type_: inspect.StructType, keys: Keys) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in type_.fields}
    allowed = ([type_.tag_field] if type_.tag_field else []) + list(fields)
    if not isinstance(value, dict):
        yield keys, f"expected a mapping with the keys {_listed(allowed)}; saw {describe(value)}"
        return
    owner = f" of kind {type_.tag!r}" if type_.tag_field else ""
    for key, child in value.items():
        if key in fields:
            yield from problems(child, fields[key].type, (*keys, key))
        elif key not in allowed:
            yield (*keys, key), f"unknown key {shown(key)}{owner}{nearest(key, allowed)}; allowed: {_listed(allowed)}"
    for name, field in fields.items():
        if field.required and name not in value:
            yield keys, f"the key {name!r} is missing; give {_expected(field.type)}"


def _union_problems(value: Any, type_: inspect.UnionType, keys: Keys) -> Iterator[Problem]:
    if value is None and type_.includes_none:
        return
    variants = [t for t in type_.types if isinstance(t, inspect.StructType)]
    if variants:
        yield from _variant_problems(value, {str(t.tag): t for t in variants}, keys)
        return
    tries = [list(problems(value, t, keys)) for t in type_.types]
    if all(tries):
        yield keys, f"expected {_expected(type_)}; saw {describe(value)}"


def _variant_problems(value: Any, variants: dict[str, inspect.StructType], keys: Keys) -> Iterator[Problem]:
    kinds = list(variants)
    if not isinstance(value, dict):
        hint = f" (write {{kind: {value}}})" if value in variants else ""
        yield keys, f"expected a mapping with a 'kind'{hint}; saw {describe(value)}; allowed kinds: {_listed(kinds)}"
        return
    kind = value.get("kind")
    if kind is None:
        yield keys, f"the key 'kind' is missing; allowed kinds: {_listed(kinds)}"
    elif kind not in kinds:
        text = f"unknown kind {shown(kind)}{nearest(str(kind), kinds)}; allowed kinds: {_listed(kinds)}"
        yield (*keys, "kind"), text
    else:
        yield from _struct_problems(value, variants[kind], keys)


def _list_problems(value: Any, type_: inspect.ListType, keys: Keys) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield keys, f"expected a list; saw {describe(value)}"
        return
    for i, item in enumerate(value):
        yield from problems(item, type_.item_type, (*keys, i))


def _dict_problems(value: Any, type_: inspect.DictType, keys: Keys) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield keys, f"expected a mapping; saw {describe(value)}"
        return
    for key, item in value.items():
        yield from problems(key, type_.key_type, (*keys, key))
        yield from problems(item, type_.value_type, (*keys, key))


def _literal_problems(value: Any, type_: inspect.LiteralType, keys: Keys) -> Iterator[Problem]:
    allowed = [str(v) for v in type_.values]
    if value not in type_.values:
        yield keys, f"saw {describe(value)}{nearest(str(value), allowed)}; allowed: {_listed(allowed)}"


def _scalar_problems(value: Any, type_: inspect.Type, keys: Keys) -> Iterator[Problem]:
    wanted: dict[type[inspect.Type], tuple[type, ...]] = {
        inspect.IntType: (int,),
        inspect.FloatType: (int, float),
        inspect.StrType: (str,),
        inspect.BoolType: (bool,),
        inspect.NoneType: (type(None),),
    }
    is_kind = isinstance(value, wanted[type(type_)]) and (
        isinstance(value, bool) == isinstance(type_, inspect.BoolType)
    )
    if not is_kind:
        yield keys, f"expected {_expected(type_)}; saw {describe(value)}"
    elif isinstance(type_, inspect.IntType | inspect.FloatType) and not _within(value, type_):
        yield keys, f"expected {_expected(type_)}; saw {shown(value)}"


def _within(value: float, type_: inspect.IntType | inspect.FloatType) -> bool:
    return (
        math.isfinite(value)
        and (type_.gt is None or value > type_.gt)
        and (type_.ge is None or value >= type_.ge)
        and (type_.lt is None or value < type_.lt)
        and (type_.le is None or value <= type_.le)
    )


def _expected(type_: inspect.Type) -> str:
    """The type in people's words: ``an integer >= 1``, ``text or null``."""
    match type_:
        case inspect.IntType() | inspect.FloatType():
            word = "an integer" if isinstance(type_, inspect.IntType) else "a number"
            limits = {">": type_.gt, ">=": type_.ge, "<": type_.lt, "<=": type_.le}
            bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in limits.items() if bound is not None)
            return f"{word} {bounds}".rstrip()
        case inspect.Metadata():
            return _expected(type_.type)
        case inspect.UnionType():
            return " or ".join(_expected(t) for t in type_.types)
        case inspect.ListType():
            return "a list"
        case inspect.StructType() | inspect.DictType():
            return "a mapping"
    return {inspect.StrType: "text", inspect.BoolType: "true or false", inspect.NoneType: "null"}[type(type_)]


def _listed(words: list[str]) -> str:
    return ", ".join(words)
