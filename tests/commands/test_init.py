"""`monolith init`: the job file it writes is one that its data fits, whatever the data are called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from init_command import ROWS, START_S, check_fits, init, made

from monolith.config import load_job
from monolith.errors import ConfigError
from monolith.streaming.source import open_sink


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(columns: dict, path: str = "data.parquet", **options) -> None:
    pq.write_table(pa.table(columns), path, **options)


def columns(**more) -> dict:
    rng = np.random.default_rng(1)
    return {
        "ts": np.arange(ROWS) + START_S,
        "user_id": rng.integers(0, 60, ROWS),
        "item_id": rng.integers(0, 90, ROWS),
        "click": rng.integers(0, 2, ROWS),
    } | more


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_plain_columns_become_ids_label_and_time():
    write(columns())
    job = made()
    assert job.name == "data"
    assert job.input.samples == (
        "parquet://data.parquet?time=ts&unit=s&item=item_id&label=click&features=user_id,item_id"
    )
    assert [(table.name, table.dim) for table in job.tables] == [("user_id", 17), ("item_id", 17)]
    assert [(task.name, task.loss) for task in job.labels] == [("click", "log")]
    assert job.train.group_by == "user_id"
    assert (job.state, job.store) == ("data/state", "lmdb://data/store")


def test_each_kind_of_column_becomes_the_feature_it_can_be():
    rng = np.random.default_rng(2)
    holes = rng.random(ROWS) < 0.2
    write(
        columns(
            country=pa.array(rng.choice(["de", "fr", None], ROWS)).dictionary_encode(),
            tags=[[f"t{x}" for x in range(n % 4)] for n in range(ROWS)],
            friends=pa.array([[n % 7, n % 5] for n in range(ROWS)], pa.large_list(pa.int32())),
            vector=[[float(n), 0.5, -1.0] for n in range(ROWS)],
            price=np.exp(rng.normal(3, 2, ROWS)),
            age=pa.array(rng.integers(18, 90, ROWS), mask=holes),
            temperature=rng.normal(size=ROWS),
            mobile=rng.random(ROWS) < 0.5,
            group=pa.array(rng.integers(0, 9, ROWS).astype(float), mask=holes),
        )
    )
    job = made()
    kinds = {f.name: (f.type, f.bag, f.width, f.missing) for f in job.features}
    assert kinds == {
        "country": ("string", False, 1, "own_row"),
        "tags": ("string", True, 1, "empty"),
        "friends": ("int", True, 1, "empty"),
        "vector": ("float", False, 3, "empty"),
        "price": ("float", False, 1, "empty"),
        "age": ("float", False, 1, "empty"),
        "temperature": ("float", False, 1, "empty"),
        "mobile": ("bool", False, 1, "empty"),
        "group": ("int", False, 1, "own_row"),
    }
    steps = {f.name: [type(step).__name__ for step in f.transforms] for f in job.features}
    assert (steps["price"], steps["temperature"]) == (["Log1p", "Standardize"], ["Standardize"])
    assert [table.name for table in job.tables] == ["user_id", "item_id", "country", "tags", "friends", "group"]


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (np.arange(ROWS) + START_S, "unit=s"),
        ((np.arange(ROWS) + START_S) * 1000, "unit=ms"),
        ((np.arange(ROWS) + START_S) * 1_000_000, "unit=us"),
        ((np.arange(ROWS) + START_S) * 1_000_000_000, "unit=ns"),
        ((np.arange(ROWS) + START_S) * 1.0, "unit=s"),
        (pa.array((np.arange(ROWS) + START_S) * 1_000_000, pa.timestamp("us", "UTC")), ""),
        (pa.array((np.arange(ROWS) // 20 + 19_000).astype(np.int32), pa.int32()).cast(pa.date32()), ""),
        (np.arange(ROWS) * 1000, "unit=s"),
    ],
)
def test_unit_of_the_time_is_told_from_its_size(times, unit):
    write(columns(ts=times))
    url = made().input.samples
    assert (unit in url) if unit else ("unit=" not in url)


def test_columns_that_teach_nothing_are_left_out_and_the_reason_is_written():
    extra = {
        "request_id": [f"r{n}" for n in range(ROWS)],
        "hash": [f"{n:032x}" for n in range(ROWS)],
        "version": [1] * ROWS,
        "nothing": pa.nulls(ROWS, pa.int64()),
        "raw": [b"x"] * ROWS,
        "seen_at": pa.array(np.arange(ROWS), pa.timestamp("s")),
        "ragged": [[0.5] * (n % 3) for n in range(ROWS)],
        "a,b": np.arange(ROWS) % 5,
        "__index_level_0__": np.arange(ROWS),
    }
    write(columns(**extra))
    job = made()
    assert "&request=request_id&" in job.input.samples
    assert job.feature_names() == ["user_id", "item_id"]
    text = Path("job.yaml").read_text()
    for name, why in (
        ("request_id", "the request id"),
        ("hash", "another value in every row"),
        ("version", "the same value everywhere"),
        ("nothing", "no value in the sample"),
        ("raw", "type binary"),
        ("seen_at", "a second time column"),
        ("ragged", "lists of numbers of several lengths"),
        ("a,b", "its name has"),
        ("__index_level_0__", "a row number"),
    ):
        assert f"# {name}: left out ({why}" in text


def test_request_of_several_rows_is_no_feature_and_minus_one_is_an_id():
    write(columns(impression_id=np.arange(ROWS) // 4, last_item=np.arange(ROWS) % 99 - 1, balance=np.arange(ROWS) - 9))
    job = made()
    assert "&request=impression_id&" in job.input.samples
    assert job.feature_names() == ["user_id", "item_id", "last_item"]
    assert [feature.name for feature in job.features] == ["balance"]


def test_odd_names_are_quoted_for_url_and_yaml():
    names = ["a b&c", "größe", "x#y=z?", "{k v}", "yes", "2nd", "a.b", "a_b", "a b", "100%", "'q'", "${HOME}x"]
    write(columns(**{name: np.arange(ROWS) % 7 for name in names}))
    job = made()
    assert {table.feature_names()[0] for table in job.tables} >= set(names)
    assert len({table.name for table in job.tables}) == len(job.tables)


def test_several_labels_become_tasks_and_options_name_them():
    write(columns(purchase=np.arange(ROWS) % 9 == 0, minutes=np.arange(ROWS) / 7))
    job = made()
    assert [(task.name, task.loss) for task in job.labels] == [("click", "log"), ("purchase", "log")]
    assert "label=click:click,purchase:purchase" in job.input.samples
    job = made("--label", "purchase,minutes")
    assert [(task.name, task.loss) for task in job.labels] == [("purchase", "log"), ("minutes", "squared")]
    assert "click" in job.feature_names()


def test_rating_is_a_number_to_be_predicted():
    data = columns(rating=np.arange(ROWS) % 5 + 1)
    del data["click"]
    write(data)
    assert [(task.name, task.loss) for task in made().labels] == [("rating", "squared")]


def test_numbers_alone_have_the_hour_as_their_table():
    write({"time": np.arange(ROWS) + START_S, "label": np.arange(ROWS) % 2, "x": np.arange(ROWS) * 0.37})
    job = made()
    assert [table.name for table in job.tables] == ["hour"]
    assert "item=time" in job.input.samples


def test_many_ids_have_rules_suggested_in_comments():
    rows = 6000
    write(columns_of(rows))
    assert init("--from", "data.parquet", "--out", "job.yaml") == 0
    text = Path("job.yaml").read_text()
    assert "# admission: {kind: min_count, count: 2}" in text
    assert "# expiry: {kind: idle, ttl_s: 604800}" in text
    uncommented = text.replace("    # admission", "    admission").replace("    # expiry", "    expiry")
    Path("job.yaml").write_text(uncommented.replace("    # eviction", "    eviction"))
    assert load_job("job.yaml").tables[0].admission.count == 2
    check_fits(load_job("job.yaml"), rows)


def columns_of(rows: int) -> dict:
    return {
        "ts": np.arange(rows) + START_S,
        "user_id": np.arange(rows) * 7 % 4500,
        "item_id": np.arange(rows) % 90,
        "click": np.arange(rows) % 2,
    }


def test_large_file_is_sampled_in_several_places():
    write(columns_of(6000), row_group_size=500)
    assert init("--from", "data.parquet", "--rows", 600, "--out", "job.yaml") == 0
    text = Path("job.yaml").read_text()
    assert "from 600 rows (of 6,000)" in text
    check_fits(load_job("job.yaml"), 6000)


def test_folder_of_files_is_one_data_set():
    Path("parts").mkdir()
    write(columns(), "parts/a.parquet")
    write(columns(ts=np.arange(ROWS) + START_S + ROWS), "parts/b.parquet")
    assert init("--from", "parts", "--out", "job.yaml") == 0
    check_fits(load_job("job.yaml"), 2 * ROWS)


def test_rows_that_are_not_in_order_of_time_are_pointed_out():
    write(columns(ts=np.arange(ROWS)[::-1] + START_S))
    assert init("--from", "data.parquet", "--out", "job.yaml") == 0
    assert "its rows are not in order of time" in Path("job.yaml").read_text()


@pytest.mark.parametrize(
    ("data", "words", "says"),
    [
        (
            {"user_id": [1, 2], "click": [0, 1]},
            (),
            r"no column looks like a time .*--time COLUMN. There are user_id, click",
        ),
        ({"ts": [START_S, START_S], "user_id": [5, 6]}, (), r"no column looks like a label .*--label COLUMN"),
        ({"ts": [START_S] * 2, "a": [0, 1], "b": [True, False]}, (), r"several columns hold 0 and 1 \(a, b\)"),
        ({"when": [START_S] * 2, "click": [0, 1]}, ("--time", "whn"), r"'whn' \(did you mean 'when'\?\); it has"),
        ({"ts": [START_S] * 2, "c": ["x", "y"]}, ("--label", "c"), r"'c' is no label: .*but it has 'x'"),
        ({"ts": pa.array([], pa.int64())}, (), "has no rows"),
        ({"ts": [START_S]}, ("--actions", "log://x"), "--actions is for streams"),
        ({"ts": [START_S]}, ("--rows", "0"), "--rows is 0"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_names_the_option(data, words, says):
    write(data)
    with pytest.raises(ConfigError, match=says):
        init("--from", "data.parquet", *words)


def test_file_that_is_there_is_replaced_by_force_alone(capsys):
    write(columns())
    Path("job.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"job\.yaml is there already; .* --force"):
        init("--from", "data.parquet", "--out", "job.yaml")
    assert Path("job.yaml").read_text() == "mine"
    assert init("--from", "data.parquet") == 0
    printed = capsys.readouterr().out
    assert init("--from", "data.parquet", "--out", "job.yaml", "--force") == 0
    assert Path("job.yaml").read_text() == printed


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--time", "city"), "'city' is no time: a date, a timestamp or a number, but it has 'c0'"),
        (("--time", "click"), "'click' is no time"),
        (("--label", "ts"), "'ts' is the time, so it cannot be the label too"),
        (("--label", "item_id", "--item", "item_id"), "'item_id' is the item, so it cannot be the label too"),
        (("--item", "tags"), "'tags' is no item: one id a row, but it has ['a']"),
    ],
)
def test_column_that_cannot_have_its_role_is_refused_by_name(words, says):
    data = columns(city=[f"c{n % 3}" for n in range(ROWS)], tags=[["a"]] * ROWS)
    write(data | {"click": data["click"].astype(bool)})
    with pytest.raises(ConfigError, match=re.escape(says)):
        init("--from", "data.parquet", *words)


def test_ids_beyond_64_bits_with_a_sign_are_left_out_and_the_command_says_so(capsys):
    write(columns(session=np.arange(ROWS, dtype=np.uint64) % 9 + np.uint64(2**64 - 9)))
    assert "session" not in {table.name for table in made().tables}
    assert "left out: session (has 18446744073709551615, which fits no 64 bits with a sign" in capsys.readouterr().out


def test_files_of_a_run_do_not_go_into_the_folder_of_its_stream():
    for name, event in (
        ("features", {"type": "feature", "features": {"user": 1}}),
        ("actions", {"type": "action", "action": "like"}),
    ):
        sink = open_sink(f"log://{name}")
        rows = [
            {**event, "v": 1, "request_id": f"r{n}", "item_id": "1", "event_time_ms": START_S * 1000 + n}
            for n in range(9)
        ]
        if name == "features":
            for n, row in enumerate(rows):
                row["features"] = {"user": n % 3}
        sink.append([(b"k", json.dumps(row).encode(), row["event_time_ms"]) for row in rows])
        sink.close()
    assert init("--from", "log://features", "--actions", "log://actions", "--out", "job.yaml") == 0
    job = load_job("job.yaml")
    assert (job.state, job.store, job.input.dead_letters) == (
        "features-job/state",
        "lmdb://features-job/store",
        "log://features-job/dead",
    )
