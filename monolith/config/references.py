"""References to values outside the job file: ``${NAME}``, ``${file:PATH}`` and ``{file: PATH}`` (`monolith.secrets`).

Two kinds of keys take them. One whose type is `LateText` keeps the reference itself, so that whatever keeps or shows
the job holds no secret; who uses the value replaces it then. In all others the value takes the reference's place when
the file is read: numbers, choices and names decide what a run computes, and are kept and compared like any setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from msgspec import inspect

from monolith.config.document import Document, Keys
from monolith.config.job import JobConfig
from monolith.config.schema import Problem
from monolith.errors import ConfigError
from monolith.secrets import check_references, file_reference, has_reference, masked, reveal, reveal_url

_CONTAINERS = (inspect.StructType, inspect.ListType, inspect.DictType)


def settle(document: Document, type_: inspect.Type) -> list[Problem]:
    """Replace the references in ``document`` whose values are used as they are, and check the others' form.

    What cannot be replaced is a problem of its key. Values themselves are in no problem.
    """
    walk = _Walk(document)
    document.data = walk.settled(document.data, type_, ())
    return walk.found


def late_texts(job: JobConfig) -> Iterator[tuple[str, str]]:
    """Every text of ``job`` that may hold a secret, by its key; those that are not given are left out."""
    for keys in late_keys():
        value: Any = job
        for key in keys:
            value = getattr(value, key, None)  # a key of another kind is none
        if value is not None:
            yield ".".join(keys), value


def check_late(job: JobConfig, *parts: str) -> None:
    """Raise one ConfigError that names every late key in ``parts`` of the job whose reference cannot be replaced now.

    For a command that is about to use these parts: a key is named where the user of a value knows its text alone.
    """
    texts = [(key, text) for key, text in late_texts(job) if key.partition(".")[0] in parts]
    lines = [f"{key}: {trouble}" for key, text in texts if (trouble := _try(text))]
    if lines:
        raise ConfigError("\n".join(lines))


def without_passwords(data: dict[str, Any]) -> dict[str, Any]:
    """A job as plain data, with passwords that stand in its late texts masked; ``data`` is changed."""
    for keys in late_keys():
        here: Any = data
        for key in keys[:-1]:
            here = here.get(key) or {}
        if isinstance(here.get(keys[-1]), str):
            here[keys[-1]] = masked(here[keys[-1]])
    return data


@cache
def late_keys() -> tuple[tuple[str, ...], ...]:
    """The ways to all keys of type `LateText`. None is inside a list."""
    return tuple(_late_keys(inspect.type_info(JobConfig), ()))


def _late_keys(type_: inspect.Type, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(type_, inspect.StructType):
        for field in type_.fields:
            yield from _late_keys(field.type, (*keys, field.name))
    elif _is_late(type_):
        yield keys
    elif isinstance(type_, inspect.UnionType):
        for each in type_.types:
            yield from _late_keys(each, keys)


def _is_late(type_: inspect.Type) -> bool:
    if isinstance(type_, inspect.UnionType):
        return any(_is_late(each) for each in type_.types)
    return isinstance(type_, inspect.Metadata) and bool((type_.extra or {}).get("late"))


def _try(text: str) -> str:
    try:
        reveal_url(text)
    except ConfigError as error:
        return str(error)
    return ""


# --- the walk ---------------------------------------------------------------------------------------------------------


class _Walk:
    """Through plain data, along the types that it is meant to be of."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: list[Problem] = []

    def settled(self, value: Any, type_: inspect.Type, keys: Keys) -> Any:
        if isinstance(type_, inspect.UnionType):
            containers = [each for each in type_.types if isinstance(each, _CONTAINERS)]
            type_ = self._variant(value, containers, keys) if containers else type_
        if isinstance(value, dict) and isinstance(type_, inspect.StructType):
            types = {field.encode_name: field.type for field in type_.fields}
            return {k: self.settled(v, types[k], (*keys, k)) if k in types else v for k, v in value.items()}
        if isinstance(value, list) and isinstance(type_, inspect.ListType):
            return [self.settled(item, type_.item_type, (*keys, i)) for i, item in enumerate(value)]
        if isinstance(value, dict) and isinstance(type_, inspect.DictType):
            return {k: self.settled(v, type_.value_type, (*keys, k)) for k, v in value.items()}
        return value if isinstance(type_, _CONTAINERS) else self._scalar(value, type_, keys)

    def _variant(self, value: Any, containers: Sequence[inspect.Type], keys: Keys) -> inspect.Type:
        """The container that ``value`` is meant to be; its `kind` is replaced first."""
        if isinstance(value, list):
            return next((each for each in containers if isinstance(each, inspect.ListType)), containers[0])
        structs = [each for each in containers if isinstance(each, inspect.StructType)]
        tag = structs[0].tag_field if structs else None
        if isinstance(value, dict) and tag is not None and tag in value:
            value[tag] = self._scalar(value[tag], inspect.StrType(), (*keys, tag))
            return next((each for each in structs if value[tag] == each.tag), containers[0])
        return containers[-1] if isinstance(value, dict) else containers[0]

    def _scalar(self, value: Any, type_: inspect.Type, keys: Keys) -> Any:
        if isinstance(value, dict) and value.keys() == {"file"} and isinstance(value["file"], str):
            text = file_reference(value["file"])
        elif isinstance(value, str) and has_reference(value):
            text = value
        else:
            return value
        try:
            if _is_late(type_):
                check_references(text)
                return text
            revealed = reveal(text, secret=False)
            self.document.revealed[keys] = revealed
            return _typed(revealed, type_)
        except ConfigError as error:
            self.found.append((keys, str(error)))
            return value


def _typed(text: str, type_: inspect.Type) -> Any:
    """``text`` as it is where the key takes text, and where it may be something else, as YAML reads it."""
    if _takes(type_, (inspect.StrType, inspect.LiteralType)) == "only":
        return text
    try:
        value = Document(text, "the reference").data
    except ConfigError:
        value = text
    if isinstance(value, bool | int | float):
        return value
    if _takes(type_, (inspect.StrType, inspect.AnyType)):
        return text
    raise ConfigError("what the reference stands for is neither a number nor true or false")


def _takes(type_: inspect.Type, kinds: tuple[type[inspect.Type], ...]) -> str:
    """Whether a value may be of ``kinds``: `only`, `also` or neither (empty)."""
    types = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    plain = [each.type if isinstance(each, inspect.Metadata) else each for each in types]
    of_kinds = [isinstance(each, kinds) for each in plain if not isinstance(each, inspect.NoneType)]
    return "only" if all(of_kinds) else "also" if any(of_kinds) else ""
