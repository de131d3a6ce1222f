"""From the optimizers of a TableConfig to the native ones: every limit of every field, and how a row is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np

from monolith.config.document import path_text
from monolith.config.optimizer_rules import optimizers_of
from monolith.config.optimizers import Optimizer, Schedule, StepCount
from monolith.config.table import TableConfig
from monolith.tables import _core

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Rule = tuple[str, Any, bool, str]  # path in the config, value, whether it is right, what is allowed


def native_optimizer(config: TableConfig) -> Any:
    """The native optimizer of a checked config, in which every step count is settled."""
    if not config.slices:
        return _native(config.optimizer)
    sliced = _core.Sliced()
    for part in config.slices:
        sliced.add(part.columns, _native(part.optimizer))
    return sliced


def with_steps(config: TableConfig, otherwise: StepCount, saved: Sequence[StepCount] = ()) -> TableConfig:
    """The config with a step count wherever Adam has none: that of ``saved``, by slices, or where it ends, this."""

    def settled(rule: Optimizer, number: int) -> Optimizer:
        if getattr(rule, "steps", "") is not None:
            return rule
        return msgspec.structs.replace(rule, steps=saved[number] if number < len(saved) else otherwise)

    slices = [
        msgspec.structs.replace(part, optimizer=settled(part.optimizer, number))
        for number, part in enumerate(config.slices)
    ]
    return msgspec.structs.replace(config, optimizer=settled(config.optimizer, 0), slices=slices)


def native_schedule(schedule: Schedule) -> Any:
    """The native schedule of a checked one."""
    native = _core.Schedule()
    native.decay = getattr(_core.LrDecay, schedule.decay)
    native.warmup_steps = schedule.warmup_steps
    native.floor = schedule.floor
    if schedule.decay_steps is not None:
        native.decay_steps = schedule.decay_steps
    if schedule.gamma is not None:
        native.gamma = schedule.gamma
    return native


def row_layout(config: TableConfig) -> str:
    """What says how wide a row's optimizer state is and what it means, in words; hyperparameters are no part of it."""
    if not config.slices:
        return config.optimizer.layout()
    return " + ".join(f"{part.columns} x {part.optimizer.layout()}" for part in config.slices)


def optimizer_rules(config: TableConfig) -> Iterator[Rule]:
    """Every limit of the config's optimizers."""
    for i, part in enumerate(config.slices):
        yield f"slices[{i}].columns", part.columns, part.columns >= 1, "at least 1"
    for keys, optimizer in optimizers_of(config):
        yield from _rules(path_text(keys), optimizer)


def _native(optimizer: Optimizer) -> Any:
    """The native struct of the same name, field by field."""
    native = getattr(_core, type(optimizer).__name__)()
    for field, value in msgspec.structs.asdict(optimizer).items():
        if field == "schedule":
            native.schedule = native_schedule(value)
        elif field == "steps" and value is not None:
            native.steps = getattr(_core.StepCount, value)
        elif value is not None:
            setattr(native, field, value)
    return native


def _rules(path: str, optimizer: Optimizer) -> Iterator[Rule]:
    positive = _positive_fields(type(optimizer))
    for field, value in msgspec.structs.asdict(optimizer).items():
        if field in ("schedule", "steps") or value is None:
            continue
        right = math.isfinite(value) and 0 <= value <= _FLOAT32_MAX
        yield f"{path}.{field}", value, right, "a finite float32 number of at least 0"
        if field in positive:
            yield f"{path}.{field}", value, float(np.float32(value)) > 0, "a number above 0 in float32"
    yield from _schedule_rules(f"{path}.schedule", optimizer.schedule)


@cache
def _positive_fields(kind: type[Optimizer]) -> set[str]:
    """The fields, beside the rate, that are above 0 by their type: they have to stay so in float32."""
    info = msgspec.inspect.type_info(kind)
    positive = set()
    for field in info.fields:  # type: ignore[attr-defined]
        types = getattr(field.type, "types", (field.type,))
        if any(getattr(each, "gt", None) == 0 for each in types):
            positive.add(field.name)
    return positive - {"lr"}


def _schedule_rules(path: str, schedule: Schedule) -> Iterator[Rule]:
    for field, least in (("warmup_steps", 0), ("decay_steps", 1)):
        value = getattr(schedule, field)
        yield f"{path}.{field}", value, value is None or least <= value < 2**32, f"{least} to 2**32 - 1"
    for field in ("gamma", "floor"):
        value = getattr(schedule, field)
        yield f"{path}.{field}", value, value is None or 0 <= value <= 1, "0 to 1"
