"""From the optimizers of a TableConfig to the native ones: every limit of every field, and how a row is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from monolith.config.document import path_text
from monolith.config.optimizer_rules import optimizers_of
from monolith.config.table import Optimizer, Schedule, StepCount, TableConfig
from monolith.tables import _core

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SHARES = ("beta1", "beta2", "momentum", "alpha")  # what remains of something after a step

Rule = tuple[str, Any, bool, str]  # path in the config, value, whether it is right, what is allowed


def native_optimizer(config: TableConfig) -> Any:
    """The native optimizer of a checked config, in which every step count is settled."""
    if not config.slices:
        return _native(config.optimizer)
    sliced = _core.Sliced()
    for part in config.slices:
        sliced.add(part.columns, _native(part.optimizer))
    return sliced


def with_steps(config: TableConfig, otherwise: StepCount, saved: TableConfig | None = None) -> TableConfig:
    """The config with a step count wherever Adam has none: that of ``saved``, whose optimizers are alike, else this."""

    def settled(rule: Optimizer, former: Optimizer | None) -> Optimizer:
        if getattr(rule, "steps", "") is not None:
            return rule
        return msgspec.structs.replace(rule, steps=getattr(former, "steps", None) or otherwise)

    formers = [part.optimizer for part in saved.slices] if saved else [None] * len(config.slices)
    slices = [
        msgspec.structs.replace(part, optimizer=settled(part.optimizer, former))
        for part, former in zip(config.slices, formers, strict=True)
    ]
    optimizer = settled(config.optimizer, saved.optimizer if saved else None)
    return msgspec.structs.replace(config, optimizer=optimizer, slices=slices)


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
        return _kind(config.optimizer)
    return " + ".join(f"{part.columns} x {_kind(part.optimizer)}" for part in config.slices)


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


def _kind(optimizer: Optimizer) -> str:
    kind: str = msgspec.to_builtins(optimizer)["kind"]
    return f"{kind} with amsgrad" if getattr(optimizer, "amsgrad", False) else kind


def _rules(path: str, optimizer: Optimizer) -> Iterator[Rule]:
    for field, value in msgspec.structs.asdict(optimizer).items():
        if field not in ("schedule", "steps") and value is not None:
            right = math.isfinite(value) and 0 <= value <= _FLOAT32_MAX
            yield f"{path}.{field}", value, right, "a finite float32 number of at least 0"
    for field in ("eps", "clip_row_norm", "clip_global_norm"):
        value = getattr(optimizer, field, None)
        yield f"{path}.{field}", value, value is None or float(np.float32(value)) > 0, "a number above 0 in float32"
    for field in _SHARES:
        value = getattr(optimizer, field, 0.0)
        yield f"{path}.{field}", value, value < 1, "from 0 up to, not including, 1"
    yield from _schedule_rules(f"{path}.schedule", optimizer.schedule)


def _schedule_rules(path: str, schedule: Schedule) -> Iterator[Rule]:
    for field, least in (("warmup_steps", 0), ("decay_steps", 1)):
        value = getattr(schedule, field)
        yield f"{path}.{field}", value, value is None or least <= value < 2**32, f"{least} to 2**32 - 1"
    for field in ("gamma", "floor"):
        value = getattr(schedule, field)
        yield f"{path}.{field}", value, value is None or 0 <= value <= 1, "0 to 1"
