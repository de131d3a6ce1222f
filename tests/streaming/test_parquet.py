from __future__ import annotations

import datetime
import decimal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import seen

from monolith.errors import ConfigError, CorruptError, DataLossError, EventError
from monolith.events import ActionEvent, FeatureEvent, SampleEvent
from monolith.streaming.codec import FeatureDecoder, decode
from monolith.streaming.source import open_source


@pytest.fixture
def ratings(tmp_path):
    path = tmp_path / "ratings.parquet"
    table = pa.table(
        {
            "list": pa.array([7, 7, 8, 8, 9], pa.int32()),
            "user": pa.array([1, 2, 3, None, 5], pa.int32()),
            "movie": pa.array(["a", "b", "c", "d", "e"], pa.large_string()),
            "rating": pa.array([5, 3, 4, 1, None], pa.int8()),
            "timestamp": pa.array([100, 50, 300, 400, 500], pa.int64()),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return path


def events(url: str) -> list:
    return [decode(record.value) for record in open_source(url).poll(100, 0.0)]


def test_rows_become_samples_in_file_order(ratings):
    url = f"parquet://{ratings}?label=rating&threshold=4&time=timestamp&unit=s&request=list&item=movie&features=user"
    first, second, *_ = events(url)
    assert first == SampleEvent("7", "a", 100_000, {"user": 1}, 1.0)
    assert second == SampleEvent("7", "b", 50_000, {"user": 2}, 0.0)
    assert open_source(url).bounded


def test_rows_become_feature_events_with_the_row_as_request(ratings):
    url = f"parquet://{ratings}?time=timestamp&item=movie&features=user,title:movie"
    assert events(url)[2] == FeatureEvent("2", "c", 300, {"user": 3, "title": "c"})
    assert events(url)[3].features["user"] is None


def test_rows_at_or_above_the_threshold_become_actions(ratings):
    url = f"parquet://{ratings}?action=rating&threshold=4&name=like&time=timestamp&item=movie"
    assert events(url) == [ActionEvent("0", "a", "like", 100), ActionEvent("2", "c", "like", 300)]
    source = open_source(url)
    assert [record.offset for record in source.poll(100, 0.0)] == [0, 2]
    assert (source.position(), source.lag()) == ({0: 5}, 0)


def test_offset_is_the_row_number_and_seek_goes_to_any_row(ratings):
    source = open_source(f"parquet://{ratings}?time=timestamp&item=movie")
    everything = source.poll(100, 0.0)
    assert [record.offset for record in everything] == list(range(5))
    for row in range(6):
        source.seek({0: row})
        polled = []
        while records := source.poll(2, 0.0):
            polled += records
        assert polled == everything[row:]
        assert source.position() == {0: 5}


def test_a_run_that_stood_behind_the_end_of_a_replaced_file_is_told_so(ratings):
    source = open_source(f"parquet://{ratings}?time=timestamp&item=movie")
    source.seek(source.end_position())
    assert source.lag() == 0
    with pytest.raises(DataLossError, match="has 5 rows, and the run goes on at row 6"):
        source.seek({0: 6})


def test_files_of_a_folder_are_read_by_name(tmp_path):
    for name, times in (("b", [3]), ("a", [1, 2])):
        pq.write_table(pa.table({"t": times, "i": times}), tmp_path / f"{name}.parquet")
    source = open_source(f"parquet://{tmp_path}?time=t&item=i")
    assert [(r.offset, r.event_time_ms) for r in source.poll(10, 0.0)] == [(0, 1), (1, 2), (2, 3)]
    source.seek({0: 2})
    assert [r.offset for r in source.poll(10, 0.0)] == [2]


@pytest.mark.parametrize(
    ("column", "unit", "expected"),
    [
        (pa.array([1.5], pa.float64()), "s", 1500),
        (pa.array([1_234_567], pa.int64()), "us", 1234),
        (pa.array([5_000_000], pa.int64()), "ns", 5),
        (pa.array([7], pa.int32()), "ms", 7),
        (pa.array([datetime.datetime(1970, 1, 1, 0, 0, 2)], pa.timestamp("us")), "ms", 2000),
        (pa.array([datetime.datetime(1970, 1, 1, 0, 0, 2)], pa.timestamp("ns", "UTC")), "s", 2000),
        (pa.array([datetime.date(1970, 1, 2)]), "ms", 86_400_000),
        (pa.array([2], pa.timestamp("s")), "ms", 2000),
        (pa.array([2345], pa.timestamp("ms")), "s", 2345),
        (pa.array([2_345_678], pa.timestamp("us", "Europe/Berlin")), "ms", 2345),
        (pa.array([2_345_678_901], pa.timestamp("ns")), "us", 2345),
        (pa.array([datetime.datetime(2300, 1, 1)], pa.timestamp("us")), "ms", 10_413_792_000_000),  # no ns has it
        (pa.array([7], pa.uint64()), "s", 7000),
        (pa.array([decimal.Decimal("1.234")]), "s", 1234),
    ],
)
def test_time_column_is_read_in_its_unit(tmp_path, column, unit, expected):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": column, "i": [1]}), path)
    assert events(f"parquet://{path}?time=t&unit={unit}&item=i")[0].event_time_ms == expected


def test_null_label_and_null_time_are_dead_letters_not_crashes(ratings, tmp_path, make_job):
    decoder = FeatureDecoder(make_job())
    source = open_source(f"parquet://{ratings}?label=rating&time=timestamp&item=movie&features=user&threshold=4")
    with pytest.raises(EventError, match="label is nan"):
        decoder.decode(source.poll(100, 0.0)[4], "samples")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": pa.array([None], pa.int64()), "i": [1]}), path)
    with pytest.raises(EventError, match="event_time_ms is -1"):
        decoder.decode(open_source(f"parquet://{path}?time=t&item=i").poll(1, 0.0)[0], "features")


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([1_700_000_000_000_000_000], pa.int64()), "s"),  # would wrap around 64 bits to another time
        (pa.array([2**63 + 1, 2**64 - 1, 2**63], pa.uint64()), "s"),
        (pa.array([-(2**63)], pa.int64()), "s"),
        (pa.array([float("nan"), float("inf"), -1e300, 1e19]), "ms"),
    ],
)
def test_time_beyond_64_bits_is_a_dead_letter_and_the_next_row_is_read(tmp_path, column, unit):
    path = tmp_path / "t.parquet"
    times = pa.concat_arrays([column, pa.array([5], column.type)])
    pq.write_table(pa.table({"t": times, "i": [1] * len(times)}), path)
    source = open_source(f"parquet://{path}?time=t&unit={unit}&item=i")
    *odd, last = source.poll(100, 0.0)
    assert len(odd) == len(column)
    assert all(record.event_time_ms < 0 for record in odd)
    assert last.event_time_ms == (5000 if unit == "s" else 5)


@pytest.mark.parametrize(
    "column", [["2023-11-14"], [True], pa.array([1], pa.time64("us")), pa.array([1], pa.duration("ms")), [[1]]]
)
def test_time_column_that_holds_no_times_is_refused_by_name(tmp_path, column):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": column, "i": [1]}), path)
    with pytest.raises(
        ConfigError, match=r"the time column 't' is of type .*; allowed: a timestamp, a date, or a number"
    ):
        open_source(f"parquet://{path}?time=t&item=i")


def test_list_columns_are_bags_and_whole_floats_are_ids(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": [1], "i": [1], "tags": [["a", "b"]], "city": pa.array([3.0])}), path)
    assert events(f"parquet://{path}?time=t&item=i&features=tags,city")[0].features == {"tags": ["a", "b"], "city": 3}


def test_missing_column_is_named_with_those_there_are(ratings):
    with pytest.raises(ConfigError, match=r"has no column 'film'; it has list, user, movie, rating, timestamp"):
        open_source(f"parquet://{ratings}?time=timestamp&item=film")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("item=movie", "time=COLUMN is missing"),
        ("time=timestamp", "item=COLUMN is missing"),
        ("time=timestamp&item=movie&unit=h", "unit is 'h', allowed: ms, s, us, ns"),
        ("time=timestamp&item=movie&label=rating&action=rating", "not both"),
        ("time=timestamp&item=movie&colour=red", "unknown option 'colour'"),
    ],
)
def test_query_that_cannot_be_says_why(ratings, query, said):
    with pytest.raises(ConfigError, match=said):
        open_source(f"parquet://{ratings}?{query}")


def test_missing_file_and_file_that_is_no_parquet_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        open_source(f"parquet://{tmp_path}/none.parquet?time=t&item=i")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(CorruptError, match="cannot be read as Parquet"):
        open_source(f"parquet://{tmp_path}/x.parquet?time=t&item=i")


@pytest.mark.parametrize(("name", "text"), [("x.csv", "t,i\n1,a\n"), ("x.jsonl", '{"t": 1, "i": "a"}\n')])
def test_file_of_text_is_refused_with_a_command_that_makes_it_parquet(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(CorruptError) as refused:
        open_source(f"parquet://{tmp_path}/{name}?time=t&item=i")
    code = str(refused.value).partition('python -c "')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert [event.item_id for event in events(f"parquet://{tmp_path}/x.parquet?time=t&item=i")] == ["a"]


def test_flipped_byte_in_the_data_is_corrupt(tmp_path, flip):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": list(range(1000)), "i": ["x" * 50] * 1000}), path, write_page_checksum=True)
    flip(path, 3000)
    with pytest.raises(CorruptError, match=r"t\.parquet"):
        open_source(f"parquet://{path}?time=t&item=i").poll(2000, 0.0)


def test_unsorted_rows_are_told_once_with_the_first_of_them(ratings, caplog):
    events(f"parquet://{ratings}?time=timestamp&item=movie")
    assert caplog.text.count("is not in order of time: row 1 is of 50 ms") == 1
    assert "sort it by the column 'timestamp'" in caplog.text


@pytest.mark.parametrize("times", [[1, 1, 2, 3], [1, None, 2, 3], [None, 1, 2, 2]])
def test_sorted_rows_need_no_warning_though_some_have_no_time(tmp_path, caplog, times):
    pq.write_table(pa.table({"t": times, "item": ["a"] * 4}), tmp_path / "x.parquet", row_group_size=2)
    source = open_source(f"parquet://{tmp_path}/x.parquet?time=t&item=item")
    assert len(source.poll(3, 0.0) + source.poll(3, 0.0)) == 4
    source.seek({0: 0})
    source.poll(9, 0.0)
    assert caplog.text == ""


def test_unsorted_rows_are_all_trained(tmp_path, make_job, open_reader, drain):
    """Whatever their times, which are years apart: a file says nothing of when its rows were written."""
    year_ms, rows = 365 * 86_400_000, 300
    times = [10**12 + (i * 7919 % rows) * year_ms // 10 for i in range(rows)]
    pq.write_table(
        pa.table({"t": times, "item": ["a"] * rows, "user": list(range(rows)), "y": [1] * rows}), tmp_path / "x"
    )
    url = f"parquet://{tmp_path}/x?time=t&item=item&features=user&label=y"
    reader = open_reader(make_job(input={"features": None, "actions": None, "samples": url}))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    assert sorted(sample.ids["user"][0] for sample in samples) == list(range(rows))
    assert reader.progress().dead_letters == {}
