"""Parquet of the user's own: columns of every type, lists that stay whole, descriptions that are refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith import cli
from monolith.datasets.sets.about import read_about
from monolith.datasets.sets.own import load
from monolith.datasets.sets.prepare import prepare
from monolith.datasets.sets.registry import find
from monolith.errors import ConfigError, CorruptError, NoSamplesError, RejectedError

DESCRIPTION = """\
name: clicks
files: [a.parquet]
label: {column: y}
time: {column: at, unit: s}
features: [user, item]
item: item
group: user
"""
N = 200
PARTS = ("train", "valid", "test")


def quiet(*_: object) -> None:
    """Nobody is told."""


def rows(**over: object) -> pa.Table:
    number = np.arange(N)
    columns = {"y": number % 2, "at": number + 1_700_000_000, "user": number % 7, "item": number % 11, **over}
    return pa.table({name: column for name, column in columns.items() if column is not None})


def write(folder: Path, *tables: pa.Table, text: str = DESCRIPTION) -> Path:
    for name, table in zip(("a", "b"), tables, strict=False):
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=50)
    (folder / "clicks.yaml").write_text(text)
    return folder / "clicks.yaml"


def prepared(folder: Path, *tables: pa.Table, text: str = DESCRIPTION, most_broken: float = 0.001) -> pa.Table:
    """All parts, one behind the other, with ``where``: the number of the part."""
    data, files = load(write(folder, *tables, text=text))
    prepare(data, files, folder / "out", most_broken=most_broken, tell=quiet)
    parts = [pq.read_table(folder / "out" / f"{part}.parquet") for part in PARTS]
    return pa.concat_tables([part.append_column("where", [[i] * len(part)]) for i, part in enumerate(parts)])


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([Decimal(i % 2) for i in range(N)], pa.decimal128(10, 2)),
        pa.array([bool(i % 2) for i in range(N)]),
        pa.array([i % 2 for i in range(N)], pa.int8()).dictionary_encode(),
        pa.array([f"{i % 2}.0" for i in range(N)], pa.large_string()),
        pa.array(np.arange(N) % 2, pa.float32()),
    ],
)
def test_labels_of_every_type_of_number_are_read(tmp_path, labels):
    assert prepared(tmp_path, rows(y=labels))["label"].to_pylist() == [i % 2 for i in range(N)]


def test_labels_that_are_not_0_or_1_say_what_is_allowed(tmp_path):
    with pytest.raises(
        RejectedError, match=r"a.parquet:1: y is -1, allowed is 0 or 1, or any number with label.at_least"
    ):
        prepared(tmp_path, rows(y=np.where(np.arange(N) % 2, 1, -1)))


def test_labels_that_are_no_numbers_are_broken_rows(tmp_path):
    with pytest.raises(RejectedError, match=r"1 of 200 lines are broken.*a.parquet:4: y is 'yes'"):
        prepared(tmp_path, rows(y=["yes" if i == 3 else str(i % 2) for i in range(N)]))


@pytest.mark.parametrize(
    ("at", "first"),
    [
        (np.arange(N) * 0.25 + 1_700_000_000, [1_700_000_000_000, 1_700_000_000_250]),
        (pa.array(np.arange(N) + 1_700_000_000, pa.timestamp("s")).cast(pa.timestamp("ns")), [1_700_000_000_000]),
        (pa.array(np.arange(N, dtype=np.int32) + 19_000, pa.date32()), [19_000 * 86_400_000]),
    ],
)
def test_times_of_every_type_become_ms(tmp_path, at, first):
    assert prepared(tmp_path, rows(at=at))["time_ms"].to_pylist()[: len(first)] == first


@pytest.mark.parametrize("odd", [np.nan, np.inf, -5.0, 1e18])
def test_a_time_that_is_no_moment_is_a_broken_row(tmp_path, odd):
    at = np.where(np.arange(N) == 3, odd, np.arange(N) + 1_700_000_000)
    with pytest.raises(RejectedError, match=r"1 of 200 lines are broken.*a.parquet:4: at is"):
        prepared(tmp_path, rows(at=at))
    assert len(prepared(tmp_path, rows(at=at), most_broken=0.1)) == N - 1


def test_an_unsigned_id_keeps_its_bits(tmp_path):
    ids = np.arange(N, dtype=np.uint64) + np.uint64(2**63)
    assert prepared(tmp_path, rows(user=ids))["user"].to_numpy().view(np.uint64).tolist() == ids.tolist()


def test_a_list_is_a_bag_in_the_job_and_its_nulls_are_left_out(tmp_path, capsys):
    tags = pa.array([["a", None, f"t{i % 3}"] if i % 4 else None for i in range(N)])
    text = DESCRIPTION.replace("[user, item]", "[user, item, tags]")
    found = prepared(tmp_path, rows(tags=tags), text=text)
    assert found["tags"].to_pylist()[:3] == [None, ["a", "t1"], ["a", "t2"]]
    tagged = read_about(tmp_path / "out").features[2]
    assert (tagged.type, tagged.bag, tagged.values, tagged.missing) == ("string", True, 4, 40)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", str(tmp_path / "out" / "job.yaml"), "--set", "fit.epochs=1", "--set", "model.hidden=[4]"])
    assert ended.value.code == 0, capsys.readouterr().err


def test_files_of_a_pattern_are_read_in_order_of_name(tmp_path):
    text = DESCRIPTION.replace("[a.parquet]", "['*.parquet']")
    later = rows(at=np.arange(N) + 1_700_000_200, user=np.full(N, 99))
    found = prepared(tmp_path, rows(), later, text=text)
    assert found["user"].to_pylist() == [i % 7 for i in range(N)] + [99] * N
    assert sorted(read_about(tmp_path / "out").files) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (rows(user=["u"] * N), "feature 'user' is integers in .*a.parquet, text in .*b.parquet"),
        (rows(user=None), "b.parquet has no column user; it has y, at, item"),
    ],
)
def test_files_that_differ_are_refused_before_any_is_read(tmp_path, other, says):
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, rows(), other, text=DESCRIPTION.replace("[a.parquet]", "[a.parquet, b.parquet]")))


@pytest.mark.parametrize(
    ("instead", "of", "says"),
    [
        ("files: []", "files: [a.parquet]", "files is empty"),
        ("name: ../up", "name: clicks", "'../up' is no name"),
        ("features: [user, item, {name: label, column: user}]", "features: [user, item]", "cannot be called 'label'"),
        ("features: [user, item, {name: a b, column: user}]", "features: [user, item]", "'a b' is no name"),
        ("features: [user, item, user]", "features: [user, item]", "several features 'user'"),
        ("features: [user, item, {name: x, column: y}]", "features: [user, item]", "'x' reads the label's column 'y'"),
        ("group: user\nsplit: {shares: [0.8, 0.1, 0.2]}", "group: user", "three shares above 0 that sum up to 1"),
        ("group: user\nsplit: {kind: random, seed: -1}", "group: user", "split.seed is -1; allowed is 0 to 16,777,215"),
        ("group: user\npart: {column: y, valid: test}", "group: user", "one word for two parts"),
        ("group: user\nsha256: {b.parquet: ff}", "group: user", "sha256 names b.parquet"),
        ("label: {column: at_}", "label: {column: y}", "has no column at_"),
        ("time: {column: text}", "time: {column: at, unit: s}", "the time, 'text', is of type string; allowed is a"),
        ("label: {column: some}", "label: {column: y}", "the label, 'some', is of type list.*; allowed are numbers"),
        ("features: [user, item, {name: g, column: some}]\nitem: item\ngroup: g",
         "features: [user, item]\nitem: item\ngroup: user", "group is 'g', whose lists name no group"),
        ("features: [user, item, {name: x, column: text, bucket: log_squared}]", "features: [user, item]",
         "'x' is of type string; allowed are"),
    ],
)  # fmt: skip
def test_a_description_that_would_make_a_wrong_set_is_refused(tmp_path, instead, of, says):
    table = rows(text=["t"] * N, some=[[1]] * N)
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, table, text=DESCRIPTION.replace(of, instead)))


def test_a_file_with_two_columns_of_one_name_is_refused(tmp_path):
    table = rows()
    with pytest.raises(ConfigError, match=r"a.parquet has several columns user: leave one of each there"):
        load(write(tmp_path, table.append_column("user", table["item"])))


def test_a_name_of_a_known_set_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name is 'trivago', which `monolith data list` has"):
        find(str(write(tmp_path, rows(), text=DESCRIPTION.replace("clicks", "trivago"))))


def test_files_are_looked_for_in_the_folder_that_is_given(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, rows())
    (tmp_path / "a.parquet").rename(tmp_path / "elsewhere" / "a.parquet")
    assert find(str(path), tmp_path / "elsewhere")[1] == tmp_path / "elsewhere"


LISTS = DESCRIPTION + "lists: shown\nsplit: {kind: lists}\n"


@pytest.mark.parametrize("text", [LISTS, LISTS.replace("time: {column: at, unit: s}\n", "")])
@pytest.mark.parametrize("of", [int, "r{}".format])
def test_rows_of_a_list_are_of_one_part_and_one_moment_whatever_their_times(tmp_path, text, of):
    lists = np.repeat(np.arange(N // 4), 4)
    at = 1_700_000_000 + 2 * lists + np.tile([0, 5, 9, 13], N // 4)  # lists overlap
    found = prepared(tmp_path, rows(shown=pa.array([of(one) for one in lists]), at=at), text=text)
    numbers, where = found["list"].to_numpy(), found["where"].to_numpy()
    assert np.count_nonzero(np.diff(numbers)) == N // 4 - 1
    assert all(len(set(where[numbers == one])) == 1 for one in set(numbers))
    assert [len(set(numbers[where == part])) for part in range(3)] == [40, 5, 5]
    if "time:" in text:
        assert found["time_ms"].to_pylist()[:8] == [1_700_000_000_000] * 4 + [1_700_000_002_000] * 4


def test_a_list_goes_on_in_the_next_batch_and_a_row_without_one_is_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.datasets.sets.own_rows._ROWS", 30)
    shown = pa.array([None if i >= 192 else i // 24 for i in range(N)])
    found = prepared(tmp_path, rows(shown=shown), text=LISTS)
    assert sorted(np.bincount(found["list"].to_numpy()).tolist()) == [1] * 8 + [24] * 8


def test_a_list_that_comes_again_is_refused(tmp_path):
    with pytest.raises(CorruptError, match="150 of 200 lists come again behind rows of others"):
        prepared(tmp_path, rows(shown=np.arange(N) % 50), text=LISTS)


def test_a_damaged_page_is_named_with_its_file(tmp_path):
    path = write(tmp_path, rows())
    data, files = load(path)
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    damaged[200:400] = bytes(200)
    (tmp_path / "a.parquet").write_bytes(damaged)
    with pytest.raises(CorruptError, match=r"a.parquet cannot be read behind row \d+"):
        prepare(data, files, tmp_path / "out", tell=quiet)


@pytest.mark.parametrize(("unit", "ms"), [("ms", 1_700_000_000), ("s", 1_700_000_000_000_000)])
def test_times_of_another_unit_than_is_said_are_refused(tmp_path, unit, ms):
    at = np.arange(N) * 1000 + (1_700_000_000 if unit == "ms" else 1_700_000_000_000)
    with pytest.raises(ConfigError, match=rf"at is {at[0]} in unit {unit}, so {ms} ms since 1970, which is no moment"):
        prepared(tmp_path, rows(at=at), text=DESCRIPTION.replace("unit: s", f"unit: {unit}"))


def test_a_part_that_has_no_sample_says_from_when_samples_are(tmp_path):
    at = np.full(N, 1_700_000_000)
    with pytest.raises(NoSamplesError, match=r"not divided, and these are from 1700000000000 to 1700000000000 ms"):
        prepared(tmp_path, rows(at=at))
