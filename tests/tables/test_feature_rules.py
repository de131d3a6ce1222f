"""Features of one table that have admission and expiry of their own."""

import numpy as np
import pytest
import reference

from monolith.config.table import FeatureRules
from monolith.errors import ConfigError, InputError
from monolith.tables import Table, TableConfig, admission, expiry, optimizers

RULES = {
    "tag": FeatureRules(admission=admission.MinCount(3)),
    "movie": FeatureRules(expiry=expiry.Idle(ttl_s=1.0)),
}


def make(**settings) -> Table:
    fields = {"name": "both", "dim": 2, "features": ["user", "movie", "tag"], "per_feature": RULES}
    return Table(TableConfig(**(fields | {"admission": admission.MinCount(2)} | settings)))


def test_each_feature_has_its_own_admission(ids):
    table = make()
    for feature, first in (("user", 10), ("movie", 20), ("tag", 30), (None, 40)):
        table.observe(ids(first, first, first + 1, first + 1, first + 1), feature=feature)
    assert table.rows()[0].tolist() == [10, 11, 20, 21, 31, 40, 41]


def test_runs_of_features_in_one_call(ids):
    table, apart = make(), make()
    table.observe(ids(10, 10, 30, 30, 20, 20), event_time_ms=0, feature=[("user", 2), ("tag", 2), ("movie", 2)])
    for feature, i in (("user", 10), ("tag", 30), ("movie", 20)):
        apart.observe(ids(i, i), event_time_ms=0, feature=feature)
    table.advance(1001)
    apart.advance(1001)
    assert table.rows()[0].tolist() == apart.rows()[0].tolist() == [10]
    assert table.sweep() == 1


def test_step_goes_by_the_features_too(ids):
    table = make()
    step = table.step(ids(10, 10, 30, 30), feature=[("user", 2), ("tag", 2)])
    assert step.values.any(axis=1).tolist() == [True, True, False, False]


def test_row_keeps_the_rules_of_the_feature_that_it_came_by(ids):
    table = make(admission=admission.Always())
    table.observe(ids(1), event_time_ms=0, feature="movie")
    table.observe(ids(1), event_time_ms=500, feature="user")
    table.advance(1501)
    assert not table.lookup(ids(1)).any()


def test_features_with_an_admission_of_their_own_count_apart(ids):
    """The table's two counters a bucket are full of users; tags have their own."""
    pool = np.arange(10**6)
    mates = pool[reference.bucket(pool) == 3][:4]
    rules = {"tag": FeatureRules(admission.MinCount(2, max_counters=1024))}
    table = make(per_feature=rules, admission=admission.MinCount(2, max_counters=2048))
    table.observe(mates[:2], feature="user")
    table.observe(mates[3:], feature="tag")
    assert (table.stats().counters, table.stats().counter_decrements) == (3, 0)
    table.observe(mates[2:3], feature="movie")  # has no admission of its own: counts with the table's
    assert (table.stats().counters, table.stats().counter_decrements) == (1, 1)
    table.observe(mates[3:], feature="tag")
    assert table.rows()[0].tolist() == mates[3:].tolist()


def test_rows_and_counters_stay_their_features_when_features_change(tmp_path, ids):
    table = make(admission=admission.Always())
    table.observe(ids(1), event_time_ms=0, feature="movie")
    table.observe(ids(2), event_time_ms=0, feature="user")
    table.observe(ids(3, 3), event_time_ms=0, feature="tag")
    table.save(tmp_path)
    order = {"features": ["extra", "tag", "user", "movie"], "admission": admission.Always()}
    table = Table.open(tmp_path, make(**order).config)
    table.observe(ids(3), event_time_ms=1, feature="tag")  # its third
    table.advance(1001)
    assert table.rows()[0].tolist() == [2, 3]
    table.save(tmp_path)
    gone = TableConfig(name="both", dim=2, features=["user"], expiry=expiry.Idle(ttl_s=0.5))
    table = Table.open(tmp_path, gone)  # all are the table's own now
    assert table.rows()[0].tolist() == []


def test_plain_table_takes_features_and_keeps_nothing_of_them(ids, state_of):
    narrow = {"dim": 1, "optimizer": optimizers.SGD()}
    one, other, apart = make(per_feature={}, **narrow), make(per_feature={}, **narrow), make(**narrow)
    one.observe(ids(1, 1, 2), feature=[("user", 2), ("tag", 1)])
    other.observe(ids(1, 1, 2))
    apart.observe(ids(1, 1, 2))
    assert state_of(one) == state_of(other)
    assert one.stats().bytes_stamps == other.stats().bytes_stamps < apart.stats().bytes_stamps


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("usr", "table 'both' has no feature 'usr'; it has: user, movie, tag"),
        ([("user", 1), ("tag", 1)], "feature names 2 ids in 2 runs, the call has 3"),
        ([("user", 4)], "a feature's number of ids is 4, it must be from 0 to 3"),
        ([("user", -1), ("tag", 4)], "a feature's number of ids is -1"),
    ],
)
def test_features_that_do_not_fit_the_ids_are_refused(ids, state_of, feature, message):
    table = make()
    before = state_of(table)
    for call in (table.observe, table.step):
        with pytest.raises(InputError, match=message):
            call(ids(1, 2, 3), event_time_ms=5, feature=feature)
    assert state_of(table) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"per_feature": {"tags": RULES["tag"]}},
            r"per_feature\.tags: unknown feature 'tags' \(did you mean 'tag'\?\); the table has: user",
        ),
        ({"shared_ids": True}, "with shared_ids a row belongs to several features"),
        ({"per_feature": {"tag": FeatureRules()}}, "neither admission nor expiry is given"),
        (
            {"per_feature": {"tag": FeatureRules(admission.MinCount(2**32))}},
            r"per_feature\.tag\.admission\.count is 4294967296",
        ),
        (
            {"per_feature": {"tag": FeatureRules(expiry=expiry.Absolute(1e300))}},
            r"per_feature\.tag\.expiry\.ttl_s is 1e\+300",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)
