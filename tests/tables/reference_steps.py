"""The optimizers' steps in NumPy, operation by operation: what the native core must give, bit for bit.

It is the executable form of ``docs/optimizers.md``. Rows are ``w`` (n, dim) and ``state`` (n, words), both float32 and
changed in place; ``grads`` (n, dim) has the summed gradient of each. The rows are all that a call steps, in the order
in which their ids first occur in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.config.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    RMSProp,
    RowWiseAdagrad,
    RowWiseAdam,
    RowWiseAdamW,
    Schedule,
)
from monolith.config.table import TableConfig

F32 = np.float32
Floats = npt.NDArray[np.float32]


def slices_of(config: TableConfig) -> Iterator[tuple[slice, Optimizer, slice]]:
    """Each optimizer of a row: its columns, itself, its words of state."""
    column = word = 0
    parts = [(part.columns, part.optimizer) for part in config.slices] or [(config.dim, config.optimizer)]
    for columns, optimizer in parts:
        words = initial_state(optimizer, 1, columns).shape[1]
        yield slice(column, column + columns), optimizer, slice(word, word + words)
        column, word = column + columns, word + words


def row_state(config: TableConfig, n: int) -> Floats:
    """The state of ``n`` fresh rows, (n, words)."""
    return np.concatenate(
        [initial_state(rule, n, cols.stop - cols.start) for cols, rule, _ in slices_of(config)], axis=1
    )


def initial_state(optimizer: Optimizer, n: int, dim: int) -> Floats:
    """The optimizer's state of ``n`` fresh rows, (n, words)."""
    match optimizer:
        case SGD():
            return np.zeros((n, 0), F32)
        case Momentum() | RMSProp():
            return np.zeros((n, dim), F32)
        case Adagrad():
            return np.full((n, dim), optimizer.initial_accumulator, F32)
        case RowWiseAdagrad():
            return np.full((n, 1), optimizer.initial_accumulator, F32)
        case Adam() | AdamW():
            return np.zeros((n, (3 if optimizer.amsgrad else 2) * dim + 1), F32)
        case RowWiseAdam() | RowWiseAdamW():
            return np.zeros((n, dim + 2), F32)
        case FTRL():
            state = np.zeros((n, 2 * dim + 1), F32)
            state[:, dim : 2 * dim] = optimizer.initial_accumulator
            return state


def step(optimizer: Optimizer, w: Floats, state: Floats, grads: Floats, t: int = 1) -> None:
    """One step of one optimizer on rows, which is the table's ``t``-th."""
    lr = optimizer.lr * schedule_share(optimizer.schedule, t)
    g = grads if optimizer.clip_row_norm is None else clipped(grads, optimizer.clip_row_norm)
    if optimizer.clip_global_norm is not None:
        g = globally_clipped(g, optimizer.clip_global_norm)
    if isinstance(optimizer, AdamW | RowWiseAdamW):
        w *= F32(1.0 - lr * optimizer.weight_decay)
    elif optimizer.weight_decay != 0:
        g = g + F32(optimizer.weight_decay) * w
    match optimizer:
        case SGD():
            w -= F32(lr) * g
        case Momentum():
            state[:] = F32(optimizer.momentum) * state + g
            w -= F32(lr) * (g + F32(optimizer.momentum) * state if optimizer.nesterov else state)
        case Adagrad():
            state += g * g
            w -= F32(lr) * g / (np.sqrt(state) + F32(optimizer.eps))
        case RowWiseAdagrad():
            state += (lane_sum(g * g) / F32(w.shape[1]))[:, None]
            w -= F32(lr) / (np.sqrt(state) + F32(optimizer.eps)) * g
        case RMSProp():
            state[:] = F32(optimizer.alpha) * state + F32(1.0 - optimizer.alpha) * (g * g)
            w -= F32(lr) * g / (np.sqrt(state) + F32(optimizer.eps))
        case Adam() | AdamW():
            _adam(optimizer, lr, w, state, g, t)
        case RowWiseAdam() | RowWiseAdamW():
            _rowwise_adam(optimizer, lr, w, state, g, t)
        case FTRL():
            _ftrl(optimizer, F32(lr), w, state, g)


def _adam(adam: Adam | AdamW, lr: float, w: Floats, state: Floats, g: Floats, t: int) -> None:
    dim = w.shape[1]
    m, v, greatest = state[:, :dim], state[:, dim : 2 * dim], state[:, 2 * dim + 1 :]
    rate, root = _corrections(adam, lr, state[:, 2 * dim : 2 * dim + 1], t)
    m[:] = F32(adam.beta1) * m + F32(1.0 - adam.beta1) * g
    v[:] = F32(adam.beta2) * v + F32(1.0 - adam.beta2) * (g * g)
    if adam.amsgrad:
        np.maximum(greatest, v, out=greatest)
    w -= rate * m / (np.sqrt(greatest if adam.amsgrad else v) / root + F32(adam.eps))


def _rowwise_adam(adam: RowWiseAdam | RowWiseAdamW, lr: float, w: Floats, state: Floats, g: Floats, t: int) -> None:
    dim = w.shape[1]
    m, v = state[:, :dim], state[:, dim : dim + 1]
    rate, root = _corrections(adam, lr, state[:, dim + 1 :], t)
    m[:] = F32(adam.beta1) * m + F32(1.0 - adam.beta1) * g
    v[:] = F32(adam.beta2) * v + F32(1.0 - adam.beta2) * (lane_sum(g * g) / F32(dim))[:, None]
    w -= rate / (np.sqrt(v) / root + F32(adam.eps)) * m


def _corrections(
    adam: Adam | AdamW | RowWiseAdam | RowWiseAdamW, lr: float, count: Floats, table_step: int
) -> tuple[Floats, Floats]:
    """What corrects the bias of each row's moments, (n, 1), at its next step, which is the table's ``table_step``.

    ``count`` (n, 1) has the rows' own steps, as unsigned integers: it goes up whichever count the corrections go by.
    """
    own = count.view(np.uint32)
    own += np.uint32(1)
    t = own if adam.steps == "row" else np.full(own.shape, table_step, np.uint64)  # no count said: the table's
    return (lr / (1.0 - power(adam.beta1, t))).astype(F32), np.sqrt(1.0 - power(adam.beta2, t)).astype(F32)


def _ftrl(ftrl: FTRL, lr: np.float32, w: Floats, state: Floats, g: Floats) -> None:
    if lr == 0:
        return
    dim, beta, l1, l2 = w.shape[1], F32(ftrl.beta), F32(ftrl.l1), F32(ftrl.l2)
    z, n, last = state[:, :dim], state[:, dim : 2 * dim], state[:, 2 * dim :]
    before = np.where(last == 0, F32(0), (beta + np.sqrt(n)) / np.where(last == 0, F32(1), last))
    n += g * g
    rate = (beta + np.sqrt(n)) / lr
    z += g - (rate - before) * w
    kept = np.abs(z) > l1
    w[:] = np.divide(np.copysign(l1, z) - z, rate + l2, out=np.zeros_like(z), where=kept)
    last[:] = lr


def clipped(grads: Floats, bound: float) -> Floats:
    """Each row of ``grads`` brought down to a norm of ``bound``; the norm is taken in float64."""
    wide = grads.astype(np.float64)
    norms = np.sqrt(lane_sum(wide * wide))[:, None]
    scales = (bound / np.maximum(norms, bound)).astype(F32)
    return np.where(norms > bound, grads * scales, grads)


def globally_clipped(grads: Floats, bound: float) -> Floats:
    """All of ``grads`` brought down together to a norm of ``bound``: squares in float64, rows added up in order."""
    wide = grads.astype(np.float64)
    total = np.add.accumulate(lane_sum(wide * wide))[-1] if len(grads) else 0.0
    norm = float(np.sqrt(total))
    return grads * F32(bound / norm) if norm > bound else grads


def schedule_share(schedule: Schedule, t: int) -> float:
    """The share of ``lr`` at the table's step ``t``, from 1; float64."""
    if t < schedule.warmup_steps:
        return t / schedule.warmup_steps
    return schedule.floor + (1.0 - schedule.floor) * _left(schedule, t - schedule.warmup_steps)


def _left(schedule: Schedule, since: int) -> float:
    steps = schedule.decay_steps or 1
    match schedule.decay:
        case "inverse_sqrt":
            start = max(schedule.warmup_steps, 1)
            return math.sqrt(start / max(schedule.warmup_steps + since, start))
        case "cosine":
            root = _cosine(1.5707963267948966 * since / steps) if since < steps else 0.0
            return root * root
        case "step":
            return float(power(schedule.gamma or 0.0, np.array([since // steps]))[0])
    return 1.0


def _cosine(x: float) -> float:
    total = term = 1.0
    for k in range(1, 13):
        term *= -(x * x) / ((2 * k - 1) * (2 * k))
        total += term
    return total


def lane_sum(terms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sum of each row of ``terms`` (n, dim): over 16 lanes in column order, then lanes pairwise; (n,)."""
    lanes = np.zeros((len(terms), 16), terms.dtype)
    for first in range(0, terms.shape[1], 16):
        part = terms[:, first : first + 16]
        lanes[:, : part.shape[1]] += part
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
    return lanes[:, 0]


def power(base: float, exponents: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """``base ** exponents`` in float64 by squaring, low bit first."""
    result = np.ones(exponents.shape, np.float64)
    square = base
    for bit in range(int(exponents.max(initial=0)).bit_length()):
        result = np.where(exponents >> bit & 1, result * square, result)
        square *= square
    return result
