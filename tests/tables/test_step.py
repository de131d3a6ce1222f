"""A step in two calls gives the bits of observe, lookup and apply_gradients, whatever comes between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.errors import InputError, NonFiniteError
from monolith.tables import Table, TableConfig, admission, expiry, initializers, optimizers

BATCHES = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 4000)), max_size=200)
BETWEEN = st.lists(
    st.sampled_from(["observe", "advance", "sweep", "cut", "train", "step", "image", "delta"]), max_size=2
)
GRADIENTS = st.sampled_from([1.0, 1e30, 3e38, np.nan, np.inf])


@st.composite
def configs(draw: st.DrawFn) -> TableConfig:
    return TableConfig(
        name="user",
        dim=draw(st.sampled_from([1, 8, 13])),
        optimizer=draw(st.sampled_from([optimizers.SGD(lr=0.1), optimizers.RowWiseAdagrad(), optimizers.Adam()])),
        initializer=initializers.Uniform(0.1),
        admission=draw(
            st.sampled_from([admission.Always(), admission.MinCount(3), admission.Probability(0.4), admission.Never()])
        ),
        expiry=draw(st.sampled_from([expiry.Forever(), expiry.Idle(ttl_s=1.5)])),
        storage=draw(st.sampled_from(["float32", "float32", "bfloat16", "float16"])),
        on_nonfinite=draw(st.sampled_from(["raise", "skip_row", "clip"])),
    )


def gradients(n: int, dim: int, odd: float, rng: np.random.Generator) -> np.ndarray:
    grads = rng.normal(size=(n, dim)).astype(np.float32)
    grads[rng.random(n) < 0.05, 0] = odd
    return grads


def change(table: Table, what: str, ids: np.ndarray) -> None:
    """One call of some other user of the table."""
    match what:
        case "observe":
            table.observe(ids[: len(ids) // 2] + 20)
        case "advance":
            table.advance(table.clock_ms + 700)
        case "sweep":
            table.sweep(1024)
        case "cut":
            table.cut()
        case "train":
            table.apply_gradients(ids, np.full((len(ids), table.dim), 0.25, np.float32))
        case "step":
            table.step(ids[::-1].copy()).apply_gradients(np.full((len(ids), table.dim), 0.25, np.float32))
        case "image" | "delta":
            other = Table(table.config)
            other.observe(ids[:3], event_time_ms=table.clock_ms + 1 if table.clock_ms > 0 else 0)
            last = other.cut()
            table.apply(other.delta(0 if what == "image" else last - 1))


def outcome(apply, *arguments, **options) -> str | None:
    try:
        apply(*arguments, **options)
    except NonFiniteError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None)
@given(config=configs(), batches=st.lists(BATCHES, min_size=1, max_size=5), data=st.data())
def test_two_calls_give_the_bits_of_three(config, batches, data, tmp_path_factory):
    three, two = Table(config), Table(config)
    rng = np.random.default_rng(0)
    for k, batch in enumerate(batches):
        ids = np.array([i for i, _ in batch], np.int64)
        each = np.array([k * 1500 + t for _, t in batch], np.int64)
        times = data.draw(st.sampled_from(["each", "one", "none"]))
        event_time_ms = {"each": each, "one": k * 1500, "none": None}[times]
        three.observe(ids, event_time_ms=event_time_ms)
        values = three.lookup(ids)
        step = two.step(ids, event_time_ms=event_time_ms)
        assert step.values.tobytes() == values.tobytes()
        for what in data.draw(BETWEEN):
            change(three, what, ids)
            change(two, what, ids)
        grads = gradients(len(ids), config.dim, data.draw(GRADIENTS), rng)
        seen = each if data.draw(st.booleans()) else None
        with np.errstate(all="ignore"):
            expected = outcome(three.apply_gradients, ids, grads, event_time_ms=seen)
            assert outcome(step.apply_gradients, grads, event_time_ms=seen) == expected
        assert saved(two, tmp_path_factory) == saved(three, tmp_path_factory)


def saved(table: Table, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return table.save(tmp_path_factory.mktemp("state")).read_bytes()


def test_id_that_its_second_occurrence_admits_reads_and_trains_as_admitted_at_its_first(make_table, ids):
    table = make_table(admission=admission.MinCount(2), initializer=initializers.Uniform(0.5))
    step = table.step(ids(*range(1, 100), 7, 8))
    first, last = step.values[[6, 7]], step.values[[99, 100]]
    assert first.tobytes() == last.tobytes()
    assert first.all()
    step.apply_gradients(np.ones((101, 4), np.float32))
    np.testing.assert_array_equal(table.lookup(ids(7, 8)), first - 2)


def test_two_steps_begun_before_either_is_applied_are_two_updates(make_table, ids):
    table, twin = make_table(), make_table()
    batch, grads = ids(1, 2, 1), np.ones((3, 4), np.float32)
    one, other = table.step(batch), table.step(batch[::-1].copy())
    other.apply_gradients(grads)
    one.apply_gradients(grads)
    twin.observe(batch)
    twin.apply_gradients(batch, grads)
    twin.apply_gradients(batch, grads)
    assert table.lookup(batch).tobytes() == twin.lookup(batch).tobytes()


def test_ids_that_change_after_the_step_began_do_not_change_it(make_table, ids):
    table = make_table()
    batch = ids(1, 2)
    step = table.step(batch)
    before = table.lookup(ids(1, 3))
    batch[0] = 3
    step.apply_gradients(np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(table.lookup(ids(1, 3)), before - np.array([[1], [0]], np.float32))


def test_refused_gradient_changes_nothing_and_a_right_one_may_follow(make_table, ids):
    table = make_table()
    step = table.step(ids(1, 2, 1))
    before = table.lookup(ids(1, 2))
    with pytest.raises(NonFiniteError, match="position 1"):
        step.apply_gradients(np.array([[1] * 4, [np.nan] * 4, [1] * 4], np.float32))
    assert table.lookup(ids(1, 2)).tobytes() == before.tobytes()
    step.apply_gradients(np.ones((3, 4), np.float32))
    np.testing.assert_array_equal(table.lookup(ids(1, 2)), before - np.array([[2], [1]], np.float32))


def test_step_of_no_ids_leaves_the_clock(make_table, ids):
    table = make_table()
    step = table.step(ids(), event_time_ms=5)
    step.apply_gradients(step.values)
    assert table.clock_ms == -(2**63)


def test_gradients_of_another_shape_are_refused(make_table, ids):
    step = make_table().step(ids(1, 2))
    with pytest.raises(InputError, match=r"grads has shape \(3, 4\)"):
        step.apply_gradients(np.zeros((3, 4), np.float32))
