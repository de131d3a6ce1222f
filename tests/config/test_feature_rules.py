"""What a feature's settings must satisfy together, each rule broken once."""

from __future__ import annotations

import pytest

from monolith.config import FeatureConfig, parse_job
from monolith.config.feature_rules import broken_feature_rules
from monolith.config.features import Log1p
from monolith.errors import ConfigError

BROKEN = [
    ({"type": "float", "bag": True}, False, "bag", "a bag holds ids"),
    ({"type": "int", "width": 3}, True, "width", "only a float"),
    ({"type": "float", "width": 3, "boundaries": [1.0]}, True, "width", "only a float"),
    ({"type": "int", "transforms": [Log1p()]}, True, "transforms", "saw type int"),
    ({"type": "string", "boundaries": [1.0]}, True, "boundaries", "saw type string"),
    ({"type": "float", "boundaries": [2.0, 1.0]}, True, "boundaries", "must rise"),
    ({"type": "int", "utc_offset_h": 1.0}, True, "utc_offset_h", "saw type int"),
    ({"type": "hour", "missing": "own_row"}, True, "missing", "always has a time"),
    ({"type": "int", "missing": "own_row", "default": 3}, True, "default", "not as both"),
    ({"type": "int", "default": "x"}, True, "default", "is no int"),
    ({"type": "int", "default": True}, True, "default", "is no int"),
    ({"type": "bool", "default": 1}, False, "default", "is no bool"),
    ({"type": "int", "bag": True, "default": 1}, True, "default", "a list has no default"),
    ({"type": "float"}, True, "type", "give boundaries"),
    ({"type": "float", "missing": "own_row"}, False, "missing", "give a default"),
]


@pytest.mark.parametrize(("settings", "is_read", "key", "says"), BROKEN)
def test_rule_names_the_key_and_what_is_allowed(settings, is_read, key, says):
    found = list(broken_feature_rules(FeatureConfig(name="x", **settings), is_read=is_read))
    assert [keys[0] for keys, _ in found] == [key]
    assert says in found[0][1]


@pytest.mark.parametrize(
    ("settings", "is_read"),
    [
        ({"type": "float", "width": 3, "transforms": [Log1p()], "missing": "dead_letter"}, False),
        ({"type": "float", "boundaries": [1.0, 2.0], "default": 3}, True),
        ({"type": "bool", "default": False}, False),
        ({"type": "bool", "missing": "own_row"}, True),
        ({"type": "weekday", "utc_offset_h": -3.5}, True),
        ({"type": "string", "bag": True}, True),
    ],
)
def test_settings_that_fit_together_pass(settings, is_read):
    assert list(broken_feature_rules(FeatureConfig(name="x", **settings), is_read=is_read)) == []


def test_strings_are_kept_beside_rows_of_ids_and_other_kinds_of_table_have_none(text_of_job):
    with pytest.raises(ConfigError, match="in hashed tables ids have none of their own"):
        parse_job(text_of_job, "job.yaml")


@pytest.fixture
def text_of_job() -> str:
    return """\
name: j
input: {samples: "log://s"}
tables: [{name: city, dim: 4, kind: hashed, rows: 100}]
features: [{name: city, type: string, keep_strings: true}]
"""
