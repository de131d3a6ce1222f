"""What becomes of a log on a disk that is full, refuses or lies, and across a fork."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import lmdb
import pytest
from log_rows import python, read_all, rows

from monolith.errors import (
    DurabilityError,
    UnavailableError,
)
from monolith.streaming.log import EventLog
from monolith.streaming.source import open_sink, open_source


def test_disk_that_refuses_is_unavailable_and_the_log_stays(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "log", create=True)
    log.append(rows(3, 0))
    log.close()
    with monkeypatch.context() as patch:
        refuse = lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))  # noqa: E731
        patch.setattr("monolith.streaming.log_environment._check_heads", refuse)
        with pytest.raises(UnavailableError, match=r"cannot open the log .*/log: \[Errno 30\] Read-only"):
            EventLog(tmp_path / "log")
    assert len(EventLog(tmp_path / "log").read(0, 0)) == 3


def test_full_disk_writes_nothing_and_the_log_goes_on_when_there_is_room(tmp_path):
    code = """
        import resource, sys
        from monolith.errors import UnavailableError
        from monolith.streaming.source import open_sink
        sink = open_sink(sys.argv[1])
        sink.append([(b"k", b"first", 0)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
        appended = 1
        try:
            while True:
                sink.append([(b"k", bytes(5000), 0)])
                appended += 1
        except UnavailableError as error:
            print(error, file=sys.stderr)
        assert sink.log.extents()[0].end == appended
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sink.append([(b"k", b"last", 0)])
        print(appended)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), f"log://{tmp_path}/log"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "nothing was written; the file may not grow further: raise the limit of the process" in run.stderr
    values = read_all(open_source(f"log://{tmp_path}/log"))
    assert len(values) == int(run.stdout) + 1
    assert (values[0], values[-1]) == (b"first", b"last")


def test_flipped_bit_anywhere_in_the_file_is_harmless_or_a_corrupt_error(tmp_path):
    """LMDB has no checksums of its own: its pages are checked by what our values say, in a process of their own."""
    code = """
        import random, sys
        from pathlib import Path
        from monolith.errors import CorruptError
        from monolith.streaming.source import open_source

        def everything(folder):
            source, records = open_source(f"log://{folder}"), []
            try:
                while more := source.poll(1000, 0.0):
                    records += more
                assert source.lag() == 0
            finally:
                source.close()
            return records

        log, copy = Path(sys.argv[1]), Path(sys.argv[2])
        good, whole = everything(log), (log / "data.mdb").read_bytes().rstrip(bytes(1))
        whole += bytes(-len(whole) % 4096)
        draw, refused = random.Random(1), 0
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            (copy / "data.mdb").write_bytes(damaged)
            (copy / "lock.mdb").write_bytes(b"")
            try:
                assert everything(copy) == good
            except CorruptError:
                refused += 1
        print(refused)
    """
    sink = open_sink(f"log://{tmp_path}/log?partitions=2")
    for start in range(0, 200, 10):
        sink.append([(b"k%d" % i, bytes(80), i) for i in range(start, start + 10)])
    sink.close()
    (tmp_path / "copy").mkdir()
    reader = python(code, tmp_path / "log", tmp_path / "copy")
    refused = int(reader.communicate(timeout=60)[0])
    assert 0 < refused < 300


def test_a_log_goes_on_in_a_forked_child_and_in_its_parent(tmp_path):
    log = EventLog(tmp_path / "log", create=True)
    log.append([(b"k", b"parent", 1)])
    child = os.fork()
    if child == 0:
        log.append([(b"k", b"child", 2)])
        os._exit(0 if log.extents()[0].end == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    log.append([(b"k", b"parent again", 3)])
    assert log.extents()[0].end == 3
    log.close()


def test_a_fork_within_a_logs_transaction_refuses_the_child_and_not_the_parent(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.forks.WAIT_S", 0.01)
    log = EventLog(tmp_path / "log", create=True)

    def forks(txn):
        child = os.fork()
        if child == 0:
            try:
                log.extents()
            except UnavailableError as error:
                os._exit(0 if "forked in the middle" in str(error) else 1)
            os._exit(2)
        return os.waitpid(child, 0)[1]

    assert log._environment.read(forks) == 0
    assert log.append([(b"k", b"v", 1)]) == {0: 1}
    log.close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EACCES, "give it the right"), (errno.EIO, "reports a fault")],
)
def test_error_of_the_disk_is_told_with_what_helps_against_it(tmp_path, monkeypatch, code, advice):
    log = EventLog(tmp_path / "log", create=True)

    def refuse(_: object) -> None:
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(code)}")

    with pytest.raises(UnavailableError, match=f"cannot append the log .*; nothing was written; .*{advice}") as refused:
        log._environment.write(refuse)
    assert ("room" in str(refused.value)) == (code != errno.EACCES)  # LMDB says EIO of a full disk as well
    log.close()


def test_log_whose_head_the_disk_did_not_take_is_not_called_damaged_but_wants_a_new_process(tmp_path):
    log = EventLog(tmp_path / "log", create=True)

    def panic(_: object) -> None:
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC: Update of meta page failed or environment had fatal error")

    with pytest.raises(DurabilityError, match="start this process again"):
        log._environment.write(panic)
    log.close()


def test_no_hole_in_the_lock_file_can_end_the_process_on_a_full_disk(tmp_path):
    """LMDB writes to its lock file by a mapping; where a hole of it finds no room, that is a SIGBUS and no error."""
    EventLog(tmp_path / "log", create=True).close()
    found = (tmp_path / "log" / "lock.mdb").stat()
    assert found.st_size >= 512 * 64
    assert found.st_blocks * 512 >= found.st_size


def test_log_whose_lock_file_finds_no_room_is_unavailable(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(UnavailableError, match=r"No space left on device.*make room"):
        EventLog(tmp_path / "log", create=True)
