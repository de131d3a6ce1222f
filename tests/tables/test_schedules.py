"""Learning rates by the table's own step: one arithmetic for all optimizers, exact across a save."""

import math
from typing import get_args

import numpy as np
import pytest
import reference

from monolith.config.optimizers import Schedule, Slice
from monolith.errors import ConfigError, NonFiniteError
from monolith.tables import Table, _core, optimizers
from monolith.tables.optimizer_options import native_schedule

KINDS = [
    optimizers.SGD,
    optimizers.Momentum,
    optimizers.Adagrad,
    optimizers.RowWiseAdagrad,
    optimizers.RMSProp,
    optimizers.Adam,
    optimizers.AdamW,
    optimizers.RowWiseAdam,
    optimizers.RowWiseAdamW,
    optimizers.FTRL,
]
SCHEDULES = [
    Schedule(),
    Schedule(warmup_steps=10),
    Schedule(decay="inverse_sqrt"),
    Schedule(warmup_steps=7, decay="inverse_sqrt", floor=0.2),
    Schedule(decay="cosine", decay_steps=90),
    Schedule(warmup_steps=13, decay="cosine", decay_steps=100, floor=0.05),
    Schedule(decay="step", decay_steps=20, gamma=0.3),
    Schedule(warmup_steps=5, decay="step", decay_steps=1, gamma=0.99, floor=0.1),
]
IDS = np.arange(10)


def grads(step: int) -> np.ndarray:
    return np.random.default_rng(step).standard_normal((10, 4)).astype(np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_share_has_the_bits_of_the_oracle(schedule):
    native = native_schedule(schedule)
    for t in [*range(1, 300), 10_000, 2**40]:
        assert native.at(t) == reference.schedule_share(schedule, t)


def test_share_is_what_the_page_says():
    warm = native_schedule(Schedule(warmup_steps=4))
    assert [warm.at(t) for t in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    root = native_schedule(Schedule(warmup_steps=4, decay="inverse_sqrt"))
    assert [root.at(t) for t in (4, 16, 64)] == [1, 0.5, 0.25]
    cosine = native_schedule(Schedule(warmup_steps=10, decay="cosine", decay_steps=100, floor=0.1))
    for t in range(10, 110):
        assert cosine.at(t) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (t - 10) / 100)) / 2, abs=1e-15)
    assert cosine.at(110) == cosine.at(10_000) == 0.1
    fall = native_schedule(Schedule(decay="step", decay_steps=3, gamma=0.5))
    assert [fall.at(t) for t in (1, 2, 3, 5, 6, 9)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "slices"])
def test_rate_of_zero_after_a_step_freezes_all_rows(config, kind, sliced):
    rule = kind(schedule=Schedule(decay="step", decay_steps=4, gamma=0.0), weight_decay=0.1)
    parts = {"slices": [Slice(1, rule), Slice(3, rule)], "optimizer": optimizers.Adagrad()}
    table = Table(config(**(parts if sliced else {"optimizer": rule})))
    table.observe(IDS)
    for step in range(1, 10):
        before = table.lookup(IDS).tobytes()
        table.apply_gradients(IDS, grads(step))
        assert (table.lookup(IDS).tobytes() == before) == (step >= 4)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_scheduled_steps_have_the_bits_of_the_oracle_across_a_save(config, tmp_path, kind):
    rule = kind(schedule=Schedule(warmup_steps=3, decay="cosine", decay_steps=8, floor=0.01), clip_row_norm=1.5)
    table = Table(config(optimizer=rule))
    table.observe(IDS)
    values, state = reference.initial_values(table.config, IDS), reference.initial_state(rule, 10, 4)
    for t in range(1, 16):
        table.apply_gradients(IDS, grads(t))
        reference.step(rule, values, state, grads(t), t)
        if t == 7:
            table.save(tmp_path)
            table = Table.open(tmp_path)
    assert table.lookup(IDS).tobytes() == values.tobytes()


def test_calls_that_fail_are_no_steps_and_empty_ones_are(config):
    rule = optimizers.SGD(lr=1.0, schedule=Schedule(warmup_steps=4))
    table = Table(config(optimizer=rule))
    table.observe(IDS)
    before = table.lookup(IDS)
    with pytest.raises(NonFiniteError, match="position 0"):
        table.apply_gradients(IDS, np.full((10, 4), np.nan, np.float32))
    table.apply_gradients(IDS[:0], grads(0)[:0])
    table.apply_gradients(IDS, grads(1))
    assert table.lookup(IDS).tobytes() == (before - np.float32(0.5) * grads(1)).tobytes()


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (Schedule(decay="cosine"), r"schedule\.decay_steps: the decay 'cosine' needs decay_steps"),
        (Schedule(decay="step", decay_steps=5), r"schedule\.gamma: the decay 'step' needs gamma"),
        (Schedule(decay_steps=5), r"schedule\.decay_steps: the decay 'constant' takes no decay_steps; saw 5"),
        (Schedule(decay="cosine", decay_steps=5, gamma=0.5), r"takes no gamma; saw 0\.5"),
        (Schedule(floor=0.5), r"schedule\.floor: .* takes no floor; saw 0\.5"),
        (Schedule(decay="cosine", decay_steps=2**32), r"schedule\.decay_steps is 4294967296, allowed is 1 to"),
    ],
)
def test_setting_without_effect_or_missing_is_refused(make_table, schedule, says):
    with pytest.raises(ConfigError, match=says):
        make_table(optimizer=optimizers.Adam(schedule=schedule))


def test_no_kind_is_left_out_here():
    assert set(KINDS) == set(get_args(optimizers.Optimizer))
    assert all(hasattr(_core, kind.__name__) for kind in KINDS)
