"""What differs between the settings of two stretches of one run, what may differ, and a job under older settings.

The settings of a stretch may be of another build. A key that it did not have counts as today's default, so whoever adds
a key gives it the default that leaves everything as it was. A key that is taken away goes into `RETIRED`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

from monolith.config.deciding import MIXED, Settings, flat, is_deciding
from monolith.config.document import path_text
from monolith.config.job import JobConfig
from monolith.config.schema import problems
from monolith.errors import ConfigError

RETIRED: dict[str, Any] = {}  # key -> the value with which older builds did what this one does; lists without index

# What the kept rows and weights are the rows and weights of. How a network learns is no part of it.
LASTING = re.compile(
    r"model\.(?!(dropout|embedding_l2)$)|dense_optimizer\.kind$"
    r"|tables\[\d+\]\.((name|dim|kind|rows|remainders|combine|width|own_rows|seed|shared_ids)$|probes\.)"
    r"|labels\[\d+\]\.(name|loss|value)$"
)

Changes = dict[str, tuple[Any, Any]]  # key -> (was, is); a key that one of the two does not have is None there

_NONFINITE = re.compile(r"(dense_optimizer|tables\[\d+\])\.(on_nonfinite|max_gradient)")
_UNITS = {"input.time_unit": "ms", "input.check_time_unit": True}  # as a stream is read that is refused for its unit
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def changes(old: Settings, new: Settings) -> Changes:
    """The deciding settings that differ."""
    before, after = flat(_as_of_today(old)), flat(_as_of_today(new))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def check_lasting(old: Settings, new: Settings) -> None:
    """Raise ConfigError, naming each, for settings that may never change in one state folder."""
    lasting = {key: change for key, change in changes(old, new).items() if LASTING.match(key)} | _resalted(old, new)
    if lasting:
        raise ConfigError(f"{words(lasting)}: the state folder is of another model. Set it back, or give a new `state`")


def _resalted(old: Settings, new: Settings) -> Changes:
    """Tables whose features' ids would be made in another way: every row would be another id's."""
    before, after = (_as_of_today(settings) for settings in (old, new))
    was, now = ({table["name"]: table for table in job.get("tables", [])} for job in (before, after))
    return {
        f"tables.{name}.features": (was[name]["features"], now[name]["features"])
        for name in was.keys() & now.keys()
        if _id_making(before, was[name]) != _id_making(after, now[name])
    }


def _id_making(job: dict[str, Any], table: dict[str, Any]) -> str:
    """How the keys of a table's rows come of its features' values."""
    if table["kind"] == "unified":
        return "salted by feature"
    if len(table["features"]) < 2:
        return "as they are"
    if not table["shared_ids"]:
        return "salted by feature"
    strings = {feature["name"] for feature in job.get("features", []) if feature.get("type") == "string"}
    return "strings seeded by table" if strings & {*table["features"]} else "as they are"


def words(found: Changes) -> str:
    """The changes for people, in one line."""
    return "; ".join(f"{key} was {was!r}, now {now!r}" for key, (was, now) in found.items())


def amended(pending: Settings, new: Settings, *, from_first: bool) -> Settings:
    """The settings with which journalled steps are run again: ``pending``, and what of ``new`` is their only way on.

    That is what away from ``on_nonfinite: raise`` decides, which decides nothing in a step that went well, and is
    the way on from one that did not. Where the steps are ``from_first`` all of the run, it is the unit of time too: a
    stream that was refused for it has trained nothing.
    """
    plain, raises = msgspec.json.decode(pending), flat(_as_of_today(pending))
    found = {
        key: now
        for key, (was, now) in changes(pending, new).items()
        if (from_first and key in _UNITS and _UNITS[key] == was)
        or ((match := _NONFINITE.fullmatch(key)) and raises.get(f"{match[1]}.on_nonfinite") == "raise")
    }
    if not found:
        return pending
    for key, now in found.items():
        _put(plain, key, now)
    return msgspec.json.encode(plain, order="sorted")


def _put(plain: Any, key: str, value: Any) -> None:
    *way, last = [name or int(place) for name, place in _STEP.findall(key)]
    for step in way:
        plain = plain.setdefault(step, {}) if isinstance(plain, dict) else plain[step]
    plain[last] = value


def job_under(job: JobConfig, settings: Settings, step: int) -> JobConfig:
    """``job`` with the deciding ``settings`` of the run from ``step`` on, all other keys its own.

    Raises ConfigError, naming each, for settings that this build cannot have.
    """
    whole = _overlaid(msgspec.to_builtins(job), _as_of_today(settings), "")
    faults = [f"{path_text(keys)}: {text}" for keys, text in problems(whole, inspect.type_info(JobConfig))]
    if faults:
        raise ConfigError(
            f"the steps from {step} on were made with settings that this build cannot have: {'; '.join(faults)}. "
            "Start the build that made them, stop it (SIGTERM) when it has run them again, and start this one then"
        )
    return msgspec.convert(whole, JobConfig)


def job_of_manifest(manifest_job: dict[str, Any], where: str) -> JobConfig:
    """The job as another run's snapshot has it, keys that came later at their default.

    Raises ConfigError, naming ``where`` and each key, for settings that this build cannot have.
    """
    whole = _filled(manifest_job, inspect.type_info(JobConfig), "")
    if faults := [f"{path_text(keys)}: {text}" for keys, text in problems(whole, inspect.type_info(JobConfig))]:
        raise ConfigError(f"{where} is of a job that this build cannot have: {'; '.join(faults)}")
    return msgspec.convert(whole, JobConfig)


def _overlaid(own: dict[str, Any], settings: dict[str, Any], path: str) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name in own | settings:
        key, mine, theirs = f"{path}.{name}".lstrip("."), own.get(name), settings.get(name)
        if key in MIXED and isinstance(theirs, list):
            by_name = {item["name"]: item for item in mine or []}
            whole[name] = [_overlaid(by_name.get(item.get("name"), {}), item, key) for item in theirs]
        elif key in MIXED:
            whole[name] = _overlaid(mine or {}, theirs or {}, key)
        elif name not in own or (is_deciding(key) and name in settings):
            whole[name] = theirs
        elif not is_deciding(key):
            whole[name] = mine
    return whole


def _as_of_today(settings: Settings) -> Any:
    """Plain data, with today's defaults for keys that the settings' build did not have, without retired ones."""
    return _filled(msgspec.json.decode(settings), inspect.type_info(JobConfig), "")


def _filled(value: Any, type_: inspect.Type, key: str) -> Any:
    if isinstance(type_, inspect.UnionType):
        type_ = _variant(value, type_)
    if isinstance(value, list) and isinstance(type_, inspect.ListType):
        return [_filled(item, type_.item_type, key) for item in value]
    if isinstance(value, dict) and isinstance(type_, inspect.DictType):
        return {name: _filled(item, type_.value_type, key) for name, item in value.items()}
    if not isinstance(value, dict) or not isinstance(type_, inspect.StructType):
        return value
    types = {field.encode_name: field.type for field in type_.fields}
    filled = {field.encode_name: _default(field) for field in type_.fields if not field.required}
    for name, child in value.items():
        path = f"{key}.{name}" if key else name
        if name in types:
            filled[name] = _filled(child, types[name], path)
        elif path not in RETIRED or RETIRED[path] != child:
            filled[name] = child
    return filled


def _default(field: inspect.Field) -> Any:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.to_builtins(value)


def _variant(value: Any, type_: inspect.UnionType) -> inspect.Type:
    """Which of the union's structs ``value`` is of, or the union itself."""
    if not isinstance(value, dict):
        return next((t for t in type_.types if isinstance(t, inspect.ListType)), type_)
    structs = [t for t in type_.types if isinstance(t, inspect.StructType)]
    return next((t for t in structs if t.tag_field is None or value.get(t.tag_field) == t.tag), type_)
