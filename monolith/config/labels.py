"""What the model learns to predict: one task or several, each with its loss and its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from monolith.config.limits import Positive

LossKind = Literal["log", "squared"]


class TaskConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One task. The model has one output for each; all else of the network is shared."""

    name: str = "label"  # as labels and predictions call it; each name once
    loss: LossKind = "log"  # log: labels 0 and 1, predicts a probability; squared: any number, predicts a number
    weight: Positive = 1.0  # of the task's loss in the sum over tasks
    actions: list[str] = []  # joined streams: the actions that make the label 1
    value: str | None = None  # joined streams: the action whose value is the label
    default: float | None = None  # the label where no such action came in the window; None: it has none


def makers(task: TaskConfig) -> list[str]:
    """The actions that make the label of ``task``; none: it does not name them."""
    return task.actions if task.value is None else [task.value]


def gathers(tasks: Sequence[TaskConfig]) -> bool:
    """Whether the labels of joined streams are gathered until the sample is made, and not one action's bit."""
    return len(tasks) > 1 or any(task.value is not None for task in tasks)
