"""The native arithmetic against NumPy's, bit by bit."""

import numpy as np
import pytest
import reference

from monolith.tables import Table, admission, initializers, optimizers

DIMS = [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 128, 200]
RULES = {
    "sgd": optimizers.SGD(lr=0.1),
    "sgd_decay": optimizers.SGD(lr=0.1, weight_decay=0.01),
    "momentum": optimizers.Momentum(lr=0.1),
    "nesterov_decay": optimizers.Momentum(lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.01),
    "adagrad": optimizers.Adagrad(lr=0.05),
    "adagrad_decay": optimizers.Adagrad(lr=0.05, initial_accumulator=0.1, weight_decay=0.1),
    "rowwise": optimizers.RowWiseAdagrad(lr=0.05),
    "rowwise_decay": optimizers.RowWiseAdagrad(lr=0.05, initial_accumulator=0.2, weight_decay=0.1),
    "adam": optimizers.Adam(lr=0.01),
    "adam_by_row": optimizers.Adam(lr=0.01, steps="row"),
    "adam_decay": optimizers.Adam(lr=0.01, beta1=0.8, beta2=0.99999, weight_decay=0.1),
    "amsgrad": optimizers.Adam(lr=0.01, amsgrad=True),
    "adamw": optimizers.AdamW(lr=0.01, weight_decay=0.1),
    "adamw_by_row": optimizers.AdamW(lr=0.01, weight_decay=0.1, steps="row"),
    "adamw_amsgrad": optimizers.AdamW(lr=0.01, beta2=0.9, amsgrad=True),
    "rowwise_adam": optimizers.RowWiseAdam(lr=0.01),
    "rowwise_adam_decay": optimizers.RowWiseAdam(lr=0.01, weight_decay=0.1),
    "rowwise_adam_by_row": optimizers.RowWiseAdam(lr=0.01, weight_decay=0.1, steps="row"),
    "rowwise_adamw": optimizers.RowWiseAdamW(lr=0.01, weight_decay=0.1),
    "rowwise_adamw_by_row": optimizers.RowWiseAdamW(lr=0.01, weight_decay=0.1, steps="row"),
    "rmsprop": optimizers.RMSProp(lr=0.01),
    "rmsprop_decay": optimizers.RMSProp(lr=0.01, alpha=0.5, weight_decay=0.1),
    "ftrl": optimizers.FTRL(lr=0.1),
    "ftrl_sparse": optimizers.FTRL(lr=0.1, l1=0.5, l2=0.1, beta=0.0, initial_accumulator=0.1, weight_decay=0.01),
    "clipped": optimizers.Adagrad(lr=0.05, clip_row_norm=0.5, weight_decay=0.1),
    "clipped_rowwise": optimizers.RowWiseAdam(lr=0.05, clip_row_norm=3.0),
}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_optimizer_gives_the_bits_of_the_numpy_oracle(config, rule, dim):
    table = Table(config(dim=dim, optimizer=rule))
    rng = np.random.default_rng(dim)
    ids = rng.integers(-(2**63), 2**63 - 1, 50, dtype=np.int64)
    table.observe(ids)
    values = reference.initial_values(table.config, ids)
    state = reference.initial_state(rule, len(ids), dim)
    for t, size in enumerate((1.0, 1e-3, 1e-12, 1e5, 1e-30) * 4, 1):
        chosen = rng.random(len(ids)) < 0.7  # rows differ in how often they stepped
        grads = (rng.standard_normal((chosen.sum(), dim)) * size).astype(np.float32)
        table.apply_gradients(ids[chosen], grads)
        stepped, stepped_state = values[chosen], state[chosen]
        reference.step(rule, stepped, stepped_state, grads, t)
        values[chosen], state[chosen] = stepped, stepped_state
    assert table.lookup(ids).tobytes() == values.tobytes()


@pytest.mark.parametrize("steps", ["row", "table"])
def test_adam_oracle_holds_after_many_steps_of_a_row(config, ids, steps):
    rule = optimizers.Adam(lr=0.01, beta2=0.999, steps=steps)
    table = Table(config(dim=3, optimizer=rule))
    table.observe(ids(1))
    values, state = reference.initial_values(table.config, ids(1)), reference.initial_state(rule, 1, 3)
    rng = np.random.default_rng(0)
    for t in range(1, 3001):
        grads = rng.standard_normal((1, 3)).astype(np.float32)
        table.apply_gradients(ids(1), grads)
        reference.step(rule, values, state, grads, t)
    assert table.lookup(ids(1)).tobytes() == values.tobytes()


def test_duplicates_are_summed_in_order_of_occurrence(config):
    table = Table(config(dim=16))
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 40, 5000)
    grads = (rng.standard_normal((5000, 16)) * 10.0 ** rng.integers(-6, 6, (5000, 1))).astype(np.float32)
    table.observe(ids)
    table.apply_gradients(ids, grads)
    unique = np.unique(ids)
    sums = np.zeros((len(unique), 16), np.float32)
    for i, grad in zip(np.searchsorted(unique, ids), grads, strict=True):
        sums[i] = grad if not sums[i].any() else sums[i] + grad
    expected = reference.initial_values(table.config, unique) - sums
    assert table.lookup(unique).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.Uniform(scale=0.05),
        initializers.Uniform(scale=3.7),
        initializers.TruncatedNormal(std=0.01),
        initializers.TruncatedNormal(std=1.0),
        initializers.Zeros(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dim", [1, 16, 33])
def test_first_values_are_those_of_the_numpy_oracle(config, initializer, dim):
    table = Table(config(dim=dim, initializer=initializer, seed=2**64 - 1))
    ids = np.concatenate([np.arange(-500, 500), [2**63 - 1, -(2**63)]]).astype(np.int64)
    table.observe(ids)
    assert table.lookup(ids).tobytes() == reference.initial_values(table.config, ids).tobytes()


def test_first_values_are_spread_as_declared(config):
    ids = np.arange(20_000)
    uniform = Table(config(dim=10, initializer=initializers.Uniform(scale=0.5)))
    normal = Table(config(dim=10, initializer=initializers.TruncatedNormal(std=1.0)))
    for table in (uniform, normal):
        table.observe(ids)
    u, n = uniform.lookup(ids), normal.lookup(ids)
    assert u.min() >= -0.5
    assert u.max() < 0.5
    assert abs(u.std() - 1 / 12**0.5) < 0.003
    assert np.abs(n).max() <= 2
    assert abs(n.std() - 0.8796) < 0.005  # of a standard normal cut at two
    assert abs(np.mean(np.abs(n) < 1) - 0.6827 / 0.9545) < 0.005
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.03


@pytest.mark.parametrize("change", [{"seed": 1}, {"name": "item"}])
def test_first_values_differ_with_seed_and_table_name(config, change):
    ids = np.arange(100)
    tables = Table(config()), Table(config(**change))
    for table in tables:
        table.observe(ids)
    assert not np.any(tables[0].lookup(ids) == tables[1].lookup(ids))


def test_probability_admits_at_the_first_draw_below_p(config):
    rule = admission.Probability(p=0.2)
    table = Table(config(admission=rule, seed=5))
    ids = np.arange(1000)
    admitted = np.zeros(1000, bool)
    for occurrence in range(1, 8):
        table.observe(ids)
        admitted |= reference.admission_draws(table.config, ids, occurrence) < rule.p
        assert np.array_equal(table.rows()[0], ids[admitted])
    assert abs(admitted.mean() - (1 - 0.8**7)) < 0.05
