"""Bad input is an InputError, and nothing was changed."""

import numpy as np
import pytest
import reference

from monolith.errors import ConfigError, InputError, NonFiniteError
from monolith.tables import Table, admission, expiry, initializers, optimizers

IDS, GRADS = np.array([1, 2], np.int64), np.ones((2, 4), np.float32)

BAD_CALLS = {
    "int32 ids": lambda t: t.observe(IDS.astype(np.int32)),
    "uint64 ids": lambda t: t.lookup(IDS.astype(np.uint64)),
    "float ids": lambda t: t.lookup(IDS.astype(float)),
    "list of ids": lambda t: t.observe([1, 2]),
    "two-dimensional ids": lambda t: t.observe(IDS[:, None]),
    "swapped ids": lambda t: t.observe(IDS.astype(">i8")),
    "float64 grads": lambda t: t.apply_gradients(IDS, GRADS.astype(float)),
    "too few grads": lambda t: t.apply_gradients(IDS, GRADS[:1]),
    "too wide grads": lambda t: t.apply_gradients(IDS, np.ones((2, 5), np.float32)),
    "flat grads": lambda t: t.apply_gradients(IDS, GRADS.ravel()),
    "float time": lambda t: t.observe(IDS, event_time_ms=1.5),
    "text time": lambda t: t.observe(IDS, event_time_ms="now"),
    "too few times": lambda t: t.observe(IDS, event_time_ms=np.array([1])),
    "int32 times": lambda t: t.observe(IDS, event_time_ms=np.array([1, 2], np.int32)),
    "float times": lambda t: t.apply_gradients(IDS, GRADS, event_time_ms=np.array([1.0, 2.0])),
    "huge time": lambda t: t.observe(IDS, event_time_ms=2**63),
    "end of time": lambda t: t.observe(IDS, event_time_ms=np.array([1, 2**63 - 1])),
    "start of time": lambda t: t.observe(IDS, event_time_ms=-(2**63)),
    "huge watermark": lambda t: t.advance(2**64),
    "fractional watermark": lambda t: t.advance(5000.5),
    "negative buckets": lambda t: t.sweep(-1),
    "too many buckets": lambda t: t.sweep(1025),
    "narrow out": lambda t: t.lookup(IDS, out=np.zeros((2, 3), np.float32)),
    "strided out": lambda t: t.lookup(IDS, out=np.zeros((2, 8), np.float32)[:, ::2]),
    "frozen out": lambda t: t.lookup(IDS, out=np.frombuffer(bytes(32), np.float32).reshape(2, 4)),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_argument_is_an_input_error_and_changes_nothing(make_table, ids, state_of, call):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    before = state_of(table)
    with pytest.raises(InputError):
        call(table)
    assert state_of(table) == before


def test_strided_arrays_are_taken_as_what_they_hold(make_table, ids):
    table, plain = make_table(), make_table()
    wide, grads = np.arange(20)[::3], np.asfortranarray(np.random.default_rng(0).random((7, 4), np.float32))
    table.observe(wide)
    plain.observe(wide.copy())
    table.apply_gradients(wide, grads)
    plain.apply_gradients(wide.copy(), np.ascontiguousarray(grads))
    assert table.lookup(wide).tobytes() == plain.lookup(wide).tobytes()


def test_numpy_integers_are_times(make_table, ids):
    table = make_table()
    table.observe(ids(1), event_time_ms=np.int64(5))
    assert table.clock_ms == 5


def test_lookup_fills_the_array_it_is_given(make_table):
    table = make_table()
    table.observe(IDS)
    out = np.full((2, 4), 9, np.float32)
    assert table.lookup(IDS, out=out) is out
    assert out.tobytes() == table.lookup(IDS).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_gradient_raises_before_anything_changes(make_table, state_of, value):
    table = make_table()
    table.observe(np.arange(300))
    before = state_of(table)
    grads = np.ones((300, 4), np.float32)
    grads[250, 2] = value
    with pytest.raises(NonFiniteError, match="position 250, of id 250: column 2"):
        table.apply_gradients(np.arange(300), grads)
    assert state_of(table) == before


def test_sum_that_overflows_raises_too(make_table, ids, state_of):
    table = make_table()
    table.observe(ids(1, 2))
    before = state_of(table)
    with pytest.raises(NonFiniteError, match="position 1, of id 2: the sum with its repeats overflows"):
        table.apply_gradients(ids(1, 2, 2), np.full((3, 4), 3e38, np.float32))
    assert state_of(table) == before


def test_skip_row_skips_the_ids_with_nonfinite_gradients_alone(make_table, ids):
    table = make_table(on_nonfinite="skip_row")
    table.observe(ids(1, 2, 3, 4))
    first = table.lookup(ids(1, 2, 3, 4))
    grads = np.ones((7, 4), np.float32)
    grads[1, 0], grads[5, 3] = np.nan, np.inf
    grads[2], grads[6] = 3e38, 3e38
    table.apply_gradients(ids(1, 2, 4, 3, 2, 3, 4), grads)
    after = table.lookup(ids(1, 2, 3, 4))
    assert after[1:].tobytes() == first[1:].tobytes()
    assert after[0].tobytes() == (first[0] - np.float32(1)).tobytes()
    assert table.stats().nonfinite == 3


def test_clip_bounds_infinities_and_zeroes_nan(make_table, ids):
    table = make_table(on_nonfinite="clip", max_gradient=2.0, initializer=initializers.Zeros())
    table.observe(ids(1, 2, 3))
    grads = np.array(
        [[np.nan, np.inf, -np.inf, 5], [1, 1, 1, 1], [1, 1, 1, 1], [np.inf, 0, 0, 0], [3e38] * 4, [3e38] * 4],
        np.float32,
    )
    table.apply_gradients(ids(1, 1, 2, 2, 3, 3), grads)
    assert table.lookup(ids(1, 2, 3)).tolist() == [[-1, -3, 1, -6], [-3, -1, -1, -1], [-2, -2, -2, -2]]
    assert table.stats().nonfinite == 3


@pytest.mark.parametrize("policy", ["skip_row", "clip"])
def test_policies_leave_finite_gradients_alone(make_table, policy):
    rng = np.random.default_rng(0)
    table, plain = make_table(on_nonfinite=policy), make_table()
    batch, grads = rng.integers(0, 50, 300), rng.standard_normal((300, 4)).astype(np.float32)
    for each in (table, plain):
        each.observe(batch)
        each.apply_gradients(batch, grads)
    assert table.lookup(batch).tobytes() == plain.lookup(batch).tobytes()


BAD_CONFIGS = {
    "name": {"name": ""},
    "dim": {"dim": 0},
    "dim type": {"dim": "4"},
    "dim size": {"dim": 10**6},
    "seed": {"seed": -1},
    "seed above 64 bits": {"seed": 2**64},
    "optimizer.lr": {"optimizer": optimizers.SGD(lr=float("nan"))},
    "optimizer.lr above float32": {"optimizer": optimizers.SGD(lr=1e39)},
    "optimizer.weight_decay": {"optimizer": optimizers.Adagrad(weight_decay=-1.0)},
    "optimizer.eps": {"optimizer": optimizers.RowWiseAdagrad(eps=0.0)},
    "optimizer.eps in float32": {"optimizer": optimizers.Adam(eps=1e-50)},
    "optimizer.beta1": {"optimizer": optimizers.Adam(beta1=1.0)},
    "optimizer.beta2": {"optimizer": optimizers.Adam(beta2=-0.1)},
    "admission.count": {"admission": admission.MinCount(0)},
    "admission.half_life_s": {"admission": admission.MinCount(2, half_life_s=0.0)},
    "admission.max_counters": {"admission": admission.Probability(max_counters=0)},
    "admission.p": {"admission": admission.Probability(p=0.0)},
    "admission.p above one": {"admission": admission.Probability(p=1.5)},
    "expiry.ttl_s": {"expiry": expiry.Idle(ttl_s=0.0)},
    "expiry.ttl_s infinite": {"expiry": expiry.Idle(ttl_s=float("inf"))},
    "initializer.scale": {"initializer": initializers.Uniform(scale=float("inf"))},
    "initializer.std": {"initializer": initializers.TruncatedNormal(std=-1.0)},
    "on_nonfinite": {"on_nonfinite": "ignore"},
    "max_gradient": {"max_gradient": 0.0},
}


@pytest.mark.parametrize("field", BAD_CONFIGS)
def test_config_out_of_bounds_is_refused_by_field(config, field):
    with pytest.raises(ConfigError, match=field.split()[0].split(".")[-1]):
        Table(config(**BAD_CONFIGS[field]))


def test_initial_values_do_not_depend_on_the_rules(config, ids):
    table = Table(config(admission=admission.MinCount(1), expiry=expiry.Idle(), optimizer=optimizers.Adam()))
    table.observe(ids(9))
    assert table.lookup(ids(9)).tobytes() == reference.initial_values(config(), ids(9)).tobytes()
