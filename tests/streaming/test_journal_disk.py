from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from journals import entry, only_file, written

from monolith.errors import ConfigError, DurabilityError, UnavailableError
from monolith.streaming import journal as journal_module
from monolith.streaming.journal import Journal


def test_full_disk_leaves_the_journal_as_it_was(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        from monolith.errors import UnavailableError
        from monolith.streaming.journal import Journal, StepEntry, held
        journal = Journal(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        make = lambda: StepEntry(step=journal.last_step + 1, ends={"features": {0: 1}}, watermark_ms=1)
        try:
            while True:
                journal.append(make())
        except UnavailableError as error:
            assert "nothing was written" in str(error), error
        full_at = journal.last_step
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        journal.append(make())
        print(full_at)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert Journal(tmp_path).last_step == int(run.stdout) + 1


def test_read_only_journal_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no step journal"):
        Journal(tmp_path, read_only=True)


def test_folder_that_cannot_be_written_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.streaming.journal.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UnavailableError, match="cannot begin the step journal"):
        Journal(tmp_path)


def failing(code: int, calls: list[int] | None = None):
    """An os.fsync, or the like, that fails with the system's error ``code``."""

    def fail(*_: object) -> None:
        if calls is not None:
            calls.append(code)
        raise OSError(code, os.strerror(code))

    return fail


def test_sync_that_fails_is_final_since_the_next_one_would_find_nothing_to_complain_of(tmp_path, monkeypatch):
    journal = written(tmp_path, 2)
    journal.sync()
    journal.append(entry(3))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing(errno.EIO))
        with pytest.raises(
            DurabilityError, match=r"cannot be made durable: \[Errno 5\].*this process must end.*kernel's"
        ):
            journal.sync()
    for again in (journal.sync, lambda: journal.append(entry(4)), lambda: journal.trim(2)):
        with pytest.raises(DurabilityError, match="cannot be made durable"):
            again()
    journal.close()
    restarted = Journal(tmp_path)
    assert restarted.last_step == 2, "an entry that may not be on the disk is not gone on from"
    restarted.append(entry(3))
    restarted.sync()


def test_sync_that_fails_takes_away_nothing_that_an_earlier_process_wrote(tmp_path, monkeypatch):
    written(tmp_path, 3).close()  # was synced or not: this process cannot know
    journal = Journal(tmp_path)
    journal.append(entry(4))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing(errno.EIO))
        with pytest.raises(DurabilityError):
            journal.sync()
    journal.close()
    assert Journal(tmp_path).last_step == 3


def test_restart_writes_anew_what_may_be_in_memory_only(tmp_path, monkeypatch):
    """After a failed sync the pages can be read, but are marked clean: only bytes written again reach the disk."""
    written(tmp_path, 3).close()
    path = only_file(tmp_path)
    writes: list[bytes] = []
    real = journal_module._write_all
    monkeypatch.setattr(journal_module, "_write_all", lambda file, data: (writes.append(bytes(data)), real(file, data)))
    journal = Journal(tmp_path)
    assert writes == [path.read_bytes()]
    journal.append(entry(4))
    journal.close()
    assert Journal(tmp_path, read_only=True).last_step == 4


def test_trim_whose_folder_cannot_be_synced_is_final_since_it_might_leave_a_hole(tmp_path, monkeypatch):
    journal = written(tmp_path, 50, segment_bytes=300)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing(errno.EIO))
        with pytest.raises(DurabilityError):
            journal.trim(30)


def test_file_that_cannot_be_begun_leaves_the_one_before_in_use(tmp_path, monkeypatch):
    journal = written(tmp_path, 3, segment_bytes=1)
    journal.sync()
    files = len(list(tmp_path.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr("monolith.streaming.journal.write_durably", failing(errno.ENOSPC))
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"cannot begin .*000000000004.journal: .*No space.*make room"):
                journal.append(entry(4))
    assert len(list(tmp_path.iterdir())) == files
    journal.append(entry(4))
    journal.close()
    assert Journal(tmp_path).last_step == 4


def test_file_that_was_begun_and_not_finished_is_removed_at_the_start(tmp_path):
    written(tmp_path, 3).close()
    (tmp_path / "000000000004.tmp").write_bytes(b"MNL")
    Journal(tmp_path, read_only=True).close()
    assert (tmp_path / "000000000004.tmp").exists()
    Journal(tmp_path).close()
    assert not (tmp_path / "000000000004.tmp").exists()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "quota is used up: make room"),
        (errno.EACCES, "give it the right"),
        (errno.EROFS, "file system is read-only"),
        (errno.EIO, "reports a fault"),
    ],
)
def test_an_error_of_the_disk_is_told_with_what_helps_against_it(tmp_path, monkeypatch, code, advice):
    journal = written(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("monolith.streaming.journal._write_all", failing(code))
        with pytest.raises(UnavailableError, match=advice) as refused:
            journal.append(entry(2))
    assert ("room" in str(refused.value)) == (code in (errno.ENOSPC, errno.EDQUOT))
    journal.append(entry(2))


def test_full_disk_does_not_keep_a_process_from_taking_the_lock(tmp_path, monkeypatch):
    written(tmp_path, 1).close()
    monkeypatch.setattr("monolith.streaming.journal.os.write", failing(errno.ENOSPC))
    journal = Journal(tmp_path)
    with pytest.raises(ConfigError, match="in use by process unknown"):
        Journal(tmp_path)
    journal.close()


def test_folder_that_was_removed_is_an_error_at_the_next_sync_and_stays_one(tmp_path):
    journal = Journal(tmp_path / "state" / "journal")
    journal.append(entry(1))
    journal.sync()
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(DurabilityError, match=r"was removed or replaced .*Put the whole state folder .*state back"):
        journal.sync()
    with pytest.raises(DurabilityError, match="was removed"):
        journal.append(entry(2))
    journal.close()
    assert not (tmp_path / "state").exists()


def test_folder_that_was_replaced_by_a_copy_is_an_error(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.append(entry(1))
    journal.sync()
    shutil.copytree(tmp_path / "journal", tmp_path / "backup")
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "backup").rename(tmp_path / "journal")
    journal.append(entry(2))
    with pytest.raises(DurabilityError, match="was removed or replaced"):
        journal.sync()
    journal.close()
    assert Journal(tmp_path / "journal").last_step == 1
