"""A stream that was made anew is told from the one that a run read, though its URL is the same."""

from __future__ import annotations

import datetime
import shutil

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith.errors import DataLossError
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import Journal
from monolith.streaming.log import EventLog
from monolith.streaming.marks import FILE, read_marks
from monolith.streaming.source import open_sink, open_source
from monolith.streaming.steps import StepReader


def fill(folder, values, partitions: int = 1) -> None:
    sink = open_sink(f"log://{folder}?partitions={partitions}")
    sink.append([(b"k", value, 1_000) for value in values])
    sink.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def source(folder):
    opened = []

    def make(policy: str = "stop", **options):
        opened.append(open_source(f"log://{folder}", on_data_loss=policy, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def values(source, timeout_s: float = 0.0) -> list[bytes]:
    return [record.value for record in source.poll(100, timeout_s)]


def test_each_log_has_a_name_of_its_own_that_its_copy_keeps(folder, source, tmp_path):
    fill(folder, [b"a"])
    shutil.copytree(folder, tmp_path / "copy")
    copy = EventLog(tmp_path / "copy")
    assert source().mark() == copy.id
    copy.close()
    fill(tmp_path / "other", [b"a"])
    other = EventLog(tmp_path / "other")
    assert other.id != copy.id
    other.close()


def test_log_of_a_build_that_drew_no_names_is_read_and_gets_one_from_its_next_producer(folder, source):
    fill(folder, [b"a"])
    log = EventLog(folder)
    plain = msgspec.msgpack.encode({"version": 1, "partitions": 1})
    log._environment.write(lambda txn: txn.put(b"m", plain))
    log.close()
    old = source()
    assert (values(old), old.mark()) == ([b"a"], None)
    old.close()
    fill(folder, [b"b"])
    assert source().mark()
    assert values(source()) == [b"a", b"b"]


def test_log_that_was_made_anew_while_nobody_read_is_a_data_loss(folder, source):
    fill(folder, [b"old"] * 3)
    mark = source().mark()
    shutil.rmtree(folder)
    fill(folder, [b"new %d" % n for n in range(5)])
    reader = source()
    with pytest.raises(DataLossError, match=r"the log was made anew.*on_data_loss: skip reads it from its beginning"):
        reader.expect(mark)
    with pytest.raises(DataLossError, match="made anew"):
        reader.poll(10, 0.0)


def test_log_that_was_made_anew_is_read_from_its_beginning_where_losses_are_skipped(folder, source):
    fill(folder, [b"old"] * 3)
    mark = source().mark()
    shutil.rmtree(folder)
    fill(folder, [b"new %d" % n for n in range(5)])
    reader = source("skip")
    reader.expect(mark)
    reader.seek({0: 3})
    assert values(reader) == [b"new %d" % n for n in range(5)]
    assert reader.mark() != mark
    reader.seek({0: 3})  # of a position that was kept since
    assert values(reader) == [b"new 3", b"new 4"]


def test_reader_that_waits_for_its_log_compares_it_when_it_comes(folder, source):
    fill(folder, [b"old"])
    mark = source().mark()
    shutil.rmtree(folder)
    reader = source(wait=True)
    reader.expect(mark)
    reader.seek({0: 1})
    assert values(reader) == []
    fill(folder, [b"new"] * 3)
    with pytest.raises(DataLossError, match="made anew"):
        reader.poll(10, 0.0)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_log_that_is_removed_while_it_is_read_is_waited_for_and_its_successor_is_met(folder, source, policy, caplog):
    fill(folder, [b"old"] * 3)
    reader = source(policy, wait=True)
    assert len(values(reader)) == 3
    shutil.rmtree(folder)
    assert values(reader) == []
    assert reader.missing == "the log was removed; the next producer makes it anew"
    assert "waiting for" in caplog.text
    fill(folder, [b"new %d" % n for n in range(5)])
    if policy == "stop":
        with pytest.raises(DataLossError, match="made anew"):
            reader.poll(10, 0.0)
        return
    assert values(reader) == [b"new %d" % n for n in range(5)]
    assert (reader.missing, reader.lag()) == (None, 0)


def test_what_a_removed_log_still_holds_is_read_first(folder, source):
    fill(folder, [b"old 0"])
    fill(folder, [b"old 1"])
    reader = source("skip", wait=True)
    assert [record.value for record in reader.poll(1, 0.0)] == [b"old 0"]
    shutil.rmtree(folder)
    fill(folder, [b"new"])
    assert values(reader) == [b"old 1"]
    assert values(reader) + values(reader) == [b"new"]


def test_folder_that_was_moved_away_and_back_is_the_same_log(folder, source, tmp_path):
    fill(folder, [b"a"])
    reader = source(wait=True)
    assert values(reader) == [b"a"]
    folder.rename(tmp_path / "away")
    assert values(reader) == []
    shutil.copytree(tmp_path / "away", folder)
    fill(folder, [b"b"])
    assert values(reader) == [b"b"]


def test_partition_that_a_log_made_anew_lacks_is_at_its_end(folder, source):
    sink = open_sink(f"log://{folder}?partitions=2")
    sink.append([(b"%d" % n, b"old", 1_000) for n in range(20)])
    sink.close()
    reader = source("skip", wait=True)
    assert len(reader.poll(100, 0.0)) == 20
    ends = reader.end_position()
    shutil.rmtree(folder)
    assert values(reader) == []
    fill(folder, [b"new"] * 2)
    assert values(reader) == [b"new"] * 2
    assert (reader.partitions(), reader.lag()) == ([0, 1], 0)
    assert reader.end_position()[1] == reader.position()[1] == ends[1]


def test_producer_whose_log_was_removed_makes_it_anew_and_loses_nothing_more(folder, source, caplog):
    sink = open_sink(f"log://{folder}?partitions=2")
    sink.append([(b"k", b"old", 1_000)])
    shutil.rmtree(folder)
    sink.append([(b"k", b"new", 1_000)])
    sink.close()
    assert "was removed: it is made anew" in caplog.text
    reader = source()
    assert (values(reader), reader.partitions()) == ([b"new"], [0, 1])


def test_producer_whose_log_was_replaced_appends_to_the_one_that_is_there(folder, source, caplog):
    sink = open_sink(f"log://{folder}")
    sink.append([(b"k", b"old", 1_000)])
    shutil.rmtree(folder)
    fill(folder, [b"another's"])
    sink.append([(b"k", b"new", 1_000)])
    sink.close()
    assert "another one is in its place" in caplog.text
    assert values(source()) == [b"another's", b"new"]


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_rows(path, items, **columns) -> None:
    count = len(items)
    table = {"t": list(range(count)), "item": items, "label": [0.5] * count, **columns}
    pq.write_table(pa.table(table), path, row_group_size=50)


@pytest.fixture
def rows(tmp_path):
    """How the file is opened whose path is its attribute."""
    path = tmp_path / "rows.parquet"

    def opened(policy: str = "stop", query: str = "label=label"):
        return open_source(f"parquet://{path}?time=t&item=item&{query}", on_data_loss=policy)

    opened.path = path
    return opened


def test_file_that_grew_or_got_other_columns_is_the_same(rows):
    write_rows(rows.path, list("abc"))
    mark = rows().mark()
    write_rows(rows.path, list("abcdef"), more=[1] * 6)
    source = rows()
    source.expect(mark)
    source.seek({0: 3})
    assert [record.offset for record in source.poll(10, 0.0)] == [3, 4, 5]
    rows(query="label=label&features=more").expect(mark)
    rows(query="label=more").expect(mark)  # other labels: nothing can be told


@pytest.mark.parametrize("other", [{"items": list("xbc")}, {"items": list("abc"), "label": [0.0, 1.0, 0.0]}])
def test_file_that_was_replaced_by_one_of_the_same_length_is_a_data_loss(rows, other):
    write_rows(rows.path, list("abc"))
    mark = rows().mark()
    write_rows(rows.path, **other)
    with pytest.raises(DataLossError, match="its files were replaced"):
        rows().expect(mark)
    source = rows("skip")
    source.expect(mark)
    source.seek({0: 3})
    assert [record.offset for record in source.poll(10, 0.0)] == [0, 1, 2]
    source.seek({0: 3})
    assert source.mark() != mark


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.date32(), pa.date64()])
def test_times_of_any_type_make_a_mark(tmp_path, kind):
    times = pa.array([datetime.date(2026, 1, 1)]).cast(kind)
    pq.write_table(pa.table({"t": times, "item": pa.array(["a"]).dictionary_encode()}), tmp_path / "x.parquet")
    source = open_source(f"parquet://{tmp_path}/x.parquet?time=t&item=item")
    source.expect(source.mark())
    pq.write_table(pa.table({"t": times[:0], "item": ["a"][:0]}), tmp_path / "none.parquet")
    assert open_source(f"parquet://{tmp_path}/none.parquet?time=t&item=item").mark() is None


# --- a run ------------------------------------------------------------------------------------------------------------


class Kept:
    """A snapshot of the state folder."""

    def __init__(self, state, data: bytes) -> None:
        self.path = state / "snapshots" / "000000000001"
        self._data = data

    def read(self, _name: str) -> bytes:
        return self._data


@pytest.fixture
def run(tmp_path, make_job, feature_bytes):
    """A job over two logs, and how its reader is opened."""
    state = tmp_path / "state"
    folders = {name: tmp_path / name for name in ("features", "actions")}
    urls = {name: f"log://{folder}" for name, folder in folders.items()}

    class Run:
        def __init__(self) -> None:
            self.state, self.folders, self.readers = state, folders, []

        def show(self, first: int, last: int) -> None:
            sink = open_sink(urls["features"])
            sink.append([(b"k", feature_bytes(f"r{n}", 1_000 + n), 1_000 + n) for n in range(first, last)])
            sink.close()
            open_sink(urls["actions"]).close()

        def open(self, **input) -> StepReader:
            self.close()
            job = make_job(input={**urls, **input}, train={"step_records": 100})
            self.readers.append(StepReader(job, open_inlets(job), Journal(state / "journal"), DeadLetters(None)))
            return self.readers[-1]

        def close(self) -> None:
            while self.readers:
                self.readers.pop().close()

        def until(self, reader, records: int) -> int:
            while reader.progress().records < records:
                assert reader.next(20.0) is not None
            return reader.progress().records

    made = Run()
    yield made
    made.close()


@pytest.fixture
def stopped(run):
    """A run that read ten records, and whose log of features was made anew with twenty since."""
    run.show(0, 10)
    reader = run.open()
    run.until(reader, 10)
    data = reader.state()
    reader.commit()
    run.close()
    shutil.rmtree(run.folders["features"])
    run.show(100, 120)
    return Kept(run.state, data)


def test_run_whose_log_was_made_anew_stops_instead_of_passing_over_its_records(run, stopped):
    reader = run.open()
    with pytest.raises(DataLossError, match="the log was made anew"):
        reader.load(stopped)


def test_run_reads_the_log_that_was_made_anew_from_its_beginning_where_losses_are_skipped(run, stopped):
    before = read_marks(run.state)
    reader = run.open(on_data_loss="skip")
    reader.load(stopped)
    assert run.until(reader, 30) == 30
    data = reader.state()
    reader.commit()
    assert read_marks(run.state)["features"] != before["features"]
    again = run.open()
    again.load(Kept(run.state, data))
    assert again.next(0.0) is None
    assert again.progress().positions["features"] == {0: 20}


def test_run_that_ends_where_its_streams_end_reads_all_of_a_log_that_was_made_anew(run, stopped):
    reader = run.open(on_data_loss="skip", follow=False)
    reader.load(stopped)
    assert run.until(reader, 30) == 30


def test_streams_of_another_url_are_not_compared(run, stopped, tmp_path):
    run.folders["features"].rename(tmp_path / "elsewhere")
    reader = run.open(features=f"log://{tmp_path / 'elsewhere'}")
    reader.load(stopped)


def test_marks_that_cannot_be_read_are_said_and_passed_over(run, stopped, caplog):
    (run.state / FILE).write_text("{")
    run.open().load(stopped)
    assert "whether a stream was made anew is not known" in caplog.text
