"""What a table's optimizers must satisfy beyond the type of each key: whole schedules, slices that cover a row.

Each rule yields what it finds wrong, with the way to the key from the table. The job loader and ``monolith.tables``
hold configs to the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from monolith.config.document import Keys
from monolith.config.optimizers import SGD, Adagrad, Optimizer, Schedule
from monolith.config.schema import Problem
from monolith.config.table import TableConfig


def optimizers_of(table: TableConfig) -> Iterator[tuple[Keys, Optimizer]]:
    """Each optimizer of a row, with the way to it: the one of ``optimizer``, or those of the slices."""
    if not table.slices:
        yield ("optimizer",), table.optimizer
    for i, part in enumerate(table.slices):
        yield ("slices", i, "optimizer"), part.optimizer


def largest_gradient(table: TableConfig) -> float:
    """The largest size in a gradient that each of the table's optimizers bears; the rest meets ``on_nonfinite``."""
    return min(_largest(optimizer) for _, optimizer in optimizers_of(table))


def _largest(optimizer: Optimizer) -> float:
    largest = optimizer.LARGEST_GRADIENT
    norms = (optimizer.clip_row_norm, optimizer.clip_global_norm)
    clips = any(norm is not None and norm <= largest for norm in norms)
    return SGD.LARGEST_GRADIENT if clips else largest


def broken_optimizer_rules(table: TableConfig) -> Iterator[Problem]:
    """Every rule that the table's optimizers break."""
    if table.slices:
        yield from _slices(table)
    for keys, optimizer in optimizers_of(table):
        for field, text in optimizer.faults():
            yield (*keys, field), text
        yield from _schedule((*keys, "schedule"), optimizer.schedule)
    if table.max_gradient > (largest := largest_gradient(table)):
        yield ("max_gradient",), f"{table.max_gradient:g} is above {largest:g}, the most that the optimizer bears"


def _slices(table: TableConfig) -> Iterator[Problem]:
    columns = sum(part.columns for part in table.slices)
    if columns != table.dim:
        yield ("slices",), f"the slices have {columns} columns in all; allowed: dim columns, {table.dim}"
    if table.optimizer != Adagrad():
        yield ("optimizer",), "slices have optimizers of their own; leave `optimizer` out, or the slices"


def _schedule(keys: Keys, schedule: Schedule) -> Iterator[Problem]:
    decay = schedule.decay
    needs = {"cosine": ("decay_steps",), "step": ("decay_steps", "gamma")}.get(decay, ())
    for field in ("decay_steps", "gamma"):
        value = getattr(schedule, field)
        if field in needs and value is None:
            yield (*keys, field), f"the decay {decay!r} needs {field}; saw none"
        elif field not in needs and value is not None:
            yield (*keys, field), f"the decay {decay!r} takes no {field}; saw {value}"
    if decay == "constant" and schedule.floor != 0:
        yield (*keys, "floor"), f"the decay 'constant' does not fall and takes no floor; saw {schedule.floor}"
