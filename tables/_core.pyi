from typing import Any, overload

import numpy as np
import numpy.typing as npt

_Ids = npt.NDArray[np.int64]
_Numbers = npt.NDArray[np.uint32]
_Floats = npt.NDArray[np.float32]
_Flags = npt.NDArray[np.bool_]
_Owners = npt.NDArray[np.int32]

commit: str  # of the checkout that this was built from; empty where it was none
compiler: str

def simd() -> str: ...  # avx2 | portable

class Clockwork:
    def __init__(
        self, sequence: int, floor: int, clock_ms: int, sweep_cursor: int, steps: int, eviction_cursor: int
    ) -> None: ...
    sequence: int
    floor: int
    clock_ms: int
    sweep_cursor: int
    steps: int
    eviction_cursor: int

class Statistics:
    observed: int
    admitted: int
    rejected: int
    late: int
    expired_idle: int
    expired_age: int
    swept: int
    evicted: int
    pruned: int
    dropped_gradients: int
    nonfinite: int
    counter_decrements: int

class Sizes:
    rows: int
    free_rows: int
    tail_rows: int
    row_limit: int
    counters: int
    tombstones: int
    bytes_values: int
    bytes_state: int
    bytes_stamps: int
    bytes_index: int
    bytes_counters: int
    bytes_tombstones: int
    bytes_scratch: int

class StepCount:
    row: StepCount
    table: StepCount

class LrDecay:
    constant: LrDecay
    inverse_sqrt: LrDecay
    cosine: LrDecay
    step: LrDecay

class Schedule:
    decay: LrDecay
    warmup_steps: int
    decay_steps: int
    gamma: float
    floor: float
    def at(self, step: int) -> float: ...

class Sliced:
    def add(self, columns: int, optimizer: Any) -> None: ...

class Policy:
    def __init__(self, admission: Any, ttl_ms: int, max_age_ms: int, counters: int) -> None: ...

class Eviction:
    def __init__(self, kind: str, max_rows: int, max_bytes: int, half_life_ms: int, score: Any) -> None: ...

class Pruning:
    def __init__(self, threshold: float | None, probation_ms: int) -> None: ...

class Tail:
    def __init__(self, rows: int, start: bool) -> None: ...

class Step: ...
class Steps: ...

class Feature:
    def __init__(self, table: int, salt: int | None, mean: bool, policy: int) -> None: ...

class Collection:
    def __init__(self, tables: list[Table], features: list[Feature]) -> None: ...
    def forward(
        self,
        ids: list[Any],
        lengths: list[Any],
        weights: list[Any],
        event_time_ms: _Ids,
        steps: Steps,
        out: _Floats,
    ) -> None: ...
    def lookup(self, ids: list[Any], lengths: list[Any], weights: list[Any], out: _Floats) -> None: ...
    @overload
    def backward(self, grads: list[Any], steps: Steps) -> tuple[int, int] | None: ...
    @overload
    def backward(self, matrix: _Floats, steps: Steps) -> tuple[int, int] | None: ...

def threads() -> int: ...
def set_threads(threads: int) -> None: ...

class Table:
    def __init__(
        self,
        dim: int,
        key: int,
        optimizer: Any,
        initializer: Any,
        on_nonfinite: str,
        max_gradient: float,
        storage: str,
        policies: list[Policy],
        eviction: Eviction,
        tail: Tail,
        tombstones: int | None,
        folder: str,
        reserve_bytes: int,
        pruning: Pruning,
    ) -> None: ...
    def observe(self, ids: _Ids, event_time_ms: _Ids, policies: _Numbers, ends: _Ids) -> None: ...
    def lookup(self, ids: _Ids, out: _Floats) -> None: ...
    def contains(self, ids: _Ids, out: npt.NDArray[np.bool_]) -> None: ...
    def apply_gradients(self, ids: _Ids, grads: _Floats, event_time_ms: _Ids) -> int: ...
    def forward(
        self, ids: _Ids, event_time_ms: _Ids, step: Step, out: _Floats, policies: _Numbers, ends: _Ids
    ) -> None: ...
    def backward(self, step: Step, grads: _Floats, event_time_ms: _Ids) -> int: ...
    def advance(self, clock_ms: int) -> None: ...
    def sweep(self, buckets: int, max_rows: int) -> tuple[int, int]: ...  # removed, looked at
    def sweepable(self) -> int: ...
    def cut(self) -> int: ...
    def delta(self, since: int, buckets: _Flags) -> tuple[_Ids, _Floats, _Ids]: ...
    def tail_delta(self, since: int, buckets: _Flags) -> tuple[_Ids, _Floats]: ...
    def write_tail(self, sequence: int, numbers: _Ids, values: _Floats) -> None: ...
    def live_rows(self) -> tuple[_Ids, _Floats]: ...
    def apply_image(self, sequence: int, ids: _Ids, values: _Floats) -> None: ...
    def apply_delta(self, sequence: int, ids: _Ids, values: _Floats, removed: _Ids) -> None: ...
    def export_bucket(self, bucket: int) -> dict[str, npt.NDArray[Any]]: ...
    def import_bucket(self, number: int, bucket: dict[str, npt.NDArray[Any]]) -> None: ...
    def reserve(self, rows: int) -> None: ...
    def clockwork(self) -> Clockwork: ...
    def set_clockwork(self, clockwork: Clockwork) -> None: ...
    def statistics(self) -> Statistics: ...
    def set_statistics(self, statistics: Statistics) -> None: ...
    def sizes(self) -> Sizes: ...
    def passed(self) -> int: ...
    @property
    def state_floats(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...

def pool(rows: _Floats, lengths: npt.NDArray[np.int32], weights: _Floats, mean: bool, out: _Floats) -> None: ...
def set_order_seed(seed: int) -> None: ...
def result(size: int) -> npt.NDArray[np.float32]: ...
def salted(ids: _Ids, salt: int) -> _Ids: ...
def tail_numbers(ids: _Ids, rows: int) -> _Ids: ...
def split(ids: _Ids, salt: int | None, owners: _Owners, count: int) -> tuple[_Ids, _Ids, _Ids, _Ids]: ...
def split_unique(ids: _Ids, salt: int | None, owners: _Owners, count: int) -> tuple[_Ids, _Ids, _Ids, _Ids]: ...
def buckets(ids: _Ids, salt: int | None) -> _Ids: ...

# bindings/sharding.cpp
def pool_blocks(
    flat: _Floats,
    begins: _Ids,
    row_ends: _Ids,
    places: _Ids,
    ends: _Ids,
    lengths: list[npt.NDArray[np.int32] | None],
    weights: list[_Floats | None],
    mean: bool,
    dim: int,
    out: _Floats,
    column: int,
) -> None: ...
def sum_blocks(
    grads: _Floats,
    column: int,
    shared_by: float,
    places: _Ids,
    ends: _Ids,
    lengths: list[npt.NDArray[np.int32] | None],
    weights: list[_Floats | None],
    mean: bool,
    dim: int,
    flat: _Floats,
    begins: _Ids,
    row_ends: _Ids,
) -> None: ...
def table_lookup_blocks(table: Table, ids: _Ids, flat: _Floats, begins: _Ids, row_ends: _Ids) -> None: ...
def table_forward_blocks(
    table: Table, ids: _Ids, event_time_ms: _Ids, step: Step, flat: _Floats, begins: _Ids, row_ends: _Ids
) -> None: ...
def table_collect_blocks(table: Table, step: Step, flat: _Floats, begins: _Ids, row_ends: _Ids) -> int: ...
def table_begin(table: Table, ids: _Ids, step: Step) -> None: ...
def table_collect(table: Table, step: Step, grads: _Floats) -> int: ...
def table_squares(table: Table, step: Step) -> list[npt.NDArray[np.float64]]: ...
def table_apply(table: Table, step: Step, norms: list[float]) -> None: ...
