"""How a table is divided: a function of the table and the number of ranks."""

from __future__ import annotations

import pytest

from monolith.config.table import FeatureRules
from monolith.errors import ConfigError
from monolith.tables import TableConfig, admission, eviction, expiry
from monolith.tables.buckets import BUCKETS, union
from monolith.training.sharding.division import Division, divisions_of, needs_occurrences


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 16, 64, 100])
def test_every_bucket_has_one_rank_and_ranks_have_about_as_many(ranks: int) -> None:
    division = Division(TableConfig(name="a", dim=2), ranks)
    own = [division.buckets(part) for rank in range(ranks) for part in division.of(rank)]
    assert union(own).all
    assert sum(map(len, own)) == BUCKETS
    assert max(map(len, own)) - min(map(len, own)) <= 16


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 16])
def test_a_table_with_a_limit_has_the_same_parts_at_every_number_of_ranks(ranks: int) -> None:
    config = TableConfig(name="a", dim=2, eviction=eviction.LRU(max_rows=100))
    division = Division(config, ranks)
    assert [division.buckets(part) for part in range(16)] == [Division(config, 1).buckets(part) for part in range(16)]
    assert division.part_config().eviction == eviction.LRU(max_rows=7)
    assert sorted(part for rank in range(ranks) for part in division.of(rank)) == list(range(16))


@pytest.mark.parametrize("rule", [eviction.Unlimited(), eviction.LFU(max_bytes=1_000_000)])
def test_every_piece_is_of_one_rank_and_the_same_at_every_number_of_ranks(rule: eviction.LFU) -> None:
    config = TableConfig(name="a", dim=2, eviction=rule)
    for ranks in range(1, 17):
        division = Division(config, ranks)
        assert division.pieces() == Division(config, 1).pieces()
        for piece in division.pieces():
            assert sum(bool((piece & division.buckets(part)).ranges) for part in range(division.parts)) == 1


def test_what_cannot_be_divided_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="give limit_parts of at least 17"):
        Division(TableConfig(name="a", dim=2, eviction=eviction.LRU(max_rows=100)), 17)
    with pytest.raises(ConfigError, match="allowed: 1 to 1024"):
        Division(TableConfig(name="a", dim=2), 1025)
    with pytest.raises(ConfigError, match="up to 64; use save"):
        Division(TableConfig(name="a", dim=2), 65).pieces()


def test_the_native_tables_of_a_table_are_read_by_its_features() -> None:
    before = TableConfig(name="a", dim=2, features=["one", "two"])
    divisions = divisions_of([before, TableConfig(name="b", dim=2, kind="qr", rows=9)], 2)
    assert [division.names for division in divisions] == [["one", "two"], ["b"], ["b"]]
    assert [division.outputs for division in divisions] == [slice(0, 2), slice(2, 3), slice(2, 3)]
    assert [division.config.name for division in divisions] == ["a", "b.quotient", "b.remainder"]


def test_rules_that_count_or_order_occurrences_are_known() -> None:
    def needs(**rules: object) -> bool:
        return needs_occurrences(TableConfig(name="a", dim=2, features=["a", "b"], **rules))

    assert not needs()
    assert not needs(admission=admission.MinCount(count=1))
    assert needs(admission=admission.MinCount(count=2))
    assert needs(admission=admission.Probability(p=0.5))
    assert needs(admission=admission.Never())
    assert needs(expiry=expiry.Idle(ttl_s=5))
    assert needs(eviction=eviction.LRU(max_rows=5))
    assert needs(threshold=0.5)
    assert needs(per_feature={"a": FeatureRules(admission=admission.Always())})
