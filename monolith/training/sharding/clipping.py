"""Clipping by the norm of all rows' gradients, where the rows of a table are on several ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monolith.training.sharding.answers import PartStep
from monolith.training.sharding.transport import Transport

Doubles = npt.NDArray[np.float64]


def global_norms(transport: Transport, steps: Sequence[PartStep], *, exact: bool) -> dict[int, list[float]]:
    """Of each table, by number, the norm for each rule that clips so, over all ranks. Collective if there is one.

    ``exact``: squares are added in the order of their rows' first occurrence in the global batch, which is one
    process's order. Else each part adds its own in double, then the parts are added in order.
    """
    norms: dict[int, list[float]] = {step.part.number: [] for step in steps}
    clipping = [step for step in steps if step.part.division.clips]
    if not clipping:
        return norms
    message = np.concatenate([piece for step in clipping for piece in _measured(step, exact=exact)])
    messages = transport.send([message] * transport.ranks).wait()
    for number, sums in _by_table(messages).items():
        norms[number] = [_norm(keys, squares) for keys, squares in sums]
    return norms


def _measured(step: PartStep, *, exact: bool) -> list[npt.NDArray[np.int64]]:
    """For each rule: table, rule, how many, their keys, and the squares' bits."""
    pieces: list[npt.NDArray[np.int64]] = []
    for rule, squares in enumerate(step.squares()):
        keys = step.square_keys() if exact else None
        if keys is not None:
            there = np.flatnonzero(squares)
            keys, squares = keys[there], squares[there]
        else:
            first = next(iter(step.part.table.buckets))
            keys, squares = np.array([first], np.int64), np.array([_in_order(squares)])
        pieces += [np.array([step.part.number, rule, len(keys)], np.int64), keys, squares.view(np.int64)]
    return pieces


def _by_table(messages: Sequence[npt.NDArray[np.int64]]) -> dict[int, list[tuple[list[object], list[object]]]]:
    found: dict[int, list[tuple[list[object], list[object]]]] = {}
    for message in messages:
        at = 0
        while at < len(message):
            number, rule, count = message[at : at + 3].tolist()
            rules = found.setdefault(number, [])
            while len(rules) <= rule:
                rules.append(([], []))
            rules[rule][0].append(message[at + 3 : at + 3 + count])
            rules[rule][1].append(message[at + 3 + count : at + 3 + 2 * count].view(np.float64))
            at += 3 + 2 * count
    return found


def _norm(keys: list[object], squares: list[object]) -> float:
    order = np.argsort(np.concatenate(keys), kind="stable")  # type: ignore[arg-type]
    return math.sqrt(_in_order(np.concatenate(squares)[order]))  # type: ignore[arg-type]


def _in_order(values: Doubles) -> float:
    """The sum, one after the other, as the native core forms it."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
