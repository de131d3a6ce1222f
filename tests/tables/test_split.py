"""Ids go to the owners of their rows' buckets, in their order, and find their way back."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from monolith.errors import InputError
from monolith.tables.batch import Bag, Batch, Home
from monolith.tables.buckets import ALL_BUCKETS, Buckets, union
from monolith.tables.hashing import salted
from monolith.tables.split import Owners, buckets_of, split_ids, split_unique

IDS = st.lists(st.one_of(st.integers(0, 20), st.integers(-(2**63), 2**63 - 1)), max_size=60)
OWNERS = st.builds(
    lambda seed, count: Owners(np.random.default_rng(seed).integers(0, count, 1024), count),
    st.integers(0, 99),
    st.integers(1, 7),
)


@given(IDS, OWNERS, st.sampled_from([None, "movie"]))
def test_each_owner_gets_the_ids_of_its_buckets_in_their_order(ids, owners, salted_by):
    ids = np.array(ids, np.int64)
    keys = ids if salted_by is None else salted(salted_by, ids)
    owner = owners.of_bucket[reference.bucket(keys)]
    split = split_ids(ids, owners, salted_by=salted_by)
    assert [part.tolist() for part in split.parts()] == [
        np.flatnonzero(owner == k).tolist() for k in range(owners.count)
    ]
    assert np.array_equal(ids[split.positions][split.back], ids)
    assert np.array_equal(split.positions[split.back], np.arange(len(ids)))
    of, place = split.places()
    assert of.tolist() == owner.tolist()
    assert [int(split.of(k)[j]) for k, j in zip(of, place, strict=True)] == list(range(len(ids)))


@pytest.mark.parametrize("split", [split_ids, split_unique])
def test_owners_counts_are_of_all_occurrences(split) -> None:
    ids = np.random.default_rng(3).integers(0, 40, 5_000)
    owners = Owners.evenly(7)
    expected = np.bincount(owners.of_bucket[buckets_of(ids)], minlength=7)
    assert split(ids, owners).counts.tolist() == expected.tolist()
    assert split(ids[:0], owners).counts.tolist() == [0] * 7


@given(IDS, OWNERS, st.sampled_from([None, "movie"]))
def test_unique_ids_come_once_at_their_first_occurrence(ids, owners, salted_by):
    ids = np.array(ids, np.int64)
    keys = ids if salted_by is None else salted(salted_by, ids)
    first = sorted({i: p for p, i in reversed(list(enumerate(ids.tolist())))}.values())
    owner = owners.of_bucket[reference.bucket(keys)]
    split = split_unique(ids, owners, salted_by=salted_by)
    expected = [[p for p in first if owner[p] == k] for k in range(owners.count)]
    assert [part.tolist() for part in split.parts()] == expected
    assert np.array_equal(ids[split.positions][split.back], ids)


def test_bucket_of_an_id_is_that_of_its_row_in_the_table(make_table):
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 3000)
    for feature in (None, "movie"):
        table = make_table(name="t")
        table.observe(ids if feature is None else salted(feature, ids))
        buckets = buckets_of(ids, salted_by=feature)
        for number in (0, 5, 1023):
            held = table.native.export_bucket(number)["ids"]
            own = ids[buckets == number]
            assert sorted(held.tolist()) == sorted((own if feature is None else salted(feature, own)).tolist())


def test_owners_of_equal_runs_divide_all_buckets():
    for count in (1, 2, 3, 7, 1024):
        owners = Owners.evenly(count)
        runs = [owners.buckets(owner) for owner in range(count)]
        assert union(runs) == ALL_BUCKETS
        assert {len(run.ranges) for run in runs} == {1}
        assert max(map(len, runs)) - min(map(len, runs)) <= 1


@pytest.mark.parametrize(
    ("owners", "count", "says"),
    [
        (np.zeros(1000, int), 1, "shape .1000,.: give each of 1024 buckets"),
        (np.zeros(1024), 1, "owners are float64"),
        (np.full(1024, 3), 3, "3 to 3; allowed: 0 to 2, of 3"),
        (np.full(1024, -1), 3, "-1 to -1; allowed"),
    ],
)
def test_owners_that_cannot_be_are_refused(owners, count, says):
    with pytest.raises(InputError, match=says):
        Owners(owners, count)
    with pytest.raises(InputError, match="allowed: 1 to 1024"):
        Owners.evenly(0)


def a_batch(bags: dict[str, Bag]) -> Batch:
    n = len(next(iter(bags.values())))
    return Batch(
        bags=bags,
        dense={"age": np.arange(n, dtype=np.float32)[:, None]},
        labels=np.ones((n, 1), np.float32),
        rates=np.ones(n, np.float32),
        event_time_ms=np.arange(n),
        ingestion_time_ms=np.arange(n),
        groups=np.zeros(n, np.int64),
        late=np.zeros(n, np.bool_),
    )


def test_batch_split_by_owners_comes_back_id_by_id(make_table):
    """Rows looked up by each owner for its part, put together by ``back``, are those of one table."""
    rng, n = np.random.default_rng(1), 40
    lengths = rng.integers(0, 4, n).astype(np.int32)
    total = int(lengths.sum())
    bags = {
        "user": Bag(rng.integers(0, 30, n), np.ones(n, np.int32)),
        "tags": Bag(rng.integers(0, 30, total), lengths, rng.random(total, np.float32)),
    }
    owners = Owners.evenly(3)
    split = a_batch(bags).split({"user": Home(owners), "tags": Home(owners, salted=True)})
    assert [len(part) for part in split.parts] == [n] * 3
    assert all(part.labels is split.parts[0].labels for part in split.parts)
    for name, bag in bags.items():
        keys = salted(name, bag.ids) if name == "tags" else bag.ids
        whole, shares = make_table(name=name), [make_table(name=name) for _ in range(3)]
        whole.observe(keys)
        given_ids = [part.bags[name].ids for part in split.parts]
        own = [salted(name, ids) if name == "tags" else ids for ids in given_ids]
        for table, ids in zip(shares, own, strict=True):
            table.observe(ids)
        rows = np.concatenate([table.lookup(ids) for table, ids in zip(shares, own, strict=True)])
        assert rows[split.splits[name].back].tobytes() == whole.lookup(keys).tobytes()
        sums = sum(part.bags[name].lengths for part in split.parts)
        assert sums.tolist() == bag.lengths.tolist()
        for owner, part in enumerate(split.parts):
            sample = np.repeat(np.arange(n), bag.lengths)[split.splits[name].of(owner)]
            assert np.repeat(np.arange(n), part.bags[name].lengths).tolist() == sample.tolist()
    weights = np.concatenate([part.bags["tags"].weights for part in split.parts])
    assert np.array_equal(weights[split.splits["tags"].back], bags["tags"].weights)


def test_batch_is_not_split_without_a_home_for_each_feature():
    batch = a_batch({"user": Bag(np.arange(3), np.ones(3, np.int32)), "item": Bag(np.arange(3), np.ones(3, np.int32))})
    with pytest.raises(InputError, match="no home for the ids of item"):
        batch.split({"user": Home(Owners.evenly(2))})
    with pytest.raises(InputError, match="'user' has 2 owners, 'item' has 3 owners"):
        batch.split({"user": Home(Owners.evenly(2)), "item": Home(Owners.evenly(3))})


def test_buckets_are_ranges_that_lie_apart():
    buckets = Buckets.of((600, 700), (3, 5), (5, 9))
    assert buckets.ranges == ((3, 9), (600, 700))
    assert (len(buckets), str(buckets)) == (106, "buckets 3 to 8, 600 to 699")
    assert 8 in buckets
    assert 9 not in buckets
    assert Buckets.of_mask(buckets.mask()) == buckets
    assert ALL_BUCKETS - (ALL_BUCKETS - buckets) == buckets
    assert (buckets & Buckets.of((0, 4))).ranges == ((3, 4),)
    for ranges, says in (([(3, 3)], "0 <= first < end"), ([(0, 1025)], "0 <= first"), ([(0, 5), (4, 9)], "overlap")):
        with pytest.raises(InputError, match=says):
            Buckets.of(*ranges)
