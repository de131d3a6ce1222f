"""The table's arithmetic in NumPy, operation by operation: what the native core must give, bit for bit.

It is the executable form of ``docs/formats.md``, and ``reference_steps`` that of ``docs/optimizers.md``; tests
hold the native core to them, and a reader in another language can hold itself to them. Written to be read, not to be
fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from reference_steps import (
    initial_state,
    lane_sum,
    row_state,
    schedule_share,
    slices_of,
    step,
)
from reference_storage import rounded

from monolith.config.initializers import Initializer, TruncatedNormal, Uniform
from monolith.config.optimizers import FTRL
from monolith.config.table import TableConfig
from monolith.tables.hashing import table_key

__all__ = [
    "admission_draws",
    "bucket",
    "draws",
    "id_hash",
    "initial_state",
    "initial_values",
    "lane_sum",
    "mix64",
    "probe_numbers",
    "rounded",
    "rounding_draws",
    "row_state",
    "row_step",
    "schedule_share",
    "step",
    "tail_ids",
    "tail_numbers",
]

F32 = np.float32
U64 = np.uint64
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
ADMISSION_STREAM = 0x5851F42D4C957F2D
ROUNDING_STREAM = 0xD1342543DE82EF95
TAIL_CHOICE = 0xA24BAED4963EE407
TAIL_ROWS = 0x9FB21C651E98DF25


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


def tail_numbers(ids: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    """Which of a tail's rows each of ``ids`` (n,) reads while it has none of its own, (n,)."""
    upper = mix64(id_hash(ids) ^ U64(TAIL_CHOICE)) >> U64(32)
    return (upper * U64(rows) >> U64(32)).astype(np.int64)


def tail_ids(rows: int) -> npt.NDArray[np.int64]:
    """The ids as which a tail's rows (rows,) start and round."""
    return (np.arange(rows, dtype=np.uint64) ^ U64(TAIL_ROWS)).view(np.int64)


def probe_numbers(ids: npt.NDArray[np.int64], probe: int, rows: int) -> npt.NDArray[np.int64]:
    """The row that an id, salted by its feature, reads by a probe of a unified table."""
    salt = U64(xxhash.xxh3_64_intdigest(f"probe {probe}".encode()))
    return tail_numbers(mix64(ids.view(np.uint64) ^ salt).view(np.int64), rows)


def draws(keys: Words, n: Any) -> Words:
    """The ``n``-th draw of each of the streams ``keys``."""
    return mix64(keys + np.asarray(n, np.uint64) * U64(GOLDEN))


def admission_draws(
    config: TableConfig, ids: npt.NDArray[np.int64], occurrence: int, time_ms: int | None = None
) -> npt.NDArray[np.float64]:
    """What ``Probability`` compares with p at an occurrence (1 is the first), in [0, 1); (n,).

    With a half-life it is of the event time ``time_ms`` as well.
    """
    keys = mix64(id_hash(ids) ^ U64(table_key(config.name, config.seed) ^ ADMISSION_STREAM))
    if time_ms is not None:
        keys = mix64(keys ^ mix64(np.array([time_ms], np.int64).view(np.uint64)))
    return (draws(keys, occurrence) >> U64(11)).astype(np.float64) * 2.0**-53


def initial_values(config: TableConfig, ids: npt.NDArray[np.int64]) -> Floats:
    """The first values of the rows of ``ids`` (n,), (n, dim)."""
    row_keys = mix64(id_hash(ids) ^ U64(table_key(config.name, config.seed)))
    columns = np.arange(1, config.dim + 1, dtype=np.uint64)
    values = _distribution(config.initializer, draws(row_keys[:, None], columns))
    for columns_of, optimizer, _ in slices_of(config):
        if isinstance(optimizer, FTRL):
            values[:, columns_of] = 0
    return rounded(values, rounding_draws(config, ids, 0), config.storage)


def rounding_draws(config: TableConfig, ids: npt.NDArray[np.int64], t: int) -> npt.NDArray[np.uint32]:
    """The 32 bits by which each value of ``ids`` (n,) is rounded at the table's step ``t``, (n, dim); 0: at first."""
    key = U64(table_key(config.name, config.seed) ^ ROUNDING_STREAM)
    streams = draws(mix64(id_hash(ids) ^ key), t)
    pairs = draws(streams[:, None], np.arange(1, (config.dim + 1) // 2 + 1, dtype=np.uint64))
    return np.ascontiguousarray(pairs).view("<u4")[:, : config.dim]


def row_step(config: TableConfig, ids: npt.NDArray[np.int64], w: Floats, state: Floats, grads: Floats, t: int) -> None:
    """The table's ``t``-th step on the rows of ``ids``, by the optimizer of each slice; ``w`` as it reads then."""
    for columns, optimizer, words in slices_of(config):
        step(optimizer, w[:, columns], state[:, words], grads[:, columns], t)
    w[:] = rounded(w, rounding_draws(config, ids, t), config.storage)


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
