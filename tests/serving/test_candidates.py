"""Candidates of one request: the same bits as a sample a candidate, and what is shared looked up once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.card import CardFeature, Read
from monolith.config import FeatureConfig
from monolith.errors import EventError, InputError
from monolith.serving.candidates import PIECE_CANDIDATES, Candidates, own_columns, shared_columns
from monolith.serving.replica import Replica
from monolith.tables.schema import FeatureSchema


@pytest.fixture(params=["memory", "direct"])
def replica(request, recommender, url):
    with Replica.open(url, "demo", request.param) as replica:
        yield replica


def asked(replica):
    """The tables and the number of ids that every question asks for, noted while questions run."""
    source, notes = replica._source, []
    answer = source.answer

    def noting(question):
        def noted(inference, gather):
            def gathered(requests, *rest, **more):
                notes.append([(table, len(ids)) for table, ids in requests])
                return gather(requests, *rest, **more)

            return question(inference, gathered)

        return answer(noted)

    source.answer = noting
    return notes


COLUMNS = {"movie": [10, 11, 99, 10], "tags": [["new"], [], {"funny": 0.5, "new": 2.0}, None]}


def test_candidates_score_as_samples_that_repeat_what_is_shared(replica):
    shared = {"user": 1, "last_movie": 11}
    samples = [{**shared, "movie": m, "tags": t} for m, t in zip(*COLUMNS.values(), strict=True)]
    prediction = replica.predict_candidates(shared, COLUMNS)
    assert prediction.probabilities.tobytes() == replica.predict(samples).probabilities.tobytes()
    assert prediction.version.sequence == 1


def test_what_is_shared_is_looked_up_once(replica):
    notes = asked(replica)
    replica.predict_candidates({"user": 1, "tags": ["new", "funny"]}, {"movie": list(range(1000))})
    assert sorted(notes[-1]) == [("movie", 0), ("movie", 1000), ("tags", 2), ("user", 1)]


def test_many_candidates_go_in_pieces_and_keep_their_order(replica):
    movies = np.arange(2 * PIECE_CANDIDATES + 3) % 13
    tags = [["new"] * (n % 50) for n in range(len(movies))]
    samples = [{"user": 2, "movie": int(m), "tags": t} for m, t in zip(movies, tags, strict=True)]
    expected = replica.predict(samples).probabilities
    given_ = replica.predict_candidates({"user": 2}, {"movie": movies, "tags": tags}).probabilities
    assert given_.tobytes() == expected.tobytes()
    without_bags = replica.predict_candidates({"user": 2, "tags": ["new"]}, {"movie": movies}).probabilities
    assert len(without_bags) == len(movies)


def test_no_candidate_is_no_score(replica):
    assert replica.predict_candidates({"user": 1}, {}).probabilities.shape == (0,)
    assert replica.predict_candidates({"user": 1}, {"movie": []}).probabilities.shape == (0,)


REFUSED = [
    ({"user": 1}, {"user": [1]}, "'user'.*give it once"),
    ({}, {"user": [1], "movie": [1, 2]}, "several lengths"),
    ({}, {"user": 1}, "is a list of values"),
    ({}, {"user": "ab"}, "is a list of values"),
    ([], {}, "a mapping of shared features"),
    ({"colour": 1}, {"movie": [1]}, "unknown_feature"),
    ({}, {"colour": [1]}, "unknown_feature"),
    ({"user": "x"}, {"movie": [1]}, "takes an integer"),
    ({}, {"movie": [1, 2, "x"]}, "candidate 2: .*takes an integer"),
    ({}, {"movie": [1, True]}, "candidate 1: .*takes an integer"),
    ({}, {"movie": [1, 2**63]}, "candidate 1: .*does not fit 64 bits"),
    ({}, {"tags": [["new"], [3]]}, "candidate 1: .*takes a string"),
]


@pytest.mark.parametrize(("shared", "columns", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_feature_and_candidate(replica, shared, columns, message):
    with pytest.raises(InputError, match=message):
        replica.predict_candidates(shared, columns)


# --- every kind of feature, against samples ---


def feature(name: str, *, table: bool = True, **config) -> CardFeature:
    reads = [Read(table=name, output=name, pooling="sum", salted=False)] if table else []
    return CardFeature(config=FeatureConfig(name=name, **config), seed=name, reads=reads)


KINDS = [
    feature("whole"),
    feature("word", type="string"),
    feature("flag", type="bool", missing="own_row"),
    feature("price", type="float", boundaries=[1.0, 2.0]),
    feature("bag", type="string", bag=True),
    feature("hour", type="hour"),
    feature("size", table=False, type="float"),
    feature("pair", table=False, type="float", width=2),
    feature("yes", table=False, type="bool"),
]
NUMBERS = st.none() | st.integers(-5, 5) | st.floats(allow_infinity=False, width=32) | st.just(math.nan)
VALUES = {
    "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
    "word": st.none() | st.text(max_size=3),
    "flag": st.none() | st.booleans(),
    "price": NUMBERS,
    "bag": st.none()
    | st.lists(st.text(max_size=2), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.floats(-9, 9), max_size=3),
    "size": NUMBERS,
    "pair": st.none() | st.lists(NUMBERS, min_size=2, max_size=2),
    "yes": st.none() | st.booleans(),
}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_columns_are_those_of_samples_for_every_kind_of_feature(data):
    schema, time_ms = FeatureSchema(KINDS), 1_700_000_000_000
    count = data.draw(st.integers(1, 5))
    own = data.draw(st.sets(st.sampled_from(sorted(VALUES))))
    shared = {name: data.draw(VALUES[name]) for name in VALUES if name not in own}
    columns = {name: data.draw(st.lists(VALUES[name], min_size=count, max_size=count)) for name in own}
    candidates = Candidates(shared, columns)
    samples = [{**shared, **{name: values[n] for name, values in columns.items()}} for n in range(len(candidates))]
    if not samples:
        return
    expected = schema.columns_of(samples, np.full(len(samples), time_ms))
    common, mine = shared_columns(schema, candidates, time_ms), own_columns(schema, candidates, slice(0, count))
    for name, bag in expected.bags.items():
        seen = mine.bags.get(name) or common.bags[name]
        times = 1 if name in mine.bags else len(samples)
        assert np.tile(seen.ids, times).tolist() == bag.ids.tolist(), name
        assert np.tile(seen.lengths, times).tolist() == bag.lengths.tolist(), name
        ones = np.ones(len(bag.ids), np.float32)
        weights = ones if seen.weights is None else np.tile(seen.weights, times)
        assert weights.tobytes() == (ones if bag.weights is None else bag.weights).tobytes(), name
    for name, column in expected.dense.items():
        seen = mine.dense.get(name)
        got = np.repeat(common.dense[name], len(samples), axis=0) if seen is None else seen
        assert got.tobytes() == column.tobytes(), name


def test_a_feature_that_must_not_be_missing_may_come_with_the_candidates():
    schema = FeatureSchema([feature("whole", missing="dead_letter"), feature("word", type="string")])
    shared_columns(schema, Candidates({"word": "a"}, {"whole": [1]}), 0)
    with pytest.raises(EventError, match="candidate 0: feature 'whole' is missing"):
        shared_columns(schema, Candidates({}, {"word": ["a"]}), 0)


def test_arrays_are_columns_too():
    schema = FeatureSchema(KINDS)
    columns = {"whole": np.array([1, 2]), "size": np.array([0.5, np.nan]), "word": np.array(["a", "b"])}
    listed = {name: values.tolist() for name, values in columns.items()}
    arrays, lists = (own_columns(schema, Candidates({}, given_), slice(0, 2)) for given_ in (columns, listed))
    for name, bag in lists.bags.items():
        assert arrays.bags[name].ids.tolist() == bag.ids.tolist()
    assert arrays.dense["size"].tobytes() == lists.dense["size"].tobytes()
    with pytest.raises(EventError, match=r"candidate 1: .*not a finite number"):
        own_columns(schema, Candidates({}, {"size": np.array([1.0, np.inf])}), slice(0, 2))
