"""The JSON Schema of the job file: what an editor needs to complete keys, show their meaning and mark mistakes.

Types, limits and defaults are those that msgspec sees in the structs; meanings are those of `monolith.config.meanings`.
In place of any single value a job file may have a reference, `${VARIABLE}` or `{file: PATH}`; the schema allows it.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import inspect

from monolith.config.job import JobConfig
from monolith.config.meanings import meaning, summary

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SINGLE = {"string", "integer", "number", "boolean"}
_REFERENCE = {
    "anyOf": [
        {"type": "string", "pattern": r"\$\{[^{}]+\}"},
        {
            "type": "object",
            "properties": {"file": {"type": "string"}},
            "required": ["file"],
            "additionalProperties": False,
        },
    ],
    "description": "${VARIABLE} or {file: PATH}: a value from outside the job file",
}


def schema() -> dict[str, Any]:
    """The schema as plain data."""
    made = msgspec.json.schema(JobConfig)
    structs: dict[str, type[msgspec.Struct]] = {}
    _gather(inspect.type_info(JobConfig), structs)
    for name, definition in made["$defs"].items():
        _describe(definition, structs[name])
    made["$defs"]["Reference"] = _REFERENCE
    return {"$schema": _DIALECT, "title": "A job of monolith-recsys", **made}


def schema_text() -> str:
    """The schema as JSON for people, ending with a newline."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _gather(type_: inspect.Type, structs: dict[str, type[msgspec.Struct]]) -> None:
    if isinstance(type_, inspect.StructType):
        if type_.cls.__name__ in structs:
            return
        structs[type_.cls.__name__] = type_.cls
        for field in type_.fields:
            _gather(field.type, structs)
    for part in ("types", "item_type", "value_type", "type"):
        inner = getattr(type_, part, None)
        for each in inner if isinstance(inner, tuple) else (inner,):
            if isinstance(each, inspect.Type):
                _gather(each, structs)


def _describe(definition: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    definition["description"] = summary(struct)
    names = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}
    for key, value in definition.get("properties", {}).items():
        if key in names:
            definition["properties"][key] = _with_reference(value)
            if text := meaning(struct, names[key]):
                definition["properties"][key]["description"] = text


def _with_reference(value: dict[str, Any]) -> dict[str, Any]:
    """``value``, or a reference where it is a single value, also in lists."""
    if isinstance(value.get("items"), dict):
        value["items"] = _with_reference(value["items"])
    branches = value.get("anyOf", [value])
    if not any(branch.get("type") in _SINGLE or "enum" in branch for branch in branches):
        return value
    kept: dict[str, Any] = {key: value.pop(key) for key in ("default", "description") if key in value}
    return {"anyOf": [*value.get("anyOf", [value]), {"$ref": "#/$defs/Reference"}], **kept}
