"""Preparing a set: checks, order, parts, what is written, and that `fit` reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith import cli
from monolith.datasets.sets import cuts, ordering
from monolith.datasets.sets.about import read_about
from monolith.datasets.sets.cuts import KeyHistogram
from monolith.datasets.sets.description import Column, DataSet, Form, Split
from monolith.datasets.sets.lines import Lines
from monolith.datasets.sets.own import load
from monolith.datasets.sets.prepare import prepare
from monolith.errors import ConfigError, CorruptError, NoSamplesError, RejectedError


def quiet(*_: object) -> None:
    """Nobody is told."""


def made(split: Split, times: np.ndarray, **columns: np.ndarray) -> DataSet:
    def read(_folder: Path, lines: Lines) -> Iterator[pa.Table]:
        rows = {"label": (np.arange(len(times)) % 2).astype(np.int8), "time_ms": times, "user": np.arange(len(times))}
        for start in range(0, len(times), 300):
            lines.take(len(times[start : start + 300]))
            yield pa.table({name: column[start : start + 300] for name, column in (rows | columns).items()})

    form = Form(("*.txt",), read)
    return DataSet("made", "Made up", "Nobody's.", (Column("user"),), "user", "user", split, "click", (form,))


def parts_of(data: DataSet, tmp_path: Path, **settings: object) -> dict[str, pa.Table]:
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files" / "a.txt").write_text("x")
    prepare(data, tmp_path / "files", tmp_path / "out", tell=quiet, **settings)
    return {part: pq.read_table(tmp_path / "out" / f"{part}.parquet") for part in ("train", "valid", "test")}


@pytest.mark.parametrize("at_once", [1 << 20, 128])
def test_samples_that_come_in_no_order_are_cut_and_written_in_order_of_time(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(ordering, "SORTED_AT_ONCE", at_once)
    times = np.random.default_rng(1).permutation(1000) * 7
    parts = parts_of(made(Split("time"), times), tmp_path)
    assert [len(part) for part in parts.values()] == [800, 100, 100]
    together = np.concatenate([part["time_ms"].to_numpy() for part in parts.values()])
    assert (np.diff(together) > 0).all()
    assert (times[parts["test"]["user"].to_numpy()] == parts["test"]["time_ms"].to_numpy()).all()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "about.json", "job.yaml", "test.parquet", "train.parquet", "valid.parquet",
    ]  # fmt: skip


def test_samples_of_one_moment_stay_in_the_order_of_the_source_and_in_one_part(tmp_path):
    times = np.repeat([5, 3, 4], 100)
    parts = parts_of(made(Split("time", (0.3, 0.3, 0.4)), times), tmp_path)
    users = [part["user"].to_pylist() for part in parts.values()]
    assert users == [list(range(100, 200)), list(range(200, 300)), list(range(100))]


def test_lists_are_whole_and_count_as_one(tmp_path):
    sizes = np.array([1] * 8 + [50, 60])
    lists = np.repeat(np.arange(10), sizes)
    parts = parts_of(made(Split("lists"), lists * 1000, list=lists), tmp_path)
    assert [sorted(set(part["list"].to_pylist())) for part in parts.values()] == [list(range(8)), [8], [9]]


def test_a_random_split_has_the_shares_asked_for_another_order_and_repeats_itself(tmp_path):
    data = made(Split("random"), np.arange(1000))
    first = parts_of(data, tmp_path)
    assert [len(part) for part in first.values()] == [800, 100, 100]
    assert sorted(user for part in first.values() for user in part["user"].to_pylist()) == list(range(1000))
    assert first["train"]["user"].to_pylist() != sorted(first["train"]["user"].to_pylist())
    assert parts_of(data, tmp_path)["test"].equals(first["test"])
    other = dataclasses.replace(data, split=Split("random", seed=1))
    assert not parts_of(other, tmp_path)["test"].equals(first["test"])


def test_a_given_split_is_that_of_the_source(tmp_path):
    part = np.array([2, 0, 1] * 50, np.int8)
    parts = parts_of(made(Split("given"), np.arange(150), part=part), tmp_path)
    assert [set(table["part"].to_pylist()) for table in parts.values()] == [{0}, {1}, {2}]


def test_a_histogram_of_more_keys_than_bins_still_cuts_where_it_should(monkeypatch):
    monkeypatch.setattr(cuts, "MOST_BINS", 1000)
    monkeypatch.setattr(cuts, "_COMPACT", 512)
    histogram = KeyHistogram()
    keys = np.random.default_rng(2).permutation(100_000) - 50_000
    for some in np.array_split(keys, 100):
        histogram.add(some, np.ones(len(some)))
    assert histogram.quantiles([0.25, 0.9]) == pytest.approx([-25_000, 40_000], abs=200)


def test_a_missing_file_is_named_with_what_is_there(tmp_path):
    (tmp_path / "other.csv").write_text("")
    with pytest.raises(ConfigError, match=r"made needs \*.txt in .*: it has other.csv. Name the folder by --from"):
        prepare(made(Split(), np.arange(9)), tmp_path, tmp_path / "out", tell=quiet)


def test_a_file_of_another_version_is_refused_and_taken_on_request(tmp_path):
    data = made(Split(), np.arange(100))
    data = dataclasses.replace(data, forms=(dataclasses.replace(data.forms[0], sha256={"a.txt": "00"}),))
    with pytest.raises(CorruptError, match=r"a.txt has SHA-256 2d71.*, and made is made of the file with 00"):
        parts_of(data, tmp_path)
    assert not (tmp_path / "out").exists()
    assert len(parts_of(data, tmp_path, any_version=True)["train"]) == 80


def test_files_of_another_length_are_refused_and_taken_on_request(tmp_path):
    data = made(Split(), np.arange(100))
    data = dataclasses.replace(data, forms=(dataclasses.replace(data.forms[0], lines=101),))
    with pytest.raises(CorruptError, match="have 100 lines, the known version has 101"):
        parts_of(data, tmp_path)
    assert len(parts_of(data, tmp_path, any_version=True)["train"]) == 80


def test_a_part_without_samples_is_named(tmp_path):
    with pytest.raises(NoSamplesError, match="no sample of 5 is in the part"):
        parts_of(made(Split("time"), np.zeros(5, np.int64)), tmp_path)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there and is no prepared data set"):
        parts_of(made(Split(), np.arange(100)), tmp_path)


def test_a_folder_that_no_url_can_name_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"has a '\?', behind which a URL has its options"):
        prepare(made(Split(), np.arange(100)), tmp_path, tmp_path / "o?ut", tell=quiet)


DESCRIPTION = """\
name: clicks
files: [rows.parquet]
label: {column: stars, at_least: 4, drop: [3]}
time: {column: at, unit: s}
features: [user, page, {name: price, column: eur, bucket: log_squared}]
item: page
group: user
"""


def write_own(folder: Path, text: str = DESCRIPTION) -> Path:
    stars, at = [5, 3, None, 1] * 30, list(range(120))
    rows = {"stars": stars, "at": at, "user": at, "page": ["a", None] * 60, "eur": [0.5, 1000.0, None, 2.0] * 30}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    (folder / "clicks.yaml").write_text(text)
    return folder / "clicks.yaml"


def test_parquet_of_the_users_own_is_prepared_by_its_description(tmp_path):
    data, folder = load(write_own(tmp_path))
    about = prepare(data, folder, tmp_path / "out", most_broken=0.5, tell=quiet)
    assert (about.broken, about.broken_lines[0]) == (30, "rows.parquet:3: stars is None, allowed is a number")
    train = pq.read_table(tmp_path / "out" / "train.parquet").to_pydict()
    assert train["label"][:4] == [1, 0, 1, 0]
    assert train["time_ms"][:4] == [0, 3000, 4000, 7000]
    assert train["page"][:2] == ["a", None]
    assert train["price"][:2] == [0, 2]
    assert {feature.name: feature.type for feature in about.features} == {
        "user": "int",
        "page": "string",
        "price": "int",
    }
    with pytest.raises(RejectedError, match="30 of 120 lines are broken"):
        prepare(data, folder, tmp_path / "out", tell=quiet)


@pytest.mark.parametrize(
    ("instead", "of", "says"),
    [
        ("grup: user", "group: user", r"clicks.yaml:7: .*unknown field `grup`"),
        ("group: item", "group: user", "group is 'item'; allowed is a feature: user, page, price"),
        ("features: [user, page, eur]", "features: [user, page, {name: price, column: eur, bucket: log_squared}]",
         "feature 'eur' is of type double; allowed are integers, text"),
        ("files: [no.parquet]", "files: [rows.parquet]", "no.parquet is not there, though its description names it"),
        ("label: {column: star}", "label: {column: stars, at_least: 4, drop: [3]}", "has no column star; it has stars"),
        ("group: user\nsplit: {kind: lists}", "group: user", "needs the key lists"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused_by_name(tmp_path, instead, of, says):
    with pytest.raises(ConfigError, match=says):
        load(write_own(tmp_path, DESCRIPTION.replace(of, instead)))


def test_the_command_prepares_describes_and_leaves_a_job_that_fit_takes(tmp_path, capsys):
    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    said = run("data", "prepare", "planted", "--rows", "4000", "--to", str(tmp_path / "p"))
    assert "terms of planted" in said
    assert read_about(tmp_path / "p").best_auc == pytest.approx(0.83, abs=0.05)
    assert "best AUC on test that any model can have" in run("data", "describe", str(tmp_path / "p"))
    fit = run("fit", str(tmp_path / "p" / "job.yaml"), "--set", "fit.epochs=1", "--set", "model.hidden=[4]")
    assert "3,200 samples to train, 400 to judge" in fit
    assert "criteo-kaggle: " in run("data", "list")


def test_a_set_of_ones_own_is_found_by_its_name_where_it_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MONOLITH_DATA", str(tmp_path / "kept"))
    path = write_own(tmp_path)
    words = ["data", "prepare", str(path), "--max-broken", "0.5"]
    commands = (words, ["data", "describe", "clicks"], ["bench", "online", "--data", "clicks", "--seeds", "1"])
    bench = ["bench", "ctr", "--data", "clicks", "--models", "lr", "--seeds", "1", "--epochs", "1", "--dir"]
    for command in (*commands[:2], [*bench, str(tmp_path / "ctr")], [*commands[2], "--dir", str(tmp_path / "online")]):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 0, (command, capsys.readouterr().err)
    assert "clicks: Parquet described in" in capsys.readouterr().out


def test_values_are_counted_over_batches_as_numbers_and_as_texts(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.datasets.sets.prepare._COUNTED", 64)
    words = [None if i % 10 == 0 else f"w{i % 37}" for i in range(1000)]
    data = made(Split("time"), np.arange(1000), word=np.array(words, object))
    data = dataclasses.replace(data, features=(Column("user"), Column("word", "string")))
    parts_of(data, tmp_path)
    user, word = read_about(tmp_path / "out").features
    assert (user.values, user.missing) == (800, 0)
    assert (word.values, word.missing) == (37, 80)
