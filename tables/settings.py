"""A table's settings in its file: the TableConfig as plain values, so that neither has to follow the other.

All keys are written out, since a default may change, but for those that say nothing about the rows: ``memory``, what
makes another kind of embedding of tables like this one, and rules of pruning where there are none. Beside them goes the
list of those that have their default. So a build that does not know a key can tell whether the table made use of it: of
a key at its default it may not know, of another it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from monolith.config.optimizers import StepCount
from monolith.config.table import TableConfig
from monolith.tables.optimizer_options import with_steps
from monolith.tables.options import checked

Path = tuple[str | int, ...]

_NOT_OF_ROWS = ("memory", "kind", "rows", "remainders", "combine", "width", "probes", "own_rows", "score_decay")
_WHERE_GIVEN = ("threshold", "probation_s")


def settings_of(config: TableConfig) -> tuple[dict[str, Any], list[list[str | int]]]:
    """The config as JSON's types, and the ways to those keys in it that have their default."""
    settings: dict[str, Any] = msgspec.to_builtins(config)
    left = {*_NOT_OF_ROWS, *(key for key in _WHERE_GIVEN if settings[key] is None)}
    for key in left:
        del settings[key]
    return settings, [list(path) for path in _defaulted(config, ()) if path[0] not in left]


def config_of(settings: Mapping[str, Any], defaulted: list[list[str | int]]) -> TableConfig:
    """The config again, checked, without those keys that were at their default and that this build does not know.

    Raises msgspec.ValidationError for what this build does not know, ConfigError for what no table can have.
    """
    unused = {tuple(path) for path in defaulted}
    known = _pruned(_CONFIG, dict(settings), (), lambda path: path in unused)
    return with_steps(checked(msgspec.convert(known, TableConfig)), "row")  # the only count that there was at first


def saved_steps(settings: Mapping[str, Any]) -> list[StepCount]:
    """By which count each optimizer of a row corrected Adam's bias, as far as its kind has one."""
    slices = [part.get("optimizer") for part in settings.get("slices") or () if isinstance(part, dict)]
    optimizers = slices or [settings.get("optimizer")]
    return ["table" if isinstance(each, dict) and each.get("steps") == "table" else "row" for each in optimizers]


def _defaulted(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(type(value)):
            own = getattr(value, field.name)
            if _has_default(field, own):
                yield (*path, field.encode_name)
            else:
                yield from _defaulted(own, (*path, field.encode_name))
    elif isinstance(value, dict):
        for key, own in value.items():
            yield from _defaulted(own, (*path, key))
    elif isinstance(value, list):
        for number, own in enumerate(value):
            yield from _defaulted(own, (*path, number))


def _has_default(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    if field.default_factory is not msgspec.NODEFAULT:
        return bool(value == field.default_factory())
    return field.default is not msgspec.NODEFAULT and bool(value == field.default)


def _pruned(info: Any, value: Any, path: Path, droppable: Callable[[Path], bool]) -> Any:
    """``value``, of the type ``info`` describes, without the keys that the type does not have and that may go."""
    if isinstance(info, msgspec.inspect.UnionType):
        info = next((each for each in info.types if _is_of(each, value)), None)
    if isinstance(info, msgspec.inspect.StructType) and isinstance(value, dict):
        types = {field.encode_name: field.type for field in info.fields}
        kept = {key: own for key, own in value.items() if key in types or not droppable((*path, key))}
        return {key: _pruned(types.get(key), own, (*path, key), droppable) for key, own in kept.items()}
    if isinstance(info, msgspec.inspect.DictType) and isinstance(value, dict):
        return {key: _pruned(info.value_type, own, (*path, key), droppable) for key, own in value.items()}
    if isinstance(info, msgspec.inspect.ListType) and isinstance(value, list):
        return [_pruned(info.item_type, own, (*path, i), droppable) for i, own in enumerate(value)]
    return value


def _is_of(info: Any, value: Any) -> bool:
    if not isinstance(info, msgspec.inspect.StructType) or not isinstance(value, dict):
        return False
    return info.tag_field is None or value.get(info.tag_field) == info.tag


_CONFIG = msgspec.inspect.type_info(TableConfig)  # prepared here: tables are opened in threads
