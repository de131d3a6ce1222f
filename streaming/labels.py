"""The labels of a joined sample: held against the job's tasks, packed in front of the features, and made into columns.

Where a job reads joined samples, every packed row begins with a *label block*: one float32 a task, the label, then one
float32 a task, its weight. A task whose label is missing has label 0 and weight 0. Rows of joined streams with one
binary task have no block: the joiner gives the label there. Those with several tasks, or with a task whose label is an
action's value, begin with the block of a sample without any action, in which the joiner gathers the labels.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config import JobConfig, TaskConfig
from monolith.config.label_rules import LARGEST_WEIGHT
from monolith.config.labels import gathers
from monolith.echo import shown
from monolith.errors import EventError
from monolith.events import Labels, Weights
from monolith.tables.batch import Floats

Doubles = npt.NDArray[np.float64]

# Of a label and of a weight, as of the weights of bags: gradients then stay far from overflowing.
LARGEST_LABEL = float(LARGEST_WEIGHT)


class LabelBlocks:
    """Packs and unpacks the label blocks of one job. Immutable; any thread may call it."""

    def __init__(self, job: JobConfig) -> None:
        self._tasks = {task.name: task for task in job.labels}
        is_joined = job.input.samples is None
        has_blocks = not is_joined or gathers(job.labels)
        self.names = list(self._tasks) if has_blocks else []  # of the tasks in a block
        self._form = struct.Struct(f"<{2 * len(self.names)}f")
        self.shown = self._without_action() if is_joined else b""  # what the row of a feature event begins with
        self._valued = [task for task in job.labels if is_joined and task.value is not None]
        is_binary = [task.loss for task in job.labels] == ["log"]
        self._usual = {label: (label, self.of_label(label)) for label in (0.0, 1.0)} if is_binary else {}

    @property
    def gathers(self) -> bool:
        """Whether labels are gathered from actions, into the block that a feature event's row begins with."""
        return bool(self.shown)

    @property
    def size(self) -> int:
        """Bytes of a block; 0 where rows have none."""
        return self._form.size

    def value(self, action: str, value: object) -> float | msgspec.UnsetType:
        """The value that tasks take of an action, UNSET where none does: then nobody looks at it.

        Raises EventError for one that is missing, and for one that a task does not take.
        """
        taken: float | msgspec.UnsetType = msgspec.UNSET
        for task in self._valued:
            if task.value == action:
                if value is msgspec.UNSET or value is None:
                    text = f"task {task.name!r} takes the value of {shown(action)}, and this one has none"
                    raise EventError("value", f"{text}: send value, a number")
                taken, _ = _checked(task, value, 1.0, reason="value")
        return taken

    def _without_action(self) -> bytes:
        """The block of a sample of which nothing is known but that it was shown."""
        if not self.names:
            return b""
        labels = [0.0 if task.value is None else task.default for task in self._tasks.values()]
        return self._form.pack(*(label or 0.0 for label in labels), *(float(label is not None) for label in labels))

    def pack(self, label: Labels, weights: Weights | None = None) -> tuple[float, bytes]:
        """The label of the first task, and the block. Raises EventError for what the job's tasks do not take."""
        if weights is None and not isinstance(label, dict) and label in self._usual:
            return self._usual[label]
        labels = self._by_task(label, "label")
        given = {} if weights is None else self._by_task(weights, "weights")
        pairs = [_checked(task, labels.get(name), given.get(name)) for name, task in self._tasks.items()]
        numbers = *(label for label, _ in pairs), *(weight for _, weight in pairs)
        return numbers[0], self._form.pack(*numbers) if self.names else b""

    def _by_task(self, given: object, what: str) -> Mapping[str, object]:
        if not isinstance(given, dict):
            if len(self._tasks) > 1:
                text = f"{what} is {shown(given)}, the job has several tasks: send a mapping from task to number"
                raise EventError("label", f"{text}; tasks: {', '.join(self._tasks)}")
            return dict.fromkeys(self._tasks, given)
        for name in given:
            if name not in self._tasks:
                raise EventError("label", f"{what} has the task {shown(name)}, the job has {', '.join(self._tasks)}")
        return given

    def pack_columns(
        self, labels: Doubles, weights: Doubles, missing: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """The blocks (n, size) of labels and weights (n, tasks), and which rows surely fit, (n,); others are 0.

        ``missing`` (n, tasks): there is no label.
        """
        is_log = np.array([task.loss == "log" for task in self._tasks.values()])
        fit = np.where(is_log, (labels == 0) | (labels == 1), np.abs(labels) <= LARGEST_LABEL) | missing
        fit &= (weights >= 0) & (weights <= LARGEST_LABEL)
        has = fit & ~missing & (weights > 0)
        both = np.hstack([np.where(has, labels + 0.0, 0.0), np.where(has, weights, 0.0)]).astype("<f4")
        fits: npt.NDArray[np.bool_] = np.asarray(fit.all(axis=1))
        return both.view(np.uint8).reshape(len(labels), self.size), fits

    def first_labels(self, blocks: npt.NDArray[np.uint8]) -> Floats:
        """The label of the first task in each of ``blocks`` (n, size)."""
        return blocks[:, :4].copy().view("<f4").reshape(-1)

    def columns(self, heads: bytes, samples: int) -> tuple[Floats, Floats | None, bytes]:
        """Labels and weights (samples, tasks), and the heads of the features, of rows' heads that begin with blocks.

        The weights are None where each is 1.
        """
        matrix = np.frombuffer(heads, np.uint8).reshape(samples, -1 if samples else self.size)
        # Copies, as a single row passes for contiguous with strides of bytes, which torch refuses.
        block = matrix[:, : self.size].copy().view("<f4")
        labels, weights = (half.copy() for half in np.split(block, 2, axis=1))
        return labels, None if (weights == 1).all() else weights, matrix[:, self.size :].tobytes()

    def without(self, row: bytes) -> bytes:
        """The packed features in ``row``."""
        return row[self.size :]

    def of_label(self, label: float) -> bytes:
        """The block of a sample with a label for the first task alone."""
        others = [0.0] * (len(self.names) - 1)
        return self._form.pack(label, *others, 1.0, *others) if self.names else b""


def _checked(task: TaskConfig, label: object, weight: object, *, reason: str = "label") -> tuple[float, float]:
    """Label and weight of one task. Raises EventError."""
    if label is None:
        return 0.0, 0.0
    is_log = task.loss == "log"
    if not isinstance(label, int | float) or not (label in (0, 1) if is_log else abs(label) <= LARGEST_LABEL):
        allowed = "0 and 1, true and false" if is_log else "-1000000 to 1000000"
        raise EventError(reason, f"task {task.name!r}: the label is {shown(label)}, allowed: {allowed}")
    weight = 1.0 if weight is None else weight
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0.0 <= weight <= LARGEST_LABEL:
        text = f"task {task.name!r}: the weight is {shown(weight)}, allowed: 0 to 1000000"
        raise EventError("label", text)
    return (label + 0.0, float(weight)) if weight else (0.0, 0.0)  # -0.0 becomes 0.0
