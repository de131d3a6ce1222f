"""The traps of optimizers in a table: signs, decay, clipping, a row's own count, slices beside tables of their own."""

import numpy as np
import pytest
import reference

from monolith.errors import ConfigError
from monolith.tables import Table, initializers
from monolith.tables import optimizers as opt
from monolith.tables.delta import Delta

ALL = [
    opt.SGD(),
    opt.Momentum(),
    opt.Adagrad(),
    opt.RowWiseAdagrad(),
    opt.RMSProp(),
    opt.Adam(),
    opt.AdamW(),
    opt.RowWiseAdam(),
    opt.RowWiseAdamW(),
    opt.FTRL(),
]
KINDS = pytest.mark.parametrize("kind", [type(rule) for rule in ALL], ids=lambda kind: kind.__name__)
ADAMS = [opt.Adam, opt.AdamW, opt.RowWiseAdam, opt.RowWiseAdamW]
IDS = np.arange(20)


def train(table: Table, seed: int, steps: int = 5, size: float = 1.0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        table.apply_gradients(IDS, (rng.standard_normal((len(IDS), table.dim)) * size).astype(np.float32))


@pytest.fixture
def fresh(make_table):
    """A table whose rows 0 to 19 are there."""

    def make(**settings):
        table = make_table(**settings)
        table.observe(IDS)
        return table

    return make


@KINDS
def test_every_optimizer_lowers_a_loss(fresh, kind):
    table = fresh(optimizer=kind(lr=0.05))
    target = np.linspace(-0.5, 0.5, 4, dtype=np.float32)
    before = np.abs(table.lookup(IDS) - target).mean()
    for _ in range(200):
        table.apply_gradients(IDS, table.lookup(IDS) - target)
    assert np.abs(table.lookup(IDS) - target).mean() < before / 2


@KINDS
@pytest.mark.parametrize("dim", [7, 8, 17])
def test_a_column_steps_alike_whatever_the_width(fresh, kind, dim):
    """Vector and scalar code share one formula, decay included; equal columns have equal means of squares."""
    table = fresh(dim=dim, optimizer=kind(lr=0.05, weight_decay=0.1), initializer=initializers.Zeros())
    for grad in (0.5, -0.25, 0.125):
        table.apply_gradients(IDS, np.full((len(IDS), dim), grad, np.float32))
    values = table.lookup(IDS)
    np.testing.assert_allclose(values, np.broadcast_to(values[:, :1], values.shape), rtol=1e-6)
    assert values.all()


@KINDS
def test_clipped_step_is_the_step_on_the_clipped_sum(fresh, kind):
    """Of the sum of a row's gradients, and not of each; a row within the bound is as without one."""
    bounded, free = fresh(optimizer=kind(clip_row_norm=2.0)), fresh(optimizer=kind())
    grads = np.array([[3, 0, 0, 0], [0, 4, 0, 0], [0, 0, 1, 1]], np.float32)
    bounded.apply_gradients(np.array([1, 1, 2]), grads)
    free.apply_gradients(np.array([1, 2]), np.array([[1.2, 1.6, 0, 0], [0, 0, 1, 1]], np.float32))
    np.testing.assert_allclose(bounded.lookup(IDS), free.lookup(IDS), rtol=1e-6)


def test_clipping_takes_gradients_whose_squares_overflow(fresh):
    table = fresh(optimizer=opt.SGD(lr=1.0, clip_row_norm=1.0), initializer=initializers.Zeros())
    table.apply_gradients(np.array([1]), np.array([[3e30, -4e30, 0, 0]], np.float32))
    np.testing.assert_allclose(table.lookup(np.array([1])), [[-0.6, 0.8, 0, 0]], rtol=1e-6)


@KINDS
def test_row_that_comes_late_steps_as_the_first_did(fresh, ids, kind):
    """Adam's bias correction above all, where its count is the row's."""
    rule = kind(steps="row") if kind in ADAMS else kind()
    table = fresh(optimizer=rule, initializer=initializers.Zeros())
    grad = np.array([[0.3, -0.2, 0.1, 1.0]], np.float32)
    first = fresh(optimizer=rule, initializer=initializers.Zeros())
    first.apply_gradients(ids(1), grad)
    train(table, 0, steps=30)
    table.observe(ids(99))
    table.apply_gradients(ids(99), grad)
    assert table.lookup(ids(99)).tobytes() == first.lookup(ids(1)).tobytes()


def test_ftrl_with_a_large_l1_keeps_every_weight_at_exactly_zero(fresh):
    table = fresh(optimizer=opt.FTRL(l1=1e3), initializer=initializers.Uniform(scale=1.0))
    train(table, 1, steps=20)
    assert not table.lookup(IDS).any()


@pytest.mark.parametrize("rule", [opt.FTRL(l1=0.3), opt.FTRL(l1=0.3, l2=0.2, weight_decay=0.1)], ids=["l1", "all"])
def test_ftrl_mirrors_its_weights_when_gradients_change_sign(fresh, rule):
    """A sign taken as 0 or 1 would shrink one side only."""
    table, mirrored = fresh(optimizer=rule), fresh(optimizer=rule)
    rng = np.random.default_rng(2)
    for _ in range(20):
        grads = rng.standard_normal((len(IDS), 4)).astype(np.float32)
        table.apply_gradients(IDS, grads)
        mirrored.apply_gradients(IDS, -grads)
    assert table.lookup(IDS).tobytes() == (-mirrored.lookup(IDS) + 0.0).tobytes()
    assert (table.lookup(IDS) == 0).any()
    assert (table.lookup(IDS) != 0).any()


def test_ftrl_is_the_minimum_of_its_own_objective(fresh):
    """Against the closed form in float64: w from the sum of gradients and the weights of all steps before."""
    rule = opt.FTRL(lr=0.2, beta=0.5, l1=0.4, l2=0.3)
    table = fresh(optimizer=rule)
    z, n, w = np.zeros((20, 4)), np.zeros((20, 4)), np.zeros((20, 4))
    rng = np.random.default_rng(3)
    for _ in range(100):
        grads = rng.standard_normal((20, 4)).astype(np.float32)
        table.apply_gradients(IDS, grads)
        g = grads.astype(np.float64)
        z += g - (np.sqrt(n + g * g) - np.sqrt(n)) / rule.lr * w
        n += g * g
        w = np.where(abs(z) <= rule.l1, 0, (np.sign(z) * rule.l1 - z) / ((rule.beta + np.sqrt(n)) / rule.lr + rule.l2))
    np.testing.assert_allclose(table.lookup(IDS), w, atol=1e-5)


def test_ftrl_weights_stay_when_the_rate_falls(fresh):
    """Weights follow from z and the rate: with one rate for all steps, a fall to a tenth would take nine tenths."""
    rule = opt.FTRL(lr=0.5, schedule=opt.Schedule(decay="step", decay_steps=10, gamma=0.1))
    table = fresh(optimizer=rule)
    train(table, 4, steps=9)
    before = table.lookup(IDS)
    table.apply_gradients(IDS, np.zeros((20, 4), np.float32))
    np.testing.assert_allclose(table.lookup(IDS), before, rtol=1e-5)


def test_ftrl_goes_on_from_weights_that_came_by_a_delta(fresh):
    table = fresh(optimizer=opt.FTRL(lr=0.1))
    values = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4)
    table.apply(Delta(0, 1, IDS, values, np.array([], np.int64)))
    table.apply_gradients(IDS, np.full((20, 4), 1e-3, np.float32))
    np.testing.assert_allclose(table.lookup(IDS), values, atol=1e-3)


def test_adamw_decays_weights_and_not_moments(fresh):
    table = fresh(optimizer=opt.AdamW(lr=0.1, weight_decay=0.5))
    before = table.lookup(IDS)
    table.apply_gradients(IDS, np.zeros((20, 4), np.float32))
    assert table.lookup(IDS).tobytes() == (before * np.float32(0.95)).tobytes()


SLICES = {
    "bias_and_vector": [(1, opt.FTRL(lr=0.1, l1=0.01)), (16, opt.Adagrad())],
    "all_kinds": [(i % 3 + 1, rule) for i, rule in enumerate(ALL)],
    "own_clips_and_schedules": [
        (8, opt.Adam(clip_row_norm=0.5, schedule=opt.Schedule(warmup_steps=3))),
        (9, opt.Momentum(weight_decay=0.1, schedule=opt.Schedule(decay="cosine", decay_steps=4, floor=0.1))),
    ],
}


@pytest.mark.parametrize("parts", SLICES.values(), ids=SLICES.keys())
def test_slice_has_the_bits_of_a_table_of_its_own(make_table, tmp_path, parts):
    dim = sum(columns for columns, _ in parts)
    settings = {"dim": dim, "slices": [opt.Slice(*part) for part in parts], "optimizer": opt.Adagrad()}
    whole = make_table(**settings)
    own = [make_table(dim=columns, optimizer=rule) for columns, rule in parts]
    edges = np.cumsum([columns for columns, _ in parts])[:-1]
    values = np.random.default_rng(0).standard_normal((20, dim)).astype(np.float32)
    nothing = np.array([], np.int64)
    for table, part in zip([whole, *own], [values, *np.split(values, edges, axis=1)], strict=True):
        table.apply(Delta(0, 1, IDS, np.ascontiguousarray(part), nothing))
    rng = np.random.default_rng(1)
    for step in range(8):
        grads = rng.standard_normal((20, dim)).astype(np.float32)
        whole.apply_gradients(IDS, grads)
        for table, part in zip(own, np.split(grads, edges, axis=1), strict=True):
            table.apply_gradients(IDS, np.ascontiguousarray(part))
        if step == 4:
            whole.save(tmp_path)
            whole = Table.open(tmp_path)
    assert whole.lookup(IDS).tobytes() == np.concatenate([table.lookup(IDS) for table in own], axis=1).tobytes()


@pytest.mark.parametrize("parts", SLICES.values(), ids=SLICES.keys())
def test_sliced_row_gives_the_bits_of_the_numpy_oracle(fresh, parts):
    table = fresh(dim=sum(c for c, _ in parts), slices=[opt.Slice(*part) for part in parts], optimizer=opt.Adagrad())
    values, state = reference.initial_values(table.config, IDS), reference.row_state(table.config, len(IDS))
    assert table.lookup(IDS).tobytes() == values.tobytes()
    rng = np.random.default_rng(1)
    for t in range(1, 9):
        grads = rng.standard_normal(values.shape).astype(np.float32)
        table.apply_gradients(IDS, grads)
        reference.row_step(table.config, IDS, values, state, grads, t)
    assert table.lookup(IDS).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"slices": [opt.Slice(3, opt.SGD())], "optimizer": opt.Adagrad()},
            "slices have 3 columns in all; allowed: dim columns, 4",
        ),
        (
            {"slices": [opt.Slice(4, opt.SGD())], "optimizer": opt.SGD()},
            "optimizer: slices have optimizers of their own",
        ),
        ({"slices": [opt.Slice(4, opt.Adam(beta1=1.0))], "optimizer": opt.Adagrad()}, r"optimizer\.beta1"),
        ({"optimizer": opt.Momentum(momentum=1.0)}, r"optimizer\.momentum"),
        ({"optimizer": opt.FTRL(beta=0.0)}, r"optimizer\.beta: .* are both 0"),
        ({"optimizer": opt.SGD(clip_row_norm=1e-60)}, r"optimizer\.clip_row_norm is 1e-60"),
        ({"optimizer": opt.SGD(clip_row_norm=0.0)}, r"optimizer\.clip_row_norm"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_table, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_table(**settings)


@pytest.mark.parametrize(
    ("saved", "wanted", "says"),
    [
        ({"optimizer": opt.Adam()}, {"optimizer": opt.AdamW()}, "kind 'adam', the config says 'adamw'"),
        (
            {"optimizer": opt.Adam()},
            {"optimizer": opt.Adam(amsgrad=True)},
            "'adam', the config says 'adam with amsgrad'",
        ),
        (
            {"slices": [opt.Slice(1, opt.FTRL()), opt.Slice(3, opt.SGD())], "optimizer": opt.Adagrad()},
            {"slices": [opt.Slice(2, opt.FTRL()), opt.Slice(2, opt.SGD())], "optimizer": opt.Adagrad()},
            r"'1 x ftrl \+ 3 x sgd', the config says '2 x ftrl \+ 2 x sgd'",
        ),
    ],
)
def test_saved_state_of_another_layout_is_refused(fresh, config, tmp_path, saved, wanted, says):
    fresh(**saved).save(tmp_path)
    with pytest.raises(ConfigError, match=says):
        Table.open(tmp_path, config(**wanted))
