"""Clipping by the norm of all rows' gradients of one call: the bits of the oracle, and torch's meaning."""

import numpy as np
import pytest
import reference
import torch

from monolith.errors import ConfigError
from monolith.tables import Table, TableConfig, initializers, set_threads, threads
from monolith.tables import optimizers as opt
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output

KINDS = [
    opt.SGD,
    opt.Momentum,
    opt.Adagrad,
    opt.RowWiseAdagrad,
    opt.RMSProp,
    opt.Adam,
    opt.AdamW,
    opt.RowWiseAdam,
    opt.RowWiseAdamW,
    opt.FTRL,
]
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def summed(ids: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each id once, in the order of first occurrences, and the sum of its gradients in order of occurrence."""
    places: dict[int, int] = {}
    sums: list[np.ndarray] = []
    for each, grad in zip(ids.tolist(), grads, strict=True):
        if each in places:
            sums[places[each]] = sums[places[each]] + grad
        else:
            places[each] = len(sums)
            sums.append(grad)
    return np.array(list(places)), np.array(sums)


def batch(seed: int, n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-4, 3, (n, 1))  # so that another order of adding gives other bits
    return rng.integers(0, n, n), (rng.standard_normal((n, dim)) * sizes).astype(np.float32)


def held_to_the_oracle(table: Table, n: int, steps: int = 3) -> None:
    every = np.arange(n)
    table.observe(every)
    values, state = reference.initial_values(table.config, every), reference.row_state(table.config, n)
    for t in range(1, steps + 1):
        ids, grads = batch(t, n, table.dim)
        table.apply_gradients(ids, grads)
        rows, sums = summed(ids, grads)
        w, s = values[rows], state[rows]
        reference.row_step(table.config, rows, w, s, sums, t)
        values[rows], state[rows] = w, s
    assert table.lookup(every).tobytes() == values.tobytes()


@EACH
@pytest.mark.parametrize("dim", [1, 7, 16, 33])
def test_clipped_call_gives_the_bits_of_the_numpy_oracle(make_table, kind, dim):
    held_to_the_oracle(make_table(dim=dim, optimizer=kind(lr=0.05, weight_decay=0.01, clip_global_norm=2.5)), 300)


def test_rows_are_clipped_before_the_whole(make_table):
    held_to_the_oracle(make_table(dim=8, optimizer=opt.SGD(clip_row_norm=3.0, clip_global_norm=20.0)), 300)


def test_each_slice_is_clipped_by_the_norm_of_its_own_columns(make_table):
    parts = [
        opt.Slice(1, opt.FTRL(clip_global_norm=0.5)),
        opt.Slice(5, opt.SGD()),
        opt.Slice(10, opt.Adam(clip_global_norm=2.0, clip_row_norm=1.0)),
    ]
    held_to_the_oracle(make_table(dim=16, slices=parts, optimizer=opt.Adagrad()), 300)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_threads_leave_the_bits_of_the_oracle(make_table, count):
    """A call of 20,000 ids has four groups with four threads."""
    before = threads()
    set_threads(count)
    try:
        held_to_the_oracle(make_table(dim=8, optimizer=opt.Adagrad(clip_global_norm=5.0)), 20_000, steps=2)
    finally:
        set_threads(before)


def test_whole_is_clipped_as_torch_does(make_table):
    ids, grads = batch(1, 500, 16)
    table = make_table(dim=16, optimizer=opt.SGD(lr=1.0, clip_global_norm=7.0))
    table.observe(np.arange(500))
    weights = torch.nn.Parameter(torch.from_numpy(table.lookup(np.arange(500)).copy()))
    (weights[torch.from_numpy(ids)] * torch.from_numpy(grads)).sum().backward()
    assert torch.nn.utils.clip_grad_norm_([weights], 7.0) > 100
    torch.optim.SGD([weights], lr=1.0).step()
    table.apply_gradients(ids, grads)
    np.testing.assert_allclose(table.lookup(np.arange(500)), weights.detach().numpy(), rtol=1e-5, atol=1e-7)


@EACH
def test_norm_within_the_bound_changes_no_bit(make_table, state_of, kind):
    ids, grads = batch(2, 100, 4)
    norm = float(np.sqrt((summed(ids, grads)[1].astype(np.float64) ** 2).sum()))
    values = []
    for bound in (None, norm * 1.001, norm * 0.999):
        table = make_table(optimizer=kind(clip_global_norm=bound))
        table.observe(ids)
        table.apply_gradients(ids, grads)
        table.apply_gradients(ids, grads[::-1].copy() * np.float32(1e-3))
        values.append(table.lookup(ids).tobytes())
    assert values[0] == values[1] != values[2]


def test_ids_without_a_row_and_skipped_rows_do_not_count(make_table, ids):
    table = make_table(
        optimizer=opt.SGD(lr=1.0, clip_global_norm=5.0), on_nonfinite="skip_row", initializer=initializers.Zeros()
    )
    table.observe(ids(1, 2, 3))
    grads = np.zeros((5, 4), np.float32)
    grads[0, 0], grads[1, 0], grads[2, 1], grads[3] = 1000.0, 6.0, 8.0, np.nan
    grads[4] = 100.0
    table.apply_gradients(ids(9, 1, 2, 3, 3), grads)
    assert table.lookup(ids(1, 2, 3, 9)).tolist() == [[-3, 0, 0, 0], [0, -4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_one_vast_gradient_is_brought_down_and_the_row_learns_on(make_table, ids):
    table = make_table(optimizer=opt.Adagrad(lr=0.1, clip_global_norm=1.0), initializer=initializers.Zeros())
    table.observe(ids(1, 2))
    for grads in ([[3e38] * 4, [1.0] * 4], [[1.0] * 4, [1.0] * 4]):
        table.apply_gradients(ids(1, 2), np.array(grads, np.float32))
    assert table.stats().nonfinite == 0
    np.testing.assert_allclose(table.lookup(ids(1)), -0.1 - 0.1 * 0.35355 / (0.25 + 0.125) ** 0.5, rtol=1e-4)


def test_features_of_a_table_are_one_call_and_tables_are_apart():
    config = {"dim": 2, "initializer": initializers.Zeros(), "optimizer": opt.SGD(lr=1.0, clip_global_norm=5.0)}
    shared = Table(TableConfig(name="shared", features=["a", "b"], shared_ids=True, **config))
    apart = Table(TableConfig(name="apart", features=["c"], **config))
    outputs = [Output("a", "a", "shared"), Output("b", "b", "shared"), Output("c", "c", "apart")]
    collection = Collection({"shared": shared, "apart": apart}, outputs)
    one = np.array([1])
    bags = [Bag(np.array([each]), one) for each in (7, 8, 7)]
    collection.forward(bags).apply_gradients([np.array([g], np.float32) for g in ([6, 0], [0, 8], [0, 3])])
    assert shared.lookup(np.array([7, 8])).tolist() == [[-3, 0], [0, -4]]
    assert apart.lookup(np.array([7])).tolist() == [[0, -3]]


def test_empty_call_is_clipped_to_nothing(make_table, ids):
    table = make_table(optimizer=opt.Adam(clip_global_norm=1.0))
    table.observe(ids(1))
    before = table.lookup(ids(1))
    table.apply_gradients(ids(), np.zeros((0, 4), np.float32))
    assert table.lookup(ids(1)).tobytes() == before.tobytes()


def test_saved_table_goes_on_clipping(make_table, state_of, tmp_path):
    tables = [make_table(optimizer=opt.Adagrad(clip_global_norm=1.0))]
    tables[0].observe(np.arange(100))
    tables[0].save(tmp_path)
    tables.append(Table.open(tmp_path))
    for table in tables:
        table.apply_gradients(*batch(3, 100, 4))
    assert state_of(tables[0]) == state_of(tables[1])
    assert tables[1].config.optimizer.clip_global_norm == 1.0


@pytest.mark.parametrize("norm", [0.0, -1.0, 1e-60, float("nan"), float("inf")])
def test_norm_that_cannot_be_is_refused(make_table, norm):
    with pytest.raises(ConfigError, match=r"optimizer\.clip_global_norm"):
        make_table(optimizer=opt.Adam(clip_global_norm=norm))
