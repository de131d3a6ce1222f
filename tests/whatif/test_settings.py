from __future__ import annotations

import msgspec
import pytest

from monolith.config import TableConfig
from monolith.config.admission import Always, MinCount, Never, Probability
from monolith.config.expiry import Forever, Idle
from monolith.config.optimizers import Adam
from monolith.errors import ConfigError
from monolith.whatif.settings import settings, vary_axes, words_of

TABLE = TableConfig(name="user", dim=4, admission=MinCount(count=7), expiry=Idle(ttl_s=60.0))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("admission", "always", Always()),
        ("admission", "min_count", MinCount()),
        ("admission", "min_count:3", MinCount(count=3)),
        ("admission", "min_count: 3", MinCount(count=3)),
        ("admission", "min_count:{count: 5, half_life_s: 86400}", MinCount(count=5, half_life_s=86400.0)),
        ("admission", "{kind: min_count, half_life_s: 1.5h}", MinCount(half_life_s=5400.0)),
        ("admission", "probability:1e-3", Probability(p=0.001)),
        ("expiry", "idle:45s", Idle(ttl_s=45.0)),
        ("expiry", "idle:15m", Idle(ttl_s=900.0)),
        ("expiry", "idle:2w", Idle(ttl_s=1_209_600.0)),
        ("expiry", "idle:{ttl_s: 7d}", Idle(ttl_s=604_800.0)),
        ("optimizer", "adam:0.1", Adam(lr=0.1)),
        ("dim", "32", 32),
        ("storage", "bfloat16", "bfloat16"),
    ],
)
def test_a_value_is_written_in_short_or_as_in_the_job_file(key, text, value):
    (setting,) = settings(TABLE, {key: [text]})
    assert setting.config == msgspec.structs.replace(TABLE, **{key: value})
    assert setting.words == {key: text}


def test_without_options_there_is_one_setting_the_table_as_it_is():
    (setting,) = settings(TABLE, {})
    assert setting.config == TABLE
    assert setting.label == "as it is"


def test_the_product_keeps_the_order_of_the_options():
    found = settings(TABLE, {"admission": ["never", "always"], "dim": ["1", "2"]})
    assert [(s.config.admission, s.config.dim) for s in found] == [
        (Never(), 1), (Never(), 2), (Always(), 1), (Always(), 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Forever(), "forever"),
        (Idle(ttl_s=7 * 86_400.0), "idle:7d"),
        (Idle(ttl_s=90.0), "idle:90s"),
        (MinCount(count=3), "min_count:3"),
        (MinCount(), "min_count:2"),
        (MinCount(count=5, half_life_s=7200.0), "min_count:{count: 5, half_life_s: 2h}"),
        (Probability(p=0.25), "probability:0.25"),
    ],
)
def test_a_policy_in_words_reads_back_as_itself(value, words):
    assert words_of(value) == words
    key = "expiry" if isinstance(value, Forever | Idle) else "admission"
    assert getattr(settings(TABLE, {key: [words]})[0].config, key) == value


def test_values_of_one_key_are_one_axis():
    assert vary_axes(["dim=1", "storage=float16", "dim=2"]) == {"dim": ["1", "2"], "storage": ["float16"]}
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        vary_axes(["=3"])


def test_values_that_do_not_go_with_the_table_are_refused():
    with pytest.raises(ConfigError, match=r"--vary slices=\[\{columns: 3, optimizer: \{kind: sgd\}\}\]: table 'user'"):
        settings(TABLE, {"slices": ["[{columns: 3, optimizer: {kind: sgd}}]"]})
