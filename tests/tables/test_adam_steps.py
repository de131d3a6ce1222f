"""Adam's two step counts: the table's, which is torch's and FBGEMM's, and the row's own."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from monolith.config import TableConfig
from monolith.errors import ConfigError, NonFiniteError
from monolith.tables import Table, initializers, set_threads
from monolith.tables import optimizers as opt
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output

ADAMS = [opt.Adam, opt.AdamW, opt.RowWiseAdam, opt.RowWiseAdamW]
EACH = pytest.mark.parametrize("kind", ADAMS, ids=lambda kind: kind.__name__)
ROWS, DIM = 30, 16
IDS = np.arange(ROWS)


def zipf_batches(steps: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids, most of them rare, and their gradients."""
    rng = np.random.default_rng(seed)
    batches = [rng.permutation(np.unique(rng.zipf(1.3, 12) % ROWS)) for _ in range(steps)]
    return [(ids, rng.standard_normal((len(ids), DIM)).astype(np.float32)) for ids in batches]


def test_rare_rows_step_as_in_torchs_sparse_adam(config):
    torch = pytest.importorskip("torch")
    table = Table(config(dim=DIM, optimizer=opt.Adam(lr=0.01)))
    table.observe(IDS)
    weight = torch.nn.Parameter(torch.from_numpy(table.lookup(IDS)))
    theirs = torch.optim.SparseAdam([weight], lr=0.01)
    for ids, grads in zipf_batches(300):
        weight.grad = torch.sparse_coo_tensor(ids[None], torch.from_numpy(grads), weight.shape, check_invariants=True)
        theirs.step()
        table.apply_gradients(ids, grads)
    np.testing.assert_allclose(table.lookup(IDS), weight.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_row_wise_adamw_is_fbgemms_partial_rowwise_adam(config):
    """FBGEMM has it for GPUs only, so against the rule of its documentation in float64: one iteration count a table."""
    lr, b1, b2, eps, decay = 0.01, 0.9, 0.999, 1e-8, 0.1
    table = Table(config(dim=DIM, optimizer=opt.RowWiseAdamW(lr=lr, weight_decay=decay)))
    table.observe(IDS)
    w, m, v = table.lookup(IDS).astype(np.float64), np.zeros((ROWS, DIM)), np.zeros((ROWS, 1))
    for iteration, (ids, grads) in enumerate(zipf_batches(300), 1):
        table.apply_gradients(ids, grads)
        g = grads.astype(np.float64)
        v[ids] = b2 * v[ids] + (1 - b2) * (g * g).mean(axis=1, keepdims=True)
        m[ids] = b1 * m[ids] + (1 - b1) * g
        corrected_v, corrected_m = v[ids] / (1 - b2**iteration), m[ids] / (1 - b1**iteration)
        w[ids] -= lr * (corrected_m / (np.sqrt(corrected_v) + eps) + decay * w[ids])
    np.testing.assert_allclose(table.lookup(IDS), w, rtol=1e-4, atol=1e-5)


@EACH
def test_a_rare_rows_first_step_is_a_third_of_the_size_by_its_own_count(make_table, ids, kind):
    """With beta1 0.9 and beta2 0.999 the other is 0.1 / sqrt(0.001) = 3.16 times as large."""
    moved = {}
    for steps in ("row", "table"):
        table = make_table(optimizer=kind(lr=0.01, steps=steps), initializer=initializers.Zeros())
        table.observe(ids(1, 2))
        for _ in range(5000):
            table.apply_gradients(ids(1), np.ones((1, 4), np.float32))
        table.apply_gradients(ids(2), np.ones((1, 4), np.float32))
        moved[steps] = float(-table.lookup(ids(2))[0, 0])
    assert moved["row"] == pytest.approx(0.01, rel=1e-4)
    assert moved["table"] / moved["row"] == pytest.approx(0.1 / 0.001**0.5, rel=0.01)


@EACH
def test_new_table_counts_its_own_steps_and_says_so(make_table, kind):
    assert make_table(optimizer=kind()).config.optimizer.steps == "table"
    parts = [opt.Slice(1, kind()), opt.Slice(3, kind(steps="row"))]
    sliced = make_table(slices=parts, optimizer=opt.Adagrad())
    assert [part.optimizer.steps for part in sliced.config.slices] == ["table", "row"]


def test_refused_call_is_no_step_and_an_empty_one_is(make_table, ids):
    tables = [make_table(optimizer=opt.Adam()) for _ in range(2)]
    for table in tables:
        table.observe(ids(1))
    with pytest.raises(NonFiniteError):
        tables[0].apply_gradients(ids(1), np.full((1, 4), np.nan, np.float32))
    tables[0].apply_gradients(ids(), np.zeros((0, 4), np.float32))
    tables[1].apply_gradients(ids(77), np.zeros((1, 4), np.float32))  # an id without a row: as empty as that
    grads = np.array([[1e-9, 1, 2, 3]], np.float32)  # eps counts beside the first
    for table in tables:
        table.apply_gradients(ids(1), grads)
    alone = make_table(optimizer=opt.Adam())
    alone.observe(ids(1))
    alone.apply_gradients(ids(1), grads)
    assert tables[0].lookup(ids(1)).tobytes() == tables[1].lookup(ids(1)).tobytes()
    assert tables[0].lookup(ids(1)).tobytes() != alone.lookup(ids(1)).tobytes()


@pytest.mark.parametrize(("second", "steps"), [("empty", 2), ("unused", 1)])
def test_collection_steps_a_table_whenever_the_loss_uses_it(second, steps):
    """As torch's optimizers do: a gradient without ids counts, no gradient at all does not."""
    table = Table(TableConfig(name="user", dim=4, optimizer=opt.Adam()))
    other = Table(TableConfig(name="movie", dim=4, optimizer=opt.Adam()))
    collection = Collection(
        {"user": table, "movie": other}, [Output("user", "user", "user"), Output("movie", "movie", "movie")]
    )
    bag, nothing = Bag(np.array([1]), np.ones(1, np.int32)), Bag(np.array([], np.int64), np.zeros(1, np.int32))
    ones = np.ones((1, 4), np.float32)
    collection.forward([bag, bag]).apply_gradients([ones, ones])
    collection.forward([nothing, bag]).apply_gradients([None if second == "unused" else ones, ones])
    assert (table.native.clockwork().steps, other.native.clockwork().steps) == (steps, 2)


@EACH
@pytest.mark.parametrize("steps", ["row", "table"])
def test_restored_table_goes_on_with_the_bits_of_one_that_was_never_saved(config, tmp_path, state_of, kind, steps):
    config = config(dim=DIM, optimizer=kind(steps=steps))
    table, twin = Table(config), Table(config)
    for number, (ids, grads) in enumerate(zipf_batches(40)):
        for each in (table, twin):
            each.observe(ids)
            each.apply_gradients(ids, grads)
        if number % 7 == 3:
            table.save(tmp_path)
            table = Table.open(tmp_path, config)
    assert state_of(table) == state_of(twin)


@EACH
def test_number_of_threads_changes_no_bit(config, state_of, kind):
    states = set()
    for threads in (1, 2, 4):
        set_threads(threads)
        table = Table(config(dim=DIM, optimizer=kind()))
        rng = np.random.default_rng(0)
        for _ in range(5):
            ids = rng.integers(0, 20_000, 30_000)
            table.observe(ids)
            table.apply_gradients(ids, rng.standard_normal((30_000, DIM), np.float32))
        states.add(state_of(table))
    set_threads(1)
    assert len(states) == 1


@EACH
def test_count_may_change_between_runs_since_the_rows_own_goes_on_under_both(make_table, tmp_path, kind):
    plain, changing = (make_table(dim=DIM, optimizer=kind(steps="row")) for _ in range(2))
    for table in (plain, changing):
        table.observe(IDS)
    for steps in ("table", "row"):
        changing.save(tmp_path)
        config = msgspec.structs.replace(changing.config, optimizer=kind(steps=steps))
        changing = Table.open(tmp_path, config)
        for table in (plain, changing):  # moments stay 0 and values as they are decayed: only the counts go up
            table.apply_gradients(IDS, np.zeros((ROWS, DIM), np.float32))
    for table in (plain, changing):
        table.apply_gradients(IDS, np.ones((ROWS, DIM), np.float32))
    assert changing.lookup(IDS).tobytes() == plain.lookup(IDS).tobytes()


def _header(table: Table, folder) -> bytes:
    data = table.save(folder).read_bytes()
    return data[16 : 16 + int.from_bytes(data[12:16], "little")]


@EACH
def test_file_that_says_no_count_goes_on_by_the_rows_own(make_table, tmp_path, parts_of, kind):
    """What builds before this setting wrote: their tables keep the meaning that they had."""
    for sliced in (False, True):
        rule = kind(steps="row")
        parts = {"slices": [opt.Slice(4, rule)], "optimizer": opt.Adagrad()} if sliced else {"optimizer": rule}
        table = make_table(**parts)
        path = table.save(tmp_path)
        saved = parts_of(path.read_bytes())
        saved.header = saved.header.replace(b'"steps":"row",', b"")
        assert b'"steps":"' not in saved.header
        path.write_bytes(saved.sealed())
        silent = kind()
        wanted = {"slices": [opt.Slice(4, silent)]} if sliced else {"optimizer": silent}
        for opened in (Table.open(tmp_path), Table.open(tmp_path, msgspec.structs.replace(table.config, **wanted))):
            rule = opened.config.slices[0].optimizer if sliced else opened.config.optimizer
            assert rule.steps == "row"


def test_file_of_a_table_that_counts_its_own_steps_says_so(make_table, tmp_path):
    assert json.loads(_header(make_table(optimizer=opt.Adam()), tmp_path))["settings"]["optimizer"]["steps"] == "table"


def test_count_of_another_name_is_refused(make_table):
    with pytest.raises(ConfigError, match="steps"):
        make_table(optimizer=opt.Adam(steps="batch"))
