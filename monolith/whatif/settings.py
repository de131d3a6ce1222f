"""From repeated options to table configs: each option is one value of one key, the settings are the product of all.

A value is written as in the job file (YAML), or in short where the key picks a kind::

    always                                      {kind: always}
    min_count:3                                 {kind: min_count, count: 3}: the kind's first key
    min_count:{count: 5, half_life_s: 1d}       {kind: min_count, count: 5, half_life_s: 86400}
    idle:7d                                     {kind: idle, ttl_s: 604800}

Keys that end in ``_s`` take 30s, 15m, 12h, 7d or 2w as well as seconds. Kinds and keys are those of
``monolith.config.table``: nothing here knows one by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
from msgspec import inspect

from monolith.config import TableConfig
from monolith.config.document import Document, describe, nearest, path_text
from monolith.config.schema import problems
from monolith.errors import ConfigError
from monolith.tables.options import checked

POLICIES = ("admission", "expiry", "eviction")  # those that this build's tables have get an option of their own
_IDS = ("name", "features", "shared_ids", "pooling", "seed")  # they say which ids there are: the same for every setting
_KIND = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)\s*(?::(.*))?$", re.DOTALL)
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h|d|w)$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True)
class Setting:
    """One way to run the table: what was asked for, key by key, and the table config that comes of it."""

    words: dict[str, str]
    config: TableConfig

    @property
    def label(self) -> str:
        """The words in one line."""
        return "  ".join(self.words.values()) or "as it is"


def policy_keys() -> list[str]:
    """The keys of a table that hold a policy."""
    return [key for key in POLICIES if key in TableConfig.__struct_fields__]


def settings(table: TableConfig, axes: Mapping[str, Sequence[str]]) -> list[Setting]:
    """``table`` under every combination of the values in ``axes`` (key -> texts), in order.

    Raises ConfigError, naming the option, for a key or a value that cannot be.
    """
    found = [Setting({}, table)]
    for key, texts in axes.items():
        values = [(text, _value(table, key, text)) for text in dict.fromkeys(texts)]
        found = [_with(setting, key, text, value) for setting, (text, value) in product(found, values)]
    return found


def vary_axes(options: Iterable[str]) -> dict[str, list[str]]:
    """``KEY=VALUE`` options by key. Raises ConfigError for one of another form."""
    axes: dict[str, list[str]] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--vary {option}: write KEY=VALUE, a key of a table in the job file, for instance dim=8")
        axes.setdefault(key.strip(), []).append(text.strip())
    return axes


def words_of(value: Any) -> str:
    """A policy in short: its kind, and what differs from the kind's defaults."""
    if not isinstance(value, msgspec.Struct):
        return str(value)
    plain = msgspec.to_builtins(value)
    kind = plain.pop("kind", type(value).__name__)
    defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
    first = next(iter(defaults), None)
    other = {key: entry for key, entry in plain.items() if entry != defaults[key]}
    if not other and first is None:
        return str(kind)
    if set(other) <= {first}:
        return f"{kind}:{_short(first, plain[first])}"
    return f"{kind}:{{{', '.join(f'{key}: {_short(key, entry)}' for key, entry in other.items())}}}"


def _short(key: str | None, value: Any) -> str:
    """A value, and seconds as whole days or hours where they are."""
    if key is not None and key.endswith("_s") and isinstance(value, int | float):
        for unit in ("d", "h"):
            if value and value % _SECONDS[unit] == 0:
                return f"{value / _SECONDS[unit]:g}{unit}"
        return f"{value:g}s"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(table: TableConfig, key: str, text: str) -> Any:
    """The value that ``text`` means for ``key``, tried on the table as it is."""
    origin = f"--{key} {text}" if key in POLICIES else f"--vary {key}={text}"
    fields = _field_types()
    allowed = [name for name in fields if name not in _IDS]
    if key not in allowed:
        text = f"{key!r} is no key that can differ between settings{nearest(key, allowed)}; allowed: "
        raise ConfigError(f"{origin}: {text}{', '.join(allowed)}")
    data = _in_seconds(_plain(text, fields[key], origin))
    if wrong := [f"{origin}: {path_text(keys)}: {what}" for keys, what in problems(data, fields[key], (key,))]:
        raise ConfigError("\n".join(wrong))
    try:
        value = getattr(checked(_convert(table, {key: data})), key)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return value


def _field_types() -> dict[str, inspect.Type]:
    table = inspect.type_info(TableConfig)
    assert isinstance(table, inspect.StructType)
    return {field.name: field.type for field in table.fields}


def _with(setting: Setting, key: str, text: str, value: Any) -> Setting:
    config = msgspec.structs.replace(setting.config, **{key: value})
    return Setting(setting.words | {key: text}, config)


def _convert(table: TableConfig, changes: dict[str, Any]) -> TableConfig:
    return msgspec.convert(msgspec.to_builtins(table) | changes, TableConfig)


def _plain(text: str, type_: inspect.Type, origin: str) -> Any:
    """The text as plain data: YAML, or ``KIND``, or ``KIND:VALUE`` where ``type_`` is a choice of kinds."""
    kinds = _kinds(type_)
    short = _KIND.match(text.strip())
    if not kinds or short is None or (short[1] == "null" and short[2] is None):
        return Document(text, origin).data if text.strip() else None
    kind, rest = short[1], short[2]
    more = Document(rest, origin).data if rest is not None and rest.strip() else {}
    if not isinstance(more, dict):
        keys = [field.name for field in kinds[kind].fields] if kind in kinds else ["value"]
        if not keys:
            raise ConfigError(f"{origin}: {kind} takes no value; saw {describe(more)}")
        more = {keys[0]: more}
    return {"kind": kind, **more}


def _kinds(type_: inspect.Type) -> dict[str, inspect.StructType]:
    """The tagged structs among which ``type_`` is a choice, by tag; empty where it is something else."""
    types = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    return {str(t.tag): t for t in types if isinstance(t, inspect.StructType) and t.tag is not None}


def _in_seconds(value: Any, key: str = "") -> Any:
    """The data with durations such as ``7d`` as seconds."""
    if isinstance(value, dict):
        return {name: _in_seconds(child, str(name)) for name, child in value.items()}
    if isinstance(value, list):
        return [_in_seconds(child, key) for child in value]
    match = _DURATION.match(value) if isinstance(value, str) and key.endswith("_s") else None
    return float(match[1]) * _SECONDS[match[2]] if match else value
