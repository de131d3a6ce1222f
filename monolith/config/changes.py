"""What may change in a job between two starts of one run.

Most settings may. Those that decide bits may not while journalled steps wait to be run again: the store has what
those steps published, and other settings would make something else of them under the same sequence numbers. One may:
away from `on_nonfinite: raise`, which decides nothing in a step that went well and is the way on from one that did not.

The settings of the run so far may be of an older build. A key that it did not have counts as today's default, so
whoever adds a key gives it the default that leaves everything as it was. A key that is taken away goes into `RETIRED`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

from monolith.config.job import JobConfig
from monolith.config.load import job_json
from monolith.errors import ConfigError

# Everything that a step's result depends on besides its records. A prefix stands for all keys below it.
DECIDING = (
    "seed",
    "tables",
    "features",
    "labels",
    "join",
    "model",
    "dense_optimizer",
    "input.max_out_of_order_s",
    "input.max_future_s",
    "input.jump_records",
    "input.max_jump_s",
    "input.time_unit",
    "input.check_time_unit",
    "input.unknown_features",
    "train.batch_size",
    "train.sweep_rows",
    "train.threads",
    "train.window_samples",
    "train.group_by",
)
INDIFFERENT = re.compile(r"tables\[\d+\]\.memory\.")  # where rows lie decides nothing
RETIRED: dict[str, Any] = {}  # key -> the value with which older builds did what this one does; lists without index
LASTING = ("model", "dense_optimizer.kind")  # what the kept weights are the weights of
NAMES = re.compile(r"(tables|labels)\[\d+\]\.(name|loss|value)")  # likewise; a feature may be declared, or no longer


def deciding_settings(job: JobConfig) -> bytes:
    """The settings that decide bits, as canonical JSON: equal bytes for jobs that make the same of the same records."""
    flat = _flat(msgspec.json.decode(job_json(job)))
    return msgspec.json.encode({key: flat[key] for key in sorted(flat) if _decides(key)})


def deciding_changes(old: bytes, job: JobConfig) -> dict[str, tuple[Any, Any]]:
    """Deciding settings that differ between canonical JSON ``old`` and ``job``: key -> (was, is)."""
    before, after = _flat(_as_of_today(old)), _flat(msgspec.json.decode(job_json(job)))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and _decides(key)
    }


def _as_of_today(old: bytes) -> Any:
    """The job as plain data: with today's defaults for keys that its build did not have, without retired ones."""
    return _filled(msgspec.json.decode(old), inspect.type_info(JobConfig), "")


def _filled(value: Any, type_: inspect.Type, key: str) -> Any:
    if isinstance(type_, inspect.UnionType):
        type_ = _variant(value, type_)
    if isinstance(value, list) and isinstance(type_, inspect.ListType):
        return [_filled(item, type_.item_type, key) for item in value]
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


def check_changes(old: bytes, job: JobConfig, *, pending: int) -> dict[str, tuple[Any, Any]]:
    """The changes, if they may be made now; ``pending`` journalled steps are still to be run again.

    Raises ConfigError for a change of what is kept, and for any deciding one while steps are pending.
    """
    changes = deciding_changes(old, job)
    lasting = {key: change for key, change in changes.items() if _below(key, LASTING) or NAMES.fullmatch(key)}
    if lasting:
        raise ConfigError(
            f"{_words(lasting)}: the state folder is of another model. Set it back, or give a new `state`"
        )
    waiting = {key: change for key, change in changes.items() if not _is_way_on(key, change)}
    if waiting and pending:
        raise ConfigError(
            f"{_words(waiting)}, but {pending} journalled steps are still to be run again as they were. Start the job "
            "once with the old settings and stop it (SIGTERM), then change them"
        )
    return changes


def _is_way_on(key: str, change: tuple[Any, Any]) -> bool:
    if key in ("input.time_unit", "input.check_time_unit"):  # a stream that is refused for its unit has trained nothing
        return change[0] in ("ms", True)
    return key.endswith(".on_nonfinite") and change[0] == "raise"


def _words(changes: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {was!r}, now {now!r}" for key, (was, now) in changes.items())


def _decides(key: str) -> bool:
    return _below(key, DECIDING) and not INDIFFERENT.match(key)


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith((f"{prefix}.", f"{prefix}[")) for prefix in prefixes)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by their path, list items by index."""
    if isinstance(value, dict):
        items = [(f"{key}.{name}" if key else name, child) for name, child in value.items()]
    elif isinstance(value, list):
        items = [(f"{key}[{i}]", child) for i, child in enumerate(value)]
    else:
        return {key: value}
    return {path: leaf for name, child in items for path, leaf in _flat(child, name).items()}
