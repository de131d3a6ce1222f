"""The table's file: canonical, complete, and refused by name when a bit of it is wrong."""

import errno
import json
import os
import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import reference

from monolith.config.table import FeatureRules
from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.tables import (
    Table,
    TableConfig,
    TableFile,
    absent,
    admission,
    eviction,
    expiry,
    initializers,
    optimizers,
)
from monolith.tables.buckets import Buckets

FOLDER = Path(__file__).parent.parent / "golden"
GOLDEN = {version: FOLDER / f"table.v{version}.bin" for version in (1, 2, 3, 4)}
GOLDEN_BFLOAT16 = FOLDER / "table.v2.bfloat16.bin"
GOLDEN_TAIL = {version: FOLDER / f"table.v{version}.tail.bin" for version in (3, 4)}
GOLDEN_PART = FOLDER / "table.v4.part.bin"

RULES = [
    optimizers.SGD(),
    optimizers.Momentum(),
    optimizers.Adagrad(),
    optimizers.RowWiseAdagrad(),
    optimizers.RMSProp(),
    optimizers.Adam(amsgrad=True),
    optimizers.AdamW(),
    optimizers.RowWiseAdam(),
    optimizers.RowWiseAdamW(),
    optimizers.FTRL(l1=0.01),
]


def lived_in(**settings) -> Table:
    """A table with rows, counters, tombstones, freed places, and two closed sequences; the same each time."""
    fields = {
        "name": "user",
        "dim": 5,
        "optimizer": optimizers.Adam(steps="row"),  # as in the golden files
        "admission": admission.MinCount(2, half_life_s=100.0, max_counters=50_000),
        "expiry": expiry.Idle(ttl_s=2.0),
        "initializer": initializers.TruncatedNormal(),
        "on_nonfinite": "clip",
        "seed": 11,
    }
    table, rng = Table(TableConfig(**(fields | settings))), np.random.default_rng(4)
    for step in range(6):
        train(table, rng, step * 700)
        if step % 2:
            table.sweep(300)
            table.cut()
    return table


# Everything that a row or a counter may have besides.
EVERY_PART = {
    "features": ["movie", "user"],
    "per_feature": {"movie": FeatureRules(admission.MinCount(3, max_counters=4000), expiry.Absolute(1.5))},
    "eviction": eviction.LFU(max_rows=60, half_life_s=1.0),
    "dim": 2,
}
WITH_TAIL = EVERY_PART | {"absent": absent.HashedTail(rows=1030)}
WRITTEN = [(GOLDEN[4], EVERY_PART), (GOLDEN_TAIL[4], WITH_TAIL)]
READ = [*WRITTEN, (GOLDEN[3], EVERY_PART), (GOLDEN_TAIL[3], WITH_TAIL)]
PART = Buckets.of((0, 2), (600, 700))


def train(table: Table, rng: np.random.Generator, time_ms: int) -> None:
    batch = rng.zipf(1.4, 400) % 1000
    runs = [(name, 400 // len(table.config.feature_names())) for name in table.config.feature_names()]
    table.observe(batch, event_time_ms=time_ms, feature=runs)
    table.apply_gradients(batch, rng.standard_normal((400, table.dim)).astype(np.float32))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_open_goes_on_with_the_same_bits(tmp_path, state_of, rule):
    table = lived_in(optimizer=rule)
    table.save(tmp_path)
    opened = Table.open(tmp_path)
    assert state_of(opened) == state_of(table)
    for each in (table, opened):
        rng = np.random.default_rng(5)
        for step in range(5):
            train(each, rng, 5000 + step * 600)
            each.sweep(400)
        each.cut()
    assert state_of(opened) == state_of(table)
    assert opened.stats().admitted == table.stats().admitted > 0
    assert opened.stats().expired == table.stats().expired > 0


def test_equal_states_give_equal_bytes_whatever_their_history(tmp_path, state_of):
    """One table comes there straight; the other in another order, saved and opened on the way, swept in parts."""
    ids, extra = np.arange(100), np.arange(100, 50_000)
    config = TableConfig(name="t", dim=2, expiry=expiry.Idle(ttl_s=1.0))
    straight, winding = Table(config), Table(config)
    straight.observe(extra, event_time_ms=0)
    straight.observe(ids, event_time_ms=900)
    straight.advance(1500)
    straight.sweep(1024)
    winding.observe(extra[::-1], event_time_ms=0)
    for part in np.array_split(ids[::-1], 7):
        winding.observe(part, event_time_ms=900)
        winding.save(tmp_path)
        winding = Table.open(tmp_path)
    winding.advance(1500)
    for _ in range(8):
        winding.sweep(128)
    assert len(straight) == 100
    assert state_of(straight) == state_of(winding)


def test_saving_again_replaces_the_file_whole(tmp_path):
    table = lived_in()
    first = table.save(tmp_path).read_bytes()
    table.observe(np.arange(50), event_time_ms=9000)
    assert table.save(tmp_path).read_bytes() != first
    assert os.listdir(tmp_path) == ["table.bin"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    table = lived_in()
    before = table.save(tmp_path).read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    table.observe(np.arange(50), event_time_ms=9000)
    with pytest.raises(OSError, match="No space left"):
        table.save(tmp_path)
    assert (tmp_path / "table.bin").read_bytes() == before
    assert os.listdir(tmp_path) == ["table.bin"]


def test_flipped_byte_anywhere_is_refused_naming_the_file(tmp_path):
    path = lived_in(dim=2).save(tmp_path)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    directory = 16 + int.from_bytes(whole[12:16], "little") + 4
    payload = directory + 1024 * 24 + 4
    places = [*range(16), *rng.integers(16, directory, 40), *rng.integers(directory, payload, 150)]
    places += [payload - 4, payload - 1, payload, *rng.integers(payload, len(whole), 300), len(whole) - 1]
    for place in places:
        whole[place] ^= 0x10
        path.write_bytes(whole)
        with pytest.raises(CorruptError, match=r"table\.bin"):
            Table.open(tmp_path)
        whole[place] ^= 0x10
    path.write_bytes(whole)
    assert len(Table.open(tmp_path)) > 0


@pytest.mark.parametrize("keep", [0, 7, 15, 100, 5000, -1])
def test_short_file_is_refused(tmp_path, keep):
    path = lived_in().save(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptError, match=r"table\.bin"):
        Table.open(tmp_path)


def test_longer_file_is_refused(tmp_path):
    path = lived_in().save(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptError, match="bytes, its directory says"):
        Table.open(tmp_path)


def test_other_files_and_versions_are_refused_by_name(tmp_path):
    path = lived_in().save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"PK\3\4" + whole[4:])
    with pytest.raises(CorruptError, match="magic"):
        Table.open(tmp_path)
    for version in (0, 5):
        path.write_bytes(whole[:8] + version.to_bytes(4, "little") + whole[12:])
        with pytest.raises(VersionError, match=rf"version {version}, this build reads versions 1 to 4"):
            Table.open(tmp_path)


def test_folder_without_a_table_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no saved table"):
        Table.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": "item"}),
        ("dim", {"dim": 6}),
        ("seed", {"seed": 12}),
        ("shared_ids", {"shared_ids": True}),
        ("optimizer kind 'adam'", {"optimizer": optimizers.SGD()}),
    ],
)
def test_config_that_would_change_what_rows_mean_is_refused(tmp_path, field, change):
    table = lived_in()
    table.save(tmp_path)
    fields = {name: getattr(table.config, name) for name in table.config.__struct_fields__}
    with pytest.raises(ConfigError, match=field):
        Table.open(tmp_path, TableConfig(**(fields | change)))


def test_rates_thresholds_and_times_to_live_may_change(tmp_path):
    table = lived_in()
    table.save(tmp_path)
    fields = {name: getattr(table.config, name) for name in table.config.__struct_fields__}
    fields |= {
        "optimizer": optimizers.Adam(lr=0.5),
        "admission": admission.Always(),
        "expiry": expiry.Forever(),
        "on_nonfinite": "raise",
    }
    opened = Table.open(tmp_path, TableConfig(**fields))
    new = np.array([10**6])
    opened.observe(new)
    assert opened.lookup(new).any()
    assert opened.stats().counters == table.stats().counters > 0  # for a rule that counts again
    assert opened.stats().rows == table.stats().rows + 1


def test_single_buckets_can_be_read(tmp_path):
    table = lived_in()
    table.save(tmp_path)
    ids, values = table.rows()
    with TableFile(tmp_path) as file:
        parts = [file.bucket(number) for number in range(1024)]
    for number, part in enumerate(parts):
        assert np.all(np.diff(part["ids"]) > 0)
        assert np.all(reference.bucket(part["ids"]) == number)
    held = np.concatenate([part["ids"] for part in parts])
    kept = np.concatenate([part["values"].reshape(-1, table.dim) for part in parts])
    order = np.searchsorted(np.sort(held), ids)
    assert kept[np.argsort(held)][order].tobytes() == values.tobytes()
    assert len(held) == len(table)


def test_array_that_a_later_build_added_is_refused_by_name(tmp_path):
    path = lived_in().save(tmp_path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[12:16], "little")
    header = json.loads(whole[16 : 16 + length])
    header["arrays"].append({"name": "tail_slots", "type": "<u4", "group": "rows", "width": 1})
    text = json.dumps(header).encode()
    head = whole[:12] + len(text).to_bytes(4, "little") + text
    path.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + whole[20 + length :])
    with pytest.raises(VersionError, match=r"\['tail_slots'\], which this build does not know"):
        Table.open(tmp_path)


@pytest.mark.parametrize(("path", "settings"), WRITTEN)
def test_golden_file_is_still_written_and_read(tmp_path, path, settings):
    """Written by an earlier build: what it holds must go on being read, and be written to the same bytes."""
    golden = path.read_bytes()
    (tmp_path / "table.bin").write_bytes(golden)
    assert Table.open(tmp_path).save(tmp_path / "again").read_bytes() == golden
    assert lived_in(**settings).save(tmp_path / "fresh").read_bytes() == golden


def test_golden_part_is_still_written_and_read(tmp_path):
    """Some buckets of a table, in two ranges."""
    golden = GOLDEN_PART.read_bytes()
    (tmp_path / "table.bin").write_bytes(golden)
    opened = Table.open(tmp_path, buckets=PART)
    assert opened.save(tmp_path / "again").read_bytes() == golden
    assert lived_in(**WITH_TAIL).save(tmp_path / "fresh", buckets=PART).read_bytes() == golden
    assert 0 < len(opened) < len(lived_in(**WITH_TAIL))


@pytest.mark.parametrize(("version", "golden", "settings"), [(3, GOLDEN, EVERY_PART), (3, GOLDEN_TAIL, WITH_TAIL)])
def test_golden_file_of_version_3_is_the_same_table_as_that_of_version_4(tmp_path, version, golden, settings):
    (tmp_path / "table.bin").write_bytes(golden[version].read_bytes())
    for opened in (Table.open(tmp_path), Table.open(tmp_path, lived_in(**settings).config)):
        assert opened.save(tmp_path / "again").read_bytes() == golden[4].read_bytes()


@pytest.mark.parametrize(
    ("path", "settings", "steps"),
    [
        (GOLDEN[1], {"dim": 2}, 0),  # version 1 did not count steps
        (GOLDEN[2], {"dim": 2}, 6),
        (GOLDEN_BFLOAT16, {"dim": 3, "storage": "bfloat16"}, 6),
    ],
)
def test_golden_files_of_earlier_versions_are_still_read(tmp_path, path, settings, steps):
    """They hold the same table, all but what their versions did not count."""
    (tmp_path / "table.bin").write_bytes(path.read_bytes())
    Table.open(tmp_path).save(tmp_path / "again")
    lived_in(**settings).save(tmp_path / "fresh")
    with TableFile(tmp_path / "again") as one, TableFile(tmp_path / "fresh") as other:
        fresh = msgspec.structs.replace(other.header, steps=steps)
        assert one.header == msgspec.structs.replace(fresh, statistics=fresh.statistics | {"swept": 0})
        for number in range(1024):
            a, b = one.bucket(number), other.bucket(number)
            assert {name: part.tobytes() for name, part in a.items()} == {n: part.tobytes() for n, part in b.items()}


@pytest.mark.parametrize(("version", "path"), [(1, GOLDEN[1]), (2, GOLDEN[2]), (2, GOLDEN_BFLOAT16)])
def test_golden_file_of_an_earlier_version_reads_as_the_page_says(version, path):
    """A reader of its own, from docs/formats.md."""
    golden = path.read_bytes()
    magic, said, json_bytes = struct.unpack_from("<8sII", golden)
    assert (magic, said) == (b"MONOTABL", version)
    header, directory = json.loads(golden[16 : 16 + json_bytes]), 16 + json_bytes
    assert zlib.crc32(golden[: directory + 24_576]) == struct.unpack_from("<I", golden, directory + 24_576)[0]
    width = 2 if header["config"].get("storage", "float32") != "float32" else 4
    dim, end, total = header["config"]["dim"], directory + 24_580, 0
    for number in range(1024):
        offset, rows, counters, tombstones, crc = struct.unpack_from("<QIIII", golden, directory + 24 * number)
        size = rows * (20 + width * dim + 4 * header["state_floats"]) + counters * 20 + tombstones * 12
        assert offset == end
        assert zlib.crc32(golden[offset : offset + size]) == crc
        end, total = offset + size, total + rows
        ids = struct.unpack_from(f"<{rows}q", golden, offset)
        assert list(ids) == sorted(ids)
        assert all(reference.bucket(np.array([i]))[0] == number for i in ids)
    assert end == len(golden)
    assert total == header["statistics"]["admitted"] - header["statistics"]["expired"] > 0


@pytest.mark.parametrize(("path", "settings"), READ)
def test_golden_file_reads_as_the_page_says(path, settings):
    """A reader of its own, from docs/formats.md."""
    golden = path.read_bytes()
    magic, version, json_bytes = struct.unpack_from("<8sII", golden)
    assert (magic, version) in ((b"MONOTABL", 3), (b"MONOTABL", 4))
    at = 16 + json_bytes
    assert struct.unpack_from("<I", golden, at)[0] == zlib.crc32(golden[:at])
    header, directory = json.loads(golden[16:at]), at + 4
    groups, parts = header["groups"], header["arrays" if version == 4 else "parts"]
    assert header.get("buckets", [[0, 1024]]) == [[0, 1024]]
    entry = struct.Struct(f"<Q{len(groups)}II")
    at = directory + 1024 * entry.size
    assert struct.unpack_from("<I", golden, at)[0] == zlib.crc32(golden[directory:at])
    at, rows, uses, shared = at + 4, 0, 0, []
    for number in range(1024):
        offset, *counts, crc = entry.unpack_from(golden, directory + number * entry.size)
        assert offset == at
        bucket = {}
        for part in parts:
            count = counts[groups.index(part["group"])] * part["width"]
            bucket[part["name"]] = np.frombuffer(golden, part["type"], count, at)
            at += bucket[part["name"]].nbytes
        assert zlib.crc32(golden[offset:at]) == crc
        assert all(reference.bucket(np.array([i]))[0] == number for i in bucket["ids"])
        assert np.all(bucket["admitted_ms"] <= bucket["last_seen_ms"])
        assert set(bucket["policies"]) | set(bucket["counter_policies"]) <= {0, 1, 2}
        rows, uses = rows + len(bucket["ids"]), uses + int(bucket["uses"].sum())
        shared += [number + 1024 * i for i in range(len(bucket.get("tail_marks", [])))]
    happened = header["statistics"]
    gone = happened["expired_idle"] + happened["expired_age"] + happened["evicted"]
    assert (at, rows) == (len(golden), happened["admitted"] - gone)
    assert uses > rows > 0
    assert sorted(shared) == list(range(settings["absent"].rows if "absent" in settings else 0))
    assert (happened["dropped_gradients"] == 0) == bool(shared)
    assert min(happened["expired_idle"], happened["expired_age"], happened["evicted"]) > 0
