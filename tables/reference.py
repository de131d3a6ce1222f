"""The table's arithmetic in NumPy, operation by operation: what the native core must give, bit for bit.

It is the executable form of ``docs/formats.table.md`` and of the formulas in ``optimizers``; tests hold the native core
to it, and a reader in another language can hold itself to it. Written to be read, not to be fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.config.table import (
    SGD,
    Adagrad,
    Adam,
    Initializer,
    Optimizer,
    RowWiseAdagrad,
    TableConfig,
    TruncatedNormal,
    Uniform,
)
from monolith.tables.hashing import table_key

F32 = np.float32
U64 = np.uint64
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
ADMISSION_STREAM = 0x5851F42D4C957F2D


def mix64(x: Words) -> Words:
    """The bijective 64-bit hash, Stafford's variant 13."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


def id_hash(ids: npt.NDArray[np.int64]) -> Words:
    """The hash of each id (n,)."""
    return mix64(ids.view(np.uint64))


def bucket(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of the 1,024 buckets each id is in, (n,)."""
    return (id_hash(ids) >> U64(54)).astype(np.int64)


def draws(keys: Words, n: Any) -> Words:
    """The ``n``-th draw of each of the streams ``keys``."""
    return mix64(keys + np.asarray(n, np.uint64) * U64(GOLDEN))


def admission_draws(config: TableConfig, ids: npt.NDArray[np.int64], occurrence: int) -> npt.NDArray[np.float64]:
    """What ``Probability`` compares with p at an occurrence (1 is the first), in [0, 1); (n,)."""
    key = U64(table_key(config.name, config.seed) ^ ADMISSION_STREAM)
    return (draws(mix64(id_hash(ids) ^ key), occurrence) >> U64(11)).astype(np.float64) * 2.0**-53


def initial_values(config: TableConfig, ids: npt.NDArray[np.int64]) -> Floats:
    """The first values of the rows of ``ids`` (n,), (n, dim)."""
    row_keys = mix64(id_hash(ids) ^ U64(table_key(config.name, config.seed)))
    columns = np.arange(1, config.dim + 1, dtype=np.uint64)
    return _distribution(config.initializer, draws(row_keys[:, None], columns))


def _distribution(initializer: Initializer, words: Words) -> Floats:
    if isinstance(initializer, Uniform):
        steps = (words >> U64(40)).astype(np.int64) - 2**23
        return steps.astype(F32) * F32(2.0**-23) * F32(initializer.scale)
    if isinstance(initializer, TruncatedNormal):
        q = ((words >> U64(11)).astype(np.float64) * 2.0**-53 - 0.5) * 0.9544997361036416
        return _normal_quantile(q).astype(F32) * F32(initializer.std)
    return np.zeros(words.shape, F32)


def _normal_quantile(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The standard normal quantile at 0.5 + q for |q| <= 0.4773, to 7e-8 of its value."""
    s = q * q
    over = (((25.62300872797375 * s - 95.53940788999604) * s + 79.89021678315635) * s - 24.40983173549742) * s
    under = (((29.858253833867987 * s - 62.30097758005637) * s + 40.86209511622841) * s - 10.785292828675885) * s
    return q * ((over + 2.5066284468136257) / (under + 1.0))


def initial_state(optimizer: Optimizer, n: int, dim: int) -> Floats:
    """The optimizer's state of ``n`` fresh rows, (n, words)."""
    if isinstance(optimizer, Adagrad):
        return np.full((n, dim), optimizer.initial_accumulator, F32)
    if isinstance(optimizer, RowWiseAdagrad):
        return np.full((n, 1), optimizer.initial_accumulator, F32)
    return np.zeros((n, 2 * dim + 1 if isinstance(optimizer, Adam) else 0), F32)


def step(optimizer: Optimizer, w: Floats, state: Floats, grads: Floats) -> None:
    """One step on rows ``w`` (n, dim) and ``state`` (n, words), in place, with one gradient a row (n, dim)."""
    g = grads if optimizer.weight_decay == 0 else grads + F32(optimizer.weight_decay) * w
    match optimizer:
        case SGD():
            w -= F32(optimizer.lr) * g
        case Adagrad():
            state += g * g
            w -= F32(optimizer.lr) * g / (np.sqrt(state) + F32(optimizer.eps))
        case RowWiseAdagrad():
            state += (lane_sum(g * g) / F32(w.shape[1]))[:, None]
            w -= F32(optimizer.lr) / (np.sqrt(state) + F32(optimizer.eps)) * g
        case Adam():
            _adam(optimizer, w, state, g)


def _adam(adam: Adam, w: Floats, state: Floats, g: Floats) -> None:
    dim = w.shape[1]
    m, v, t = state[:, :dim], state[:, dim:-1], state[:, -1:].view(np.uint32)
    t += np.uint32(1)
    rate = (adam.lr / (1.0 - power(adam.beta1, t))).astype(F32)
    root = np.sqrt(1.0 - power(adam.beta2, t)).astype(F32)
    m[:] = F32(adam.beta1) * m + F32(1.0 - adam.beta1) * g
    v[:] = F32(adam.beta2) * v + F32(1.0 - adam.beta2) * (g * g)
    w -= rate * m / (np.sqrt(v) / root + F32(adam.eps))


def lane_sum(terms: Floats) -> Floats:
    """The sum of each row of ``terms`` (n, dim): over 16 lanes in column order, then lanes pairwise; (n,)."""
    lanes = np.zeros((len(terms), 16), F32)
    for first in range(0, terms.shape[1], 16):
        part = terms[:, first : first + 16]
        lanes[:, : part.shape[1]] += part
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
    total: Floats = lanes[:, 0]
    return total


def power(base: float, exponents: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """``base ** exponents`` in float64 by squaring, low bit first."""
    result = np.ones(exponents.shape, np.float64)
    square = base
    for bit in range(int(exponents.max(initial=0)).bit_length()):
        result = np.where(exponents >> bit & 1, result * square, result)
        square *= square
    return result
