"""Strings and shared ids become the same keys for ever."""

import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from reference import mix64

from monolith.errors import InputError
from monolith.tables.hashing import feature_salt, hash_string, hash_strings, salted
from monolith.tables.tail import tail_numbers

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "hashing.json").read_text())


def test_golden_strings_have_their_ids():
    assert len(GOLDEN["strings"]) >= 20
    for feature, value, expected in GOLDEN["strings"]:
        assert hash_string(feature, value) == int(expected)


def test_golden_salted_ids_have_their_keys():
    for feature, value, expected in GOLDEN["salted"]:
        assert salted(feature, np.array([int(value)])).tolist() == [int(expected)]


def test_golden_ids_share_their_rows():
    for value, rows, expected in GOLDEN["tail"]:
        assert tail_numbers(np.array([int(value)]), rows).tolist() == [expected]


def test_string_hash_is_xxh3_seeded_by_the_features_name():
    seed = xxhash.xxh3_64_intdigest(b"movie")
    expected = xxhash.xxh3_64_intdigest("Amélie".encode(), seed=seed)
    assert hash_string("movie", "Amélie") % 2**64 == expected
    assert -(2**63) <= hash_string("movie", "Amélie") < 2**63


def test_whole_string_counts():
    assert hash_string("url", "x" * 5000 + "a") != hash_string("url", "x" * 5000 + "b")


def test_lists_hash_as_their_strings():
    values = ["a", "", "☃", "a"]
    ids = hash_strings("tags", values)
    assert ids.dtype == np.int64
    assert ids.tolist() == [hash_string("tags", value) for value in values]
    assert hash_strings("tags", []).tolist() == []


def test_features_are_salted_apart():
    ids = np.arange(1000)
    assert not np.intersect1d(salted("user", ids), salted("movie", ids)).size
    assert hash_string("user", "7") != hash_string("movie", "7")


def test_salting_is_a_bijection_of_the_reference_hash():
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 100_000, dtype=np.int64)
    keys = salted("user", ids)
    assert len(np.unique(keys)) == len(np.unique(ids))
    expected = mix64(ids.view(np.uint64) ^ np.uint64(feature_salt("user")))
    assert np.array_equal(keys.view(np.uint64), expected)


@pytest.mark.parametrize("ids", [np.arange(3, dtype=np.int32), [1, 2], np.zeros((2, 2), np.int64)])
def test_salting_takes_int64_arrays_only(ids):
    with pytest.raises(InputError):
        salted("user", ids)
