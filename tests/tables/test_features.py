"""From feature values to ids: types, bags, missing values, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.card import CardFeature
from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig
from monolith.errors import ConfigError, EventError
from monolith.tables.features import FeatureEncoder, card_features
from monolith.tables.hashing import hash_string


def feature(name: str, type: str = "int", *, bag: bool = False, table: str = "", salted: bool = False) -> CardFeature:
    return CardFeature(name=name, table=table or name, type=type, bag=bag, pooling="sum", salted=salted)


ENCODER = FeatureEncoder(
    [feature("user"), feature("city", "string"), feature("seen", bag=True), feature("tags", "string", bag=True)]
)


def ids(name: str, *values: object) -> tuple[list[int], list[int], list[float] | None]:
    """Ids, lengths and weights of one feature over several rows."""
    bag = ENCODER.encode([{name: value} for value in values])[name]
    assert bag.ids.dtype == np.int64
    assert bag.lengths.dtype == np.int32
    assert bag.weights is None or bag.weights.dtype == np.float32
    return bag.ids.tolist(), bag.lengths.tolist(), None if bag.weights is None else bag.weights.tolist()


def test_integer_is_its_own_id():
    assert ids("user", 7, 0, -3, 2**63 - 1) == ([7, 0, -3, 2**63 - 1], [1, 1, 1, 1], None)


def test_string_is_hashed_with_the_features_name():
    assert ids("city", "Bern", "") == ([hash_string("city", "Bern"), hash_string("city", "")], [1, 1], None)


def test_missing_value_is_no_id():
    assert ids("user", 7, None, 8) == ([7, 8], [1, 0, 1], None)
    assert ids("seen", None, []) == ([], [0, 0], None)
    assert ENCODER.encode([{}])["city"].lengths.tolist() == [0]


def test_list_is_a_bag_in_its_order_with_repeats():
    assert ids("seen", [3, 1, 3], [2]) == ([3, 1, 3, 2], [3, 1], None)


def test_mapping_is_a_weighted_bag_and_lists_beside_it_weigh_one():
    jazz, rock = hash_string("tags", "jazz"), hash_string("tags", "rock")
    assert ids("tags", {"jazz": 0.5, "rock": 2}, None, ["rock"]) == ([jazz, rock, rock], [2, 0, 1], [0.5, 2.0, 1.0])


def test_integer_keys_of_a_mapping_may_be_digits_since_json_has_no_others():
    assert ids("seen", {"12": 0.5, "-3": 1.0}) == ([12, -3], [2], [0.5, 1.0])


def test_batch_of_nothing_has_empty_bags():
    bags = ENCODER.encode([])
    assert list(bags) == ["user", "city", "seen", "tags"]
    assert all(len(bag.ids) == len(bag.lengths) == 0 for bag in bags.values())


def test_undeclared_names_are_not_looked_at_when_encoding():
    assert list(ENCODER.encode([{"colour": "red", "user": 1}])) == ["user", "city", "seen", "tags"]


REFUSED = [
    ("user", "7", "feature_type"),
    ("user", 7.0, "feature_type"),
    ("user", True, "feature_type"),
    ("user", [7], "feature_type"),
    ("user", {"7": 1.0}, "feature_type"),
    ("user", 2**63, "feature_range"),
    ("city", 7, "feature_type"),
    ("city", ["Bern"], "feature_type"),
    ("seen", 7, "feature_type"),
    ("seen", [1, "2"], "feature_type"),
    ("seen", [1, None], "feature_type"),
    ("seen", {"twelve": 1.0}, "feature_type"),
    ("seen", {str(2**64): 1.0}, "feature_range"),
    ("tags", "jazz", "feature_type"),
    ("tags", {"jazz": float("nan")}, "feature_weight"),
    ("tags", {"jazz": 1e30}, "feature_weight"),
    ("tags", {"jazz": -1000001}, "feature_weight"),
    ("tags", {"jazz": "much"}, "feature_weight"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_value_of_the_wrong_kind_is_refused_by_validate_and_by_encode(name, value, reason):
    with pytest.raises(EventError, match=repr(name)) as refused:
        ENCODER.validate({name: value})
    assert refused.value.reason == reason
    good = {"user": 1, "city": "a", "seen": [1], "tags": ["a"]}[name]
    for rows in ([{name: value}], [{name: good}, {name: value}]):
        with pytest.raises(EventError, match=repr(name)) as refused:
            ENCODER.encode(rows)
        assert refused.value.reason == reason


def test_weights_reach_to_a_million_and_the_refusal_says_so():
    ENCODER.validate({"tags": {"jazz": 1e6, "rock": -1e6}})
    with pytest.raises(EventError, match=r"'jazz' with 1000000\.5, a weight is a number from -1000000 to 1000000:"):
        ENCODER.validate({"tags": {"jazz": 1000000.5}})


def test_refusal_names_the_row():
    with pytest.raises(EventError, match=r"row 1: feature 'seen' has 'x' \(str\)"):
        ENCODER.encode([{"seen": [1]}, {"seen": ["x"]}])


def test_everything_that_encode_takes_passes_validate():
    ENCODER.validate({"user": 1, "city": "a", "seen": {"1": 1.0}, "tags": ["a"]})
    ENCODER.validate({"user": None})
    ENCODER.validate({})


def test_unknown_name_is_refused_by_validate_unless_ignored():
    with pytest.raises(EventError, match="'colour'") as refused:
        ENCODER.validate({"colour": 1})
    assert refused.value.reason == "unknown_feature"
    FeatureEncoder([feature("user")], ignore_unknown=True).validate({"colour": 1, "user": 2})


def test_equal_strings_are_equal_ids_only_in_features_that_share_ids():
    row = {"seen": "Heat", "shown": "Heat"}

    def pair(*, salted: bool) -> list[int]:
        features = [feature(name, "string", table="movie", salted=salted) for name in row]
        return [int(bag.ids[0]) for bag in FeatureEncoder(features).encode([row]).values()]

    shared, apart = pair(salted=False), pair(salted=True)
    assert shared[0] == shared[1] == hash_string("movie", "Heat")
    assert apart == [hash_string("seen", "Heat"), hash_string("shown", "Heat")]
    assert apart[0] != apart[1]


def test_card_features_follow_the_tables():
    job = JobConfig(
        name="demo",
        input=InputConfig(),
        tables=[
            TableConfig(name="user", dim=4),
            TableConfig(name="movie", dim=4, features=["seen", "shown"], pooling="mean"),
            TableConfig(name="word", dim=4, features=["title", "query"], shared_ids=True),
        ],
        features=[FeatureConfig(name="seen", type="string", bag=True)],
    )
    assert card_features(job) == [
        feature("user"),
        CardFeature(name="seen", table="movie", type="string", bag=True, pooling="mean", salted=True),
        CardFeature(name="shown", table="movie", type="int", bag=False, pooling="mean", salted=True),
        feature("title", table="word"),
        feature("query", table="word"),
    ]


def test_a_feature_of_two_tables_is_refused():
    tables = [TableConfig(name="user", dim=4), TableConfig(name="wide", dim=1, features=["user"])]
    with pytest.raises(ConfigError, match=r"\['user'\] are read by more than one table"):
        card_features(JobConfig(name="demo", input=InputConfig(), tables=tables))
