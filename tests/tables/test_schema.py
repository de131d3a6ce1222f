"""From feature values to packed rows and columns: types, bags, missing values, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.card import CardFeature, Read
from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig
from monolith.config.features import Clip, Log1p, Standardize
from monolith.errors import EventError
from monolith.tables.batch import NO_GROUP, Bag
from monolith.tables.hashing import hash_string
from monolith.tables.schema import Columns, FeatureSchema, card_features


def feature(name: str, type: str = "int", *, bag: bool = False, table: str = "", salted: bool = False) -> CardFeature:
    config = FeatureConfig(name=name, type=type, bag=bag)
    seed = table if table and not salted else name
    return CardFeature(
        config=config, seed=seed, reads=[Read(table=table or name, output=name, pooling="sum", salted=salted)]
    )


SCHEMA = FeatureSchema(
    [feature("user"), feature("city", "string"), feature("seen", bag=True), feature("tags", "string", bag=True)]
)


def bags_of(samples: list[dict], schema: FeatureSchema = SCHEMA) -> dict[str, Bag]:
    return schema.columns_of(samples, np.zeros(len(samples), np.int64)).bags


def ids(name: str, *values: object) -> tuple[list[int], list[int], list[float] | None]:
    """Ids, lengths and weights of one feature over several rows."""
    bag = bags_of([{name: value} for value in values])[name]
    assert bag.ids.dtype == np.int64
    assert bag.lengths.dtype == np.int32
    assert bag.weights is None or bag.weights.dtype == np.float32
    return bag.ids.tolist(), bag.lengths.tolist(), None if bag.weights is None else bag.weights.tolist()


def test_integer_is_its_own_id():
    assert ids("user", 7, 0, -3, 2**63 - 1) == ([7, 0, -3, 2**63 - 1], [1, 1, 1, 1], None)


def test_string_is_hashed_with_the_features_name():
    assert ids("city", "Bern", "") == ([hash_string("city", "Bern"), hash_string("city", "")], [1, 1], None)


@pytest.mark.parametrize("missing", ["empty", "own_row"])
def test_samples_of_unknown_users_are_in_no_group(missing):
    user = feature("user", "string")
    user = msgspec.structs.replace(user, config=msgspec.structs.replace(user.config, missing=missing))
    schema = FeatureSchema([user, feature("item")])
    columns = schema.columns_of([{"user": "a"}, {"user": None}, {"item": 3}, {"user": "b"}], np.zeros(4, np.int64))
    known = [hash_string("user", name) for name in "ab"]
    assert schema.groups(columns, "user", 4).tolist() == [known[0], NO_GROUP, NO_GROUP, known[1]]
    assert columns.bags["user"].lengths.tolist() == ([1, 0, 0, 1] if missing == "empty" else [1, 1, 1, 1])


def test_missing_value_is_no_id():
    assert ids("user", 7, None, 8) == ([7, 8], [1, 0, 1], None)
    assert ids("seen", None, []) == ([], [0, 0], None)
    assert bags_of([{}])["city"].lengths.tolist() == [0]


def test_list_is_a_bag_in_its_order_with_repeats():
    assert ids("seen", [3, 1, 3], [2]) == ([3, 1, 3, 2], [3, 1], None)


def test_mapping_is_a_weighted_bag_and_lists_beside_it_weigh_one():
    jazz, rock = hash_string("tags", "jazz"), hash_string("tags", "rock")
    assert ids("tags", {"jazz": 0.5, "rock": 2}, None, ["rock"]) == ([jazz, rock, rock], [2, 0, 1], [0.5, 2.0, 1.0])


def test_integer_keys_of_a_mapping_may_be_digits_since_json_has_no_others():
    assert ids("seen", {"12": 0.5, "-3": 1.0}) == ([12, -3], [2], [0.5, 1.0])


def test_batch_of_nothing_has_empty_bags():
    bags = bags_of([])
    assert list(bags) == ["user", "city", "seen", "tags"]
    assert all(len(bag.ids) == len(bag.lengths) == 0 for bag in bags.values())


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
def test_value_of_the_wrong_kind_is_refused_by_name(name, value, reason):
    with pytest.raises(EventError, match=repr(name)) as refused:
        SCHEMA.pack({name: value})
    assert refused.value.reason == reason


def test_weights_reach_to_a_million_and_the_refusal_says_so():
    SCHEMA.pack({"tags": {"jazz": 1e6, "rock": -1e6}})
    with pytest.raises(EventError, match=r"'jazz' with 1000000\.5, a weight is a number from -1000000 to 1000000:"):
        SCHEMA.pack({"tags": {"jazz": 1000000.5}})


def test_refusal_names_the_sample():
    with pytest.raises(EventError, match=r"sample 1: feature 'seen' has 'x' \(str\)"):
        bags_of([{"seen": [1]}, {"seen": ["x"]}])


def test_unknown_name_is_refused_unless_ignored():
    with pytest.raises(EventError, match="'colour'") as refused:
        SCHEMA.pack({"colour": 1})
    assert refused.value.reason == "unknown_feature"
    FeatureSchema([feature("user")], ignore_unknown=True).pack({"colour": [{}], "user": 2})


def test_equal_strings_are_equal_ids_only_in_features_that_share_ids():
    row = {"seen": "Heat", "shown": "Heat"}

    def pair(*, salted: bool) -> list[int]:
        features = [feature(name, "string", table="movie", salted=salted) for name in row]
        return [int(bag.ids[0]) for bag in bags_of([row], FeatureSchema(features)).values()]

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
    seen, shown = (Read(table="movie", output=name, pooling="mean", salted=True) for name in ("seen", "shown"))
    assert card_features(job) == [
        feature("user"),
        CardFeature(config=FeatureConfig(name="seen", type="string", bag=True), seed="seen", reads=[seen]),
        CardFeature(config=FeatureConfig(name="shown"), seed="shown", reads=[shown]),
        feature("title", table="word"),
        feature("query", table="word"),
    ]


def test_a_feature_of_two_tables_has_two_outputs():
    tables = [TableConfig(name="user", dim=4), TableConfig(name="wide", dim=1, features=["user"])]
    (user,) = card_features(JobConfig(name="demo", input=InputConfig(), tables=tables))
    assert [(read.table, read.output) for read in user.reads] == [("user", "user@user"), ("wide", "user@wide")]


def test_features_that_share_ids_in_several_tables_have_one_seed():
    tables = [
        TableConfig(name="word", dim=4, features=["title", "query"], shared_ids=True),
        TableConfig(name="more", dim=4, features=["query", "note"], shared_ids=True),
    ]
    features = card_features(JobConfig(name="demo", input=InputConfig(), tables=tables))
    assert {f.name: f.seed for f in features} == dict.fromkeys(["title", "query", "note"], "word")


def schema(*features: FeatureConfig, dense: tuple[str, ...] = ()) -> FeatureSchema:
    cards = [
        CardFeature(
            config=f,
            seed=f.name,
            reads=[] if f.name in dense else [Read(table="t", output=f.name, pooling="sum", salted=False)],
        )
        for f in features
    ]
    return FeatureSchema(cards)


def dense(config: FeatureConfig, *values: object) -> list[list[float]]:
    of = schema(config, dense=(config.name,))
    samples = [{} if value is ... else {config.name: value} for value in values]
    column = of.columns_of(samples, np.zeros(len(values), np.int64)).dense[config.name]
    assert column.dtype == np.float32
    return column.tolist()


def test_float_is_a_dense_number_and_a_missing_one_is_zero():
    price = FeatureConfig(name="price", type="float")
    assert dense(price, 2.5, 3, None, ..., float("nan")) == [[2.5], [3.0], [0.0], [0.0], [0.0]]


def test_list_of_numbers_has_just_its_width():
    image = FeatureConfig(name="image", type="float", width=3)
    assert dense(image, [1, 2.5, None], None) == [[1.0, 2.5, 0.0], [0.0, 0.0, 0.0]]
    for value, reason in (([1.0], "feature_width"), (1.0, "feature_type"), (["a", 1, 2], "feature_type")):
        with pytest.raises(EventError, match="'image'") as refused:
            dense(image, value)
        assert refused.value.reason == reason


def test_transforms_follow_each_other_and_missing_numbers_are_not_transformed():
    steps = [Clip(max=100.0), Log1p(), Standardize(mean=1.0, std=2.0)]
    price = FeatureConfig(name="price", type="float", transforms=steps)
    expected = [(np.log1p(min(x, 100.0)) - 1) / 2 for x in (3.0, 1e9)]
    assert np.allclose(np.ravel(dense(price, 3.0, 1e9, None)), [*expected, 0.0])
    assert np.allclose(dense(FeatureConfig(name="x", type="float", transforms=[Log1p()]), -3.0), -np.log1p(3.0))


def test_default_counts_as_if_it_had_come():
    price = FeatureConfig(name="price", type="float", transforms=[Log1p()], default=3)
    assert np.allclose(np.ravel(dense(price, None, 3.0)), np.log1p(3.0))


def test_number_is_no_bool_and_no_infinity():
    price = FeatureConfig(name="price", type="float")
    for value, reason in (
        (True, "feature_type"),
        ("3", "feature_type"),
        (float("inf"), "feature_range"),
        (10**400, "feature_range"),
    ):
        with pytest.raises(EventError, match="'price'") as refused:
            dense(price, value)
        assert refused.value.reason == reason


def test_bool_is_dense_or_an_id_by_whether_a_table_reads_it():
    flag = FeatureConfig(name="flag", type="bool")
    assert dense(flag, True, False, None) == [[1.0], [0.0], [0.0]]
    assert bags_of([{"flag": True}, {"flag": False}, {}], schema(flag))["flag"].ids.tolist() == [1, 0]
    with pytest.raises(EventError, match="true or false"):
        dense(flag, 1)


def test_boundaries_make_an_id_of_a_transformed_number():
    age = FeatureConfig(name="age", type="float", boundaries=[18.0, 35.0])
    bag = bags_of([{"age": x} for x in (3, 18, 34.9, 35, 90)] + [{}], schema(age))["age"]
    assert (bag.ids.tolist(), bag.lengths.tolist()) == ([0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 0])


def test_missing_value_has_an_id_of_its_own_where_the_rule_says_so():
    city = FeatureConfig(name="city", type="string", missing="own_row")
    bag = bags_of([{}, {"city": "Bern"}, {"city": None}], schema(city))["city"]
    assert bag.ids[0] == bag.ids[2] != bag.ids[1]
    assert bag.one_each


def test_missing_value_is_refused_where_the_rule_says_so():
    with pytest.raises(EventError, match="'city' is missing") as refused:
        schema(FeatureConfig(name="city", type="string", missing="dead_letter")).pack({})
    assert refused.value.reason == "feature_missing"


def test_parts_of_the_event_time_need_no_value_and_know_local_time():
    of = schema(FeatureConfig(name="h", type="hour", utc_offset_h=5.5), FeatureConfig(name="d", type="weekday"))
    times = [datetime(2026, 11, 29, 23, 59, tzinfo=UTC), datetime(1969, 12, 31, 1, 0, tzinfo=UTC)]
    columns = of.columns_of([{}, {}], np.array([round(t.timestamp() * 1000) for t in times], np.int64))
    assert columns.bags["h"].ids.tolist() == [5, 6]
    assert columns.bags["d"].ids.tolist() == [t.weekday() for t in times]


MIXED = [
    FeatureConfig(name="user"),
    FeatureConfig(name="tags", type="string", bag=True),
    FeatureConfig(name="likes", bag=True),
    FeatureConfig(name="price", type="float"),
    FeatureConfig(name="image", type="float", width=2),
    FeatureConfig(name="flag", type="bool"),
]
VALUES = {
    "user": st.integers(-(2**63), 2**63 - 1),
    "tags": st.lists(st.text(max_size=3), max_size=4)
    | st.dictionaries(st.text(max_size=3), st.floats(-9, 9), max_size=3),
    "likes": st.lists(st.integers(-9, 9), max_size=4)
    | st.dictionaries(st.integers(-9, 9), st.floats(-9, 9), max_size=3),
    "price": st.floats(-9, 9),
    "image": st.lists(st.floats(-9, 9), min_size=2, max_size=2),
    "flag": st.booleans(),
}
SAMPLES = st.lists(
    st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in VALUES.items()}), max_size=9
)


def plain(columns: Columns) -> dict:
    bags = {
        name: (bag.ids.tolist(), bag.lengths.tolist(), None if bag.weights is None else bag.weights.tolist())
        for name, bag in columns.bags.items()
    }
    return bags | {name: column.tolist() for name, column in columns.dense.items()}


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_columns_are_those_of_each_value_by_itself(samples):
    of = schema(*MIXED, dense=("price", "image", "flag"))
    columns = of.columns_of(samples, np.zeros(len(samples), np.int64))
    for config in MIXED:
        name, alone = config.name, [s.get(config.name) for s in samples]
        if name in columns.dense:
            assert columns.dense[name].tolist() == (dense(config, *alone) if alone else [])
            continue
        bag, single = columns.bags[name], FeatureSchema([c for c in of.features if c.name == name])
        ids = [bags_of([{name: v}], single)[name].ids.tolist() for v in alone]
        assert bag.ids.tolist() == [i for part in ids for i in part]
        assert bag.lengths.tolist() == [len(part) for part in ids]
        weights = [
            list(map(np.float32, v.values())) if isinstance(v, dict) else [1.0] * len(part)
            for v, part in zip(alone, ids, strict=True)
        ]
        assert (bag.weights is None and all(w == 1 for part in weights for w in part)) or bag.weights.tolist() == [
            w for part in weights for w in part
        ]


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_row_of_another_schema_keeps_what_is_the_same(samples):
    old = schema(*MIXED, dense=("price", "image", "flag"))
    changed = [c for c in MIXED if c.name not in ("tags", "image")] + [FeatureConfig(name="new", missing="own_row")]
    new = schema(*changed, dense=("price", "flag"))
    times = np.zeros(len(samples), np.int64)
    repacked = plain(new.unpack_rows([new.repacked(old.pack(sample), old) for sample in samples], times))
    kept = [{k: v for k, v in sample.items() if k not in ("tags", "image")} for sample in samples]
    assert repacked == plain(new.columns_of(kept, times))
