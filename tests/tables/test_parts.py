"""A table saved in parts: any number of owners opens what any other number saved, and wrong parts are named."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.errors import ConfigError, InputError
from monolith.tables import Buckets, Owners, Table, TableConfig, TableFile, admission, eviction, expiry, optimizers
from monolith.tables.buckets import ALL_BUCKETS
from monolith.tables.delta import joined
from monolith.tables.split import split_ids

LOW, HIGH = Buckets.of((0, 512)), Buckets.of((512, 1024))


def config(**settings: object) -> TableConfig:
    fields: dict[str, object] = {
        "name": "user",
        "dim": 4,
        "optimizer": optimizers.Adam(),
        "admission": admission.MinCount(2, max_counters=4000),
        "expiry": expiry.Idle(ttl_s=3.0),
    }
    return TableConfig(**fields | settings)  # type: ignore[arg-type]


def train(tables: list[Table], owners: Owners, seed: int, steps: int = 5) -> None:
    """The same steps for a table, or for the owners of its parts, each of which gets its ids and every call."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = rng.zipf(1.3, 500) % 900
        grads = rng.standard_normal((500, 4)).astype(np.float32)
        split = split_ids(ids, owners)
        for owner, table in enumerate(tables):
            own, now = split.of(owner), seed * 10_000 + step * 900
            table.advance(now)
            table.observe(ids[own])
            table.apply_gradients(ids[own], grads[own])
            table.sweep(100)
        if step % 2:
            for table in tables:
                table.cut()


def test_one_two_four_and_three_owners_train_the_same_rows(tmp_path):
    """Each opens what the number before saved, and all train on."""
    whole = Table(config())
    train([whole], Owners.evenly(1), 0)
    folders = [tmp_path / "0"]
    whole.save(folders[0])
    for number, count in enumerate((2, 4, 3, 1), 1):
        owners = Owners.evenly(count)
        parts = [Table.open(folders, buckets=owners.buckets(owner)) for owner in range(count)]
        train(parts, owners, number)
        train([whole], Owners.evenly(1), number)
        folders = [tmp_path / f"{number}.{owner}" for owner in range(count)]
        for part, folder in zip(parts, folders, strict=True):
            part.save(folder)
    ours, theirs = parts[0].save(tmp_path / "ours"), whole.save(tmp_path / "theirs")
    assert ours.read_bytes() == theirs.read_bytes()
    assert parts[0].stats().observed == whole.stats().observed > 0


def test_deltas_of_owners_join_to_that_of_the_whole_and_are_applied_as_one():
    owners = Owners.evenly(3)
    whole, parts = Table(config()), [Table(config(), buckets=owners.buckets(owner)) for owner in range(3)]
    replica = Table(config())
    for seed in range(3):
        train([whole], Owners.evenly(1), seed)
        train(parts, owners, seed)
        delta = joined([part.delta(replica.sequence - 1) for part in parts])
        assert delta.ids.tobytes() == whole.delta(replica.sequence - 1).ids.tobytes()
        replica.apply(delta)
        assert replica.rows()[1].tobytes() == whole.delta(0).values.tobytes()


def test_part_of_a_delta_is_not_applied_to_the_whole():
    table = Table(config())
    train([table], Owners.evenly(1), 1)
    part = table.delta(0, buckets=LOW)
    with pytest.raises(InputError, match=r"delta is of buckets 0 to 511, table 'user' has buckets 0 to 1023: join"):
        Table(config()).apply(part)
    replica = Table(config(), buckets=LOW)
    replica.apply(part)
    assert replica.rows()[0].tobytes() == part.ids.tobytes()


def test_parts_of_other_deltas_do_not_join():
    table = Table(config())
    train([table], Owners.evenly(1), 1)
    low, high = table.delta(1, buckets=LOW), table.delta(0, buckets=HIGH)
    with pytest.raises(InputError, match=r"buckets 0 to 511 is from sequence 1 to 2 without a tail, .* sequence 0"):
        joined([low, high])
    with pytest.raises(InputError, match="overlap"):
        joined([low, low])
    with pytest.raises(InputError, match="no part"):
        joined([])


@pytest.fixture
def halves(tmp_path):
    """The folders of a table in two parts, and the table."""
    table = Table(config(seed=3))
    train([table], Owners.evenly(1), 0)
    table.save(tmp_path / "low", buckets=LOW)
    table.save(tmp_path / "high", buckets=HIGH)
    return tmp_path / "low", tmp_path / "high", table


def test_part_has_its_buckets_only(halves):
    low, high, table = halves
    with TableFile(low) as file:
        assert file.held == LOW
        rows = sum(len(file.bucket(number)["ids"]) for number in LOW)
        with pytest.raises(InputError, match="no bucket 700; it has buckets 0 to 511"):
            file.bucket(700)
    assert 0 < rows < len(table)
    assert low.joinpath("table.bin").stat().st_size < 0.6 * table.save(low.parent / "whole").stat().st_size
    assert len(Table.open_to_read([high, low])) == len(table)


def test_missing_buckets_are_named(halves):
    low, _, table = halves
    with pytest.raises(ConfigError, match=r"no file has buckets 512 to 1023 .*low.table.bin has buckets 0 to 511"):
        Table.open(low)
    assert len(Table.open(low, buckets=LOW)) < len(table)
    with pytest.raises(ConfigError, match=r"no file has buckets 512 to 599"):
        Table.open(low, buckets=Buckets.of((500, 600)))


def test_overlapping_parts_are_named(halves):
    low, high, table = halves
    table.save(high.parent / "more", buckets=Buckets.of((500, 520), (1000, 1024)))
    with pytest.raises(ConfigError, match=r"low.table\.bin and .*more.table\.bin both have buckets 500 to 511"):
        Table.open([low, high.parent / "more"])


def test_parts_of_other_moments_are_named(halves):
    low, high, table = halves
    table.cut()
    table.save(high, buckets=HIGH)
    with pytest.raises(ConfigError, match=r"low.table\.bin was saved at sequence 3, .*high.table\.bin at 4"):
        Table.open([low, high])


def test_parts_of_other_tables_are_named(halves):
    low, high, _ = halves
    other = Table(config(seed=4))
    train([other], Owners.evenly(1), 0)
    other.save(high, buckets=HIGH)
    with pytest.raises(ConfigError, match=r"low.table\.bin has seed = 3, .*high.table\.bin 4: parts are of one table"):
        Table.open([low, high])


def test_parts_of_other_settings_need_a_config(halves):
    low, high, table = halves
    Table.open([low, high], config(seed=3, expiry=expiry.Forever())).save(high, buckets=HIGH)
    with pytest.raises(ConfigError, match=r"saved with other settings \(expiry\): say by which config"):
        Table.open([low, high])
    assert len(Table.open([low, high], config(seed=3))) == len(table)


def test_rows_outside_of_a_part_are_not_lost_unsaid(tmp_path):
    table = Table(TableConfig(name="t", dim=2), buckets=LOW)
    table.observe(np.arange(100))
    with pytest.raises(InputError, match=r"has buckets 0 to 511 and \d+ rows of others, which would be lost"):
        table.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_buckets_that_a_table_does_not_have_are_refused(tmp_path):
    table = Table(TableConfig(name="t", dim=2), buckets=LOW)
    for ask in (lambda: table.save(tmp_path, buckets=HIGH), lambda: table.delta(0, buckets=ALL_BUCKETS)):
        with pytest.raises(InputError, match="has buckets 0 to 511, not buckets"):
            ask()
    with pytest.raises(InputError, match="is to have no bucket"):
        Table(TableConfig(name="t", dim=2), buckets=Buckets(()))
    with pytest.raises(InputError, match="0 folders"):
        Table.open([])


def test_statistics_of_parts_add_up_whoever_reads_them(halves):
    low, high, table = halves
    thirds = [Table.open([high, low], buckets=Owners.evenly(3).buckets(owner)) for owner in range(3)]
    for name in ("observed", "admitted", "rejected", "expired_idle", "swept"):
        assert sum(getattr(third.stats(), name) for third in thirds) == getattr(table.stats(), name)
    assert table.stats().observed > 0


def test_file_that_is_opened_in_parts_may_be_of_any_version(tmp_path):
    from test_file import GOLDEN

    (tmp_path / "table.bin").write_bytes(GOLDEN[1].read_bytes())
    parts = [Table.open(tmp_path, buckets=part) for part in (LOW, HIGH)]
    assert sum(map(len, parts)) == len(Table.open(tmp_path)) > 0


def test_limits_hold_for_each_part_by_itself():
    table = Table(config(admission=admission.Always(), eviction=eviction.LRU(max_rows=10)), buckets=LOW)
    ids = split_ids(np.arange(200), Owners.evenly(2)).of(0)
    for some in np.array_split(ids, 30):
        table.observe(some)
    assert len(table) == 10
