from __future__ import annotations

import signal

import lmdb
import pytest
from log_rows import python, read_all, rows

from monolith.errors import (
    ConfigError,
    CorruptError,
    DataLossError,
    VersionError,
)
from monolith.streaming.log import EventLog, partition_of
from monolith.streaming.source import open_sink, open_source

WRITER = """
    import sys
    from monolith.streaming.source import open_sink
    sink = open_sink(sys.argv[1])
    for n in range(int(sys.argv[2])):
        sink.append([(b"k", b"%d-%d" % (n, i), n) for i in range(10)])
        print(n, flush=True)
"""

READER = """
    import sys
    from monolith.streaming.source import open_source
    source = open_source(sys.argv[1])
    values = []
    while len(values) < int(sys.argv[2]):
        values += [r.value for r in source.poll(7, 1.0)]
    print(hash_of := __import__("zlib").crc32(b",".join(values)))
"""


@pytest.fixture
def url(tmp_path):
    return f"log://{tmp_path}/log"


def test_records_come_back_in_order_with_their_offsets_and_stamps(url):
    sink, source = open_sink(url), open_source(url)
    sink.log.append(rows(3), ingestion_ms=77)
    sink.log.append(rows(2, 3), ingestion_ms=78)
    records = source.poll(100, 0.0)
    assert [(r.offset, r.value, r.event_time_ms) for r in records] == [(i, b"%d" % i, 1000 + i) for i in range(5)]
    assert [r.ingestion_time_ms for r in records] == [77, 77, 77, 78, 78]
    source.seek({0: 3})
    assert [r.offset for r in source.poll(1, 0.0)] == [3]
    assert (source.position(), source.end_position(), source.lag()) == ({0: 4}, {0: 5}, 1)


def test_records_without_key_or_value_are_kept(url):
    open_sink(url).append([(None, b"v", 1), (b"k", None, 2)])
    assert [(r.key, r.value) for r in open_source(url).poll(10, 0.0)] == [(None, b"v"), (b"k", None)]


def test_equal_keys_share_a_partition_and_the_log_remembers_how_many_there_are(url):
    sink = open_sink(f"{url}?partitions=3")
    sink.append([(b"k%d" % i, b"v", 0) for i in range(50)])
    source = open_source(url)
    assert source.partitions() == [0, 1, 2]
    records = source.poll(100, 0.0)
    assert len(records) == 50
    assert all(r.partition == partition_of(r.key, r.value, 3) for r in records)
    with pytest.raises(ConfigError, match="has 3 partitions, its URL says 4"):
        open_sink(f"{url}?partitions=4")


def test_partition_that_is_not_asked_for_keeps_its_position(url):
    open_sink(f"{url}?partitions=2").append([(b"k%d" % i, b"v", 0) for i in range(50)])
    source = open_source(url)
    before = source.position()[1]
    assert {r.partition for r in source.poll(100, 0.0, [0])} == {0}
    assert source.position()[1] == before


def test_seek_goes_into_the_middle_of_a_batch(url):
    sink, source = open_sink(url), open_source(url)
    for start in (0, 10, 20):
        sink.append(rows(10, start))
    source.seek({0: 14})
    assert read_all(source) == [b"%d" % i for i in range(14, 30)]
    source.seek({0: 0})
    assert len(read_all(source)) == 30


def test_log_survives_a_reopening(url):
    sink = open_sink(url)
    sink.append(rows(3))
    sink.close()
    sink.close()
    sink = open_sink(url)
    sink.append(rows(1, 3))
    assert read_all(open_source(url)) == [b"0", b"1", b"2", b"3"]


def test_missing_log_is_an_error_for_who_does_not_follow(url):
    with pytest.raises(ConfigError, match=r"there is no log in .*the first producer creates it"):
        open_source(url)


def test_follower_waits_for_a_log_and_says_so(url, caplog):
    source = open_source(url, wait=True)
    source.seek({0: 1})
    assert (source.partitions(), source.poll(10, 0.0), source.end_position()) == ([], [], {})
    assert caplog.text.count("waiting for log://") == 1
    sink = open_sink(url)
    sink.append(rows(3))
    assert source.partitions() == [0]
    assert [r.offset for r in source.poll(10, 0.0)] == [1, 2]


def test_folder_that_a_killed_producer_left_empty_is_still_no_log(url, tmp_path):
    (tmp_path / "log").mkdir()
    assert open_source(url, wait=True).partitions() == []


def test_follower_waits_for_a_log_whose_producer_is_in_the_midst_of_creating_it(url, tmp_path, caplog):
    (tmp_path / "log").mkdir()
    lmdb.open(str(tmp_path / "log")).close()
    source = open_source(url, wait=True)
    assert (source.partitions(), source.poll(10, 0.0)) == ([], [])
    assert "waiting for log://" in caplog.text
    with pytest.raises(ConfigError, match="there is no log in"):
        open_source(url)
    open_sink(url).append(rows(2))
    assert [r.offset for r in source.poll(10, 0.0)] == [0, 1]


def test_two_processes_read_the_same_beside_a_writer(url):
    open_sink(url).close()
    readers = [python(READER, url, 500), python(READER, url, 500)]
    writer = python(WRITER, url, 50)
    outputs = [process.communicate(timeout=60)[0] for process in (*readers, writer)]
    assert outputs[0] == outputs[1] != ""


def test_killed_writer_loses_nothing_acknowledged_and_blocks_nobody(url):
    writer = python(WRITER, url, 100_000)
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 20:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    sink = open_sink(url)
    values = read_all(open_source(url))
    assert len(values) % 10 == 0  # never half a batch
    assert len(values) >= 10 * (acknowledged + 1)
    assert values[:10] == [b"0-%d" % i for i in range(10)]
    sink.append(rows(1))
    assert open_source(url).end_position() == {0: len(values) + 1}


def test_writers_of_two_processes_take_turns(url):
    open_sink(url).close()
    writers = [python(WRITER, url, 30), python(WRITER, url, 30)]
    for writer in writers:
        writer.communicate(timeout=60)
    values = read_all(open_source(url))
    assert len(values) == 600
    assert all(values[i].endswith(b"-0") for i in range(0, 600, 10))


def test_map_that_is_too_small_grows(tmp_path):
    log = EventLog(tmp_path / "log", create=True, map_bytes=64 * 1024)
    for start in range(0, 1000, 50):
        log.append(rows(50, start, size=500))
    other = open_source(f"log://{tmp_path}/log")
    assert len(read_all(other)) == 1000


def test_reader_of_another_process_follows_a_map_that_grew(tmp_path, url):
    log = EventLog(tmp_path / "log", create=True, map_bytes=64 * 1024)
    log.append(rows(1))
    reader = python(READER, url, 1001)
    for start in range(0, 1000, 50):
        log.append(rows(50, start, size=500))
    assert reader.communicate(timeout=60)[0].strip()


def test_flipped_byte_in_a_batch_names_partition_and_offset(url, tmp_path):
    sink = open_sink(url)
    sink.append(rows(5))
    sink.append([(b"key", b"NEEDLE", 9)])
    sink.close()
    path = tmp_path / "log" / "data.mdb"
    path.write_bytes(path.read_bytes().replace(b"NEEDLE", b"NEEDLF"))
    source = open_source(url)
    assert len(source.poll(5, 0.0)) == 5
    with pytest.raises(CorruptError, match=r"partition 0, batch of offset 5 cannot be read: its checksum"):
        source.poll(5, 0.0)


def test_every_flipped_bit_of_a_stored_batch_is_found(tmp_path):
    log = EventLog(tmp_path / "log", create=True)
    log.append(rows(2))
    key = b"b" + bytes(12)
    value = log._environment.read(lambda txn: bytes(txn.get(key)))
    for at in range(len(value)):
        flipped = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        log._environment.write(lambda txn, flipped=flipped: txn.put(key, flipped))
        with pytest.raises(CorruptError):
            log.read(0, 0)


def test_batch_under_another_key_is_found_out(tmp_path):
    log = EventLog(tmp_path / "log", create=True)
    log.append(rows(2))
    log.append(rows(2))

    def swap(txn):
        first, second = b"b" + bytes(12), b"b" + bytes(11) + b"\x02"
        txn.put(second, txn.get(first))

    log._environment.write(swap)
    with pytest.raises(CorruptError, match="partition 0, offset 0 stands in its place"):
        log.read(0, 2)


def test_log_of_another_version_is_refused(tmp_path):
    log = EventLog(tmp_path / "log", create=True)
    log._environment.write(lambda txn: txn.put(b"m", b"\x82\xa7version\x09\xaapartitions\x01"))
    log.close()
    with pytest.raises(VersionError, match="version 9, this build reads 1"):
        EventLog(tmp_path / "log")


def test_file_that_is_no_lmdb_is_corrupt(tmp_path):
    folder = tmp_path / "log"
    EventLog(folder, create=True).close()
    (folder / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptError, match="cannot open the log"):
        EventLog(folder)


def test_retention_by_age_drops_whole_old_batches_and_keeps_offsets(tmp_path):
    log = EventLog(tmp_path / "log", create=True)
    for i in range(5):
        log.append(rows(10, 10 * i), ingestion_ms=1000 * i)
    assert log.apply_retention(max_age_s=2.0, now_ms=4000) == 20
    assert (log.extents()[0].begin, log.extents()[0].end) == (20, 50)
    assert log.apply_retention(max_age_s=0.0, now_ms=10_000) == 30
    assert (log.extents()[0].begin, log.extents()[0].end) == (50, 50)
    log.append(rows(1))
    assert [r.offset for r in log.read(0, 50)] == [50]


def test_retention_by_bytes_drops_the_oldest_of_all_partitions(tmp_path):
    log = EventLog(tmp_path / "log", create=True, partitions=2)
    keys = {partition_of(b"%d" % i, None, 2): b"%d" % i for i in range(10)}
    for i in range(6):
        log.append([(keys[i % 2], bytes(1000), 0)], ingestion_ms=i)
    total = sum(extent.size_bytes for extent in log.extents().values())
    assert log.apply_retention(max_bytes=total // 2) == 3
    assert [(e.begin, e.end) for _, e in sorted(log.extents().items())] == [(2, 3), (1, 3)]
    assert sum(extent.size_bytes for extent in log.extents().values()) <= total // 2


def test_sink_applies_the_retention_of_its_url(url):
    sink = open_sink(f"{url}?retain_bytes=1")
    sink.append(rows(3))
    assert open_source(url).end_position() == {0: 3}
    assert read_all(open_source(url)) == []


def test_offset_that_retention_took_is_data_loss(tmp_path, url):
    log = EventLog(tmp_path / "log", create=True)
    for i in range(3):
        log.append(rows(10, 10 * i), ingestion_ms=i)
    stopping, skipping = open_source(url), open_source(url, on_data_loss="skip")
    log.apply_retention(max_age_s=0.0, now_ms=2)
    with pytest.raises(DataLossError, match="offset 0 is gone, it holds 20 to 30"):
        stopping.poll(10, 0.0)
    assert [r.offset for r in skipping.poll(10, 0.0)] == list(range(20, 30))
    assert skipping.skipped == 20


def test_offset_beyond_the_end_is_data_loss(url):
    open_sink(url).append(rows(3))
    source = open_source(url)
    source.seek({0: 9})
    with pytest.raises(DataLossError, match="offset 9 is gone, it holds 0 to 3"):
        source.poll(10, 0.0)


def test_undurable_and_durable_writers_do_not_share_a_process(url):
    sink = open_sink(f"{url}?sync=0")
    sink.append(rows(1))
    with pytest.raises(ConfigError, match="open in this process with sync=0"):
        open_sink(url)
    sink.close()
    open_sink(url).append(rows(1))


def test_poll_returns_soon_after_an_append_of_another_thread(url):
    import threading

    sink, source = open_sink(url), open_source(url)
    thread = threading.Timer(0.05, sink.append, [rows(1)])
    thread.start()
    assert len(source.poll(10, 30.0)) == 1
    thread.join()
