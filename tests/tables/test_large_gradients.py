"""Gradients that are finite and too large: one step of them must not stop a row for ever."""

import numpy as np
import pytest
import reference

from monolith.errors import ConfigError, NonFiniteError
from monolith.tables import initializers
from monolith.tables import optimizers as opt

FLOAT32_MAX = float(np.finfo(np.float32).max)
LARGEST = {
    opt.SGD: FLOAT32_MAX,
    opt.Momentum: 2.0**100,
    opt.Adagrad: 2.0**50,
    opt.RowWiseAdagrad: 2.0**50,
    opt.RMSProp: 2.0**50,
    opt.Adam: 2.0**50,
    opt.AdamW: 2.0**50,
    opt.RowWiseAdam: 2.0**50,
    opt.RowWiseAdamW: 2.0**50,
    opt.FTRL: 2.0**50,
}
KINDS = pytest.mark.parametrize("kind", LARGEST, ids=lambda kind: kind.__name__)
BOUNDED = pytest.mark.parametrize(
    "kind", [kind for kind in LARGEST if kind is not opt.SGD], ids=lambda kind: kind.__name__
)


def above(kind: type) -> np.float32:
    return np.nextafter(np.float32(LARGEST[kind]), np.float32(np.inf))


def all_of(size: float, rows: int = 1) -> np.ndarray:
    return np.full((rows, 4), size, np.float32)


@KINDS
def test_largest_size_steps_as_the_oracle_does_and_the_row_learns_on(make_table, ids, kind):
    """Many such steps, since a sum must not get there either; then a row still moves by what it is given."""
    table = make_table(optimizer=kind(lr=0.001), initializer=initializers.Zeros())
    table.observe(ids(1))
    values, state = reference.initial_values(table.config, ids(1)), reference.row_state(table.config, 1)
    sizes = [1.0, *[LARGEST[kind] * sign for sign in (1, -1, 1, 1)], *[LARGEST[kind], -LARGEST[kind]] * 50, 1e3, -1.0]
    for t, size in enumerate(sizes, 1):
        table.apply_gradients(ids(1), all_of(size))
        reference.row_step(table.config, ids(1), values, state, all_of(size), t)
    assert np.isfinite(values).all()
    assert np.isfinite(state.view(np.float32)).all()
    assert table.lookup(ids(1)).tobytes() == values.tobytes()
    assert table.stats().nonfinite == 0


@BOUNDED
def test_size_above_the_largest_raises_by_name_and_changes_nothing(make_table, ids, state_of, kind):
    table = make_table(optimizer=kind())
    assert table.largest_gradient == LARGEST[kind]
    table.observe(ids(1, 2))
    before = state_of(table)
    for grads in (np.vstack([all_of(1.0), all_of(-above(kind))]), all_of(LARGEST[kind] * 0.75, 2)):
        with pytest.raises(
            NonFiniteError, match=r"column 0 is -.*, allowed is up to|the sum with its repeats overflows"
        ):
            table.apply_gradients(ids(2, 2), grads)
    assert state_of(table) == before


@BOUNDED
@pytest.mark.parametrize("policy", ["skip_row", "clip"])
def test_policies_count_it_and_the_row_learns_on(make_table, ids, kind, policy):
    """As rows do that were never given it (skip_row), or were given 1 with its sign in its place (clip)."""
    table, plain = make_table(optimizer=kind(), on_nonfinite=policy), make_table(optimizer=kind())
    for each in (table, plain):
        each.observe(ids(1, 2))
        each.apply_gradients(ids(1, 2), all_of(0.5, 2))
    table.apply_gradients(ids(1, 2), np.vstack([all_of(-above(kind)), all_of(0.25)]))
    kept = slice(0, 2) if policy == "clip" else slice(1, 2)
    plain.apply_gradients(ids(1, 2)[kept], np.vstack([all_of(-1.0), all_of(0.25)])[kept])
    for each in (table, plain):
        each.apply_gradients(ids(1, 2), all_of(0.5, 2))
    assert table.stats().nonfinite == 1
    assert table.lookup(ids(1, 2)).tobytes() == plain.lookup(ids(1, 2)).tobytes()


@BOUNDED
def test_sum_of_repeats_above_the_largest_is_clipped_once(make_table, ids, kind):
    table, plain = make_table(optimizer=kind(), on_nonfinite="clip", max_gradient=3.0), make_table(optimizer=kind())
    for each in (table, plain):
        each.observe(ids(1))
    table.apply_gradients(ids(1, 1), all_of(LARGEST[kind] * 0.75, 2))
    plain.apply_gradients(ids(1), all_of(3.0))
    assert table.stats().nonfinite == 1
    assert table.lookup(ids(1)).tobytes() == plain.lookup(ids(1)).tobytes()


@KINDS
def test_row_clip_bears_every_finite_size(make_table, ids, kind):
    clipped, free = make_table(optimizer=kind(clip_row_norm=2.0)), make_table(optimizer=kind())
    assert clipped.largest_gradient == FLOAT32_MAX
    for table, size in ((clipped, 1e30), (free, 1.0)):
        table.observe(ids(1))
        for step in range(3):
            table.apply_gradients(ids(1), all_of(size if step == 1 else 0.5))
    np.testing.assert_allclose(clipped.lookup(ids(1)), free.lookup(ids(1)), rtol=1e-6)
    assert make_table(optimizer=kind(clip_row_norm=1e38)).largest_gradient == LARGEST[kind]


def test_slices_bear_what_the_least_of_them_does(make_table, ids):
    table = make_table(slices=[opt.Slice(2, opt.SGD()), opt.Slice(2, opt.Momentum())], optimizer=opt.Adagrad())
    assert table.largest_gradient == 2.0**100
    table.observe(ids(1))
    table.apply_gradients(ids(1), all_of(1e30))
    with pytest.raises(NonFiniteError, match=r"column 0 is .*e\+30, allowed is up to 1\.26765e\+30"):
        table.apply_gradients(ids(1), all_of(2e30))


def test_clip_to_more_than_the_optimizer_bears_is_refused(make_table):
    with pytest.raises(ConfigError, match=r"max_gradient: 1e\+20 is above 1\.1259e\+15"):
        make_table(optimizer=opt.Adagrad(), max_gradient=1e20)
    make_table(optimizer=opt.SGD(), max_gradient=1e20)


def test_rows_as_wide_as_can_be_stay_finite(make_table, ids):
    """A row's squares are summed before the mean is taken: 2^16 of 2^100."""
    table = make_table(dim=1 << 16, optimizer=opt.RowWiseAdagrad(lr=1.0), initializer=initializers.Zeros())
    table.observe(ids(1))
    for sign in (1, -1):
        table.apply_gradients(ids(1), np.full((1, 1 << 16), sign * 2.0**50, np.float32))
    np.testing.assert_allclose(table.lookup(ids(1)), -1 + 0.5**0.5, rtol=1e-5)
