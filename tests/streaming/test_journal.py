from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import msgspec
import pytest

from monolith.errors import (
    ConfigError,
    CorruptError,
    DataLossError,
    DurabilityError,
    UnavailableError,
    VersionError,
)
from monolith.streaming import journal as journal_module
from monolith.streaming import journal_frames
from monolith.streaming.journal import Journal, StepEntry, held


def entry(step: int, **more) -> StepEntry:
    return StepEntry(step=step, ends={"features": {0: 10 * step, 1: 7}}, watermark_ms=100 * step, **more)


def written(folder, steps: int, **options) -> Journal:
    journal = Journal(folder, **options)
    for step in range(1, steps + 1):
        journal.append(entry(step))
    return journal


def only_file(folder):
    (path,) = folder.glob("*.journal")
    return path


def test_entries_come_back_as_written(tmp_path):
    journal = Journal(tmp_path)
    first = entry(1, publish=True, begins={"features": {0: 3}}, stop_at={"features": {0: 99}})
    second = entry(2, ended=True, idle={"actions": [0, 2]})
    journal.append(first)
    journal.append(second)
    journal.sync()
    journal.close()
    again = Journal(tmp_path)
    assert list(again.read(1)) == [first, second]
    assert list(again.read(2)) == [second]
    assert (again.first_step, again.last_step, again.lineage) == (1, 2, journal.lineage)


def test_every_new_journal_is_another_run(tmp_path):
    assert Journal(tmp_path / "a").lineage != Journal(tmp_path / "b").lineage


def test_second_trainer_is_refused_and_told_who_has_it(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import sys
                from pathlib import Path
                from monolith.streaming.journal import Journal
                journal = Journal(Path(sys.argv[1]))
                print("held", flush=True)
                sys.stdin.read()
            """),
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"in use by process {holder.pid}"):
        Journal(tmp_path)
    assert Journal(tmp_path, read_only=True).last_step == 0
    holder.kill()
    holder.wait(timeout=10)
    Journal(tmp_path).append(entry(1))


def test_folder_that_is_held_takes_no_journal_and_no_second_holder_and_goes_when_it_holds_nothing(tmp_path):
    folder = tmp_path / "journal"
    with held(folder):
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
            Journal(folder)
        with pytest.raises(ConfigError, match="in use by"), held(folder):
            pass
    assert not folder.exists()
    written(folder, 1).close()
    with held(folder):
        pass
    assert Journal(folder).last_step == 1


def test_frame_that_a_crash_cut_off_is_removed_at_every_length(tmp_path):
    written(tmp_path, 3).close()
    path = only_file(tmp_path)
    whole = path.read_bytes()
    journal = Journal(tmp_path)
    journal.append(entry(4))
    journal.close()
    longer = path.read_bytes()
    for cut in range(len(whole) + 1, len(longer)):
        path.write_bytes(longer[:cut])
        again = Journal(tmp_path)
        assert again.last_step == 3
        assert path.read_bytes() == whole
        again.append(entry(4))
        again.close()
        assert path.read_bytes() == longer


def test_reader_only_leaves_an_unfinished_frame_alone(tmp_path):
    written(tmp_path, 3).close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    assert [e.step for e in Journal(tmp_path, read_only=True).read(1)] == [1, 2]
    assert path.read_bytes() == before


def test_room_that_a_power_cut_left_unwritten_is_removed(tmp_path):
    written(tmp_path, 3).close()
    path = only_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(500))
    assert Journal(tmp_path).last_step == 3
    assert path.read_bytes() == whole


def test_flipped_bit_in_anything_durable_is_corrupt_and_names_the_file(tmp_path, flip):
    journal = written(tmp_path, 3)
    path = only_file(tmp_path)
    durable_bytes = path.stat().st_size
    journal.sync()
    journal.close()
    whole = path.read_bytes()
    for at in range(durable_bytes):
        flip(path, at)
        with pytest.raises(CorruptError, match=str(path)):
            Journal(tmp_path)
        assert len(path.read_bytes()) == len(whole)
        path.write_bytes(whole)
    for at in range(durable_bytes, len(whole)):  # the mark itself: nothing is lost with it
        flip(path, at)
        assert Journal(tmp_path, read_only=True).last_step == 3
        path.write_bytes(whole)


def test_whatever_sectors_a_power_cut_leaves_of_entries_that_were_not_synced_the_journal_ends_with_those_that_were(
    tmp_path,
):
    """An entry may be lost although one behind it is there: sectors reach the disk in any order."""
    journal = written(tmp_path, 20)
    journal.sync()
    path = only_file(tmp_path)
    durable = path.read_bytes()
    for step in range(21, 60):
        journal.append(entry(step))
    journal.close()
    whole = path.read_bytes()
    rng = random.Random(1)
    ends = set()
    for _ in range(300):
        left = bytearray(durable.ljust(rng.randint(len(durable), len(whole)), b"\0"))
        for at in range(0, len(left), 128):  # smaller than any disk's sectors, so that there are many
            if rng.random() < 0.7:
                left[at : at + 128] = whole[at : min(at + 128, len(left))]
        path.write_bytes(left)
        again = Journal(tmp_path)
        ends.add(again.last_step)
        again.append(entry(again.last_step + 1))
        again.close()
        assert [e.step for e in Journal(tmp_path, read_only=True).read(1)] == list(range(1, again.last_step + 1))
    assert min(ends) == 20
    assert max(ends) > 22


def test_journal_of_version_1_is_read_and_gone_on_from_in_a_file_of_this_version(tmp_path, flip):
    frames = [journal_frames.encode_entry(entry(step)) for step in (1, 2, 3)]
    old = journal_frames.encode_head("0123456789abcdef", 1).replace(b"version\x04", b"version\x01")
    body = old[16:]
    old = old[:12] + zlib.crc32(old[8:12] + body).to_bytes(4, "little") + body + b"".join(frames)
    path = tmp_path / "000000000001.journal"
    path.write_bytes(old)
    for at in range(len(old)):
        flip(path, at)
        with pytest.raises((CorruptError, VersionError)):
            Journal(tmp_path)
        path.write_bytes(old)
    journal = Journal(tmp_path)
    assert (journal.lineage, journal.last_step) == ("0123456789abcdef", 3)
    journal.sync()
    journal.append(entry(4))
    journal.sync()
    journal.close()
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.glob("*.journal")) == ["000000000001.journal", "000000000004.journal"]
    assert [e.step for e in Journal(tmp_path).read(1)] == [1, 2, 3, 4]


def test_journal_of_version_1_without_a_step_becomes_one_of_this_version(tmp_path):
    old = journal_frames.encode_head("0123456789abcdef", 1).replace(b"version\x04", b"version\x01")
    path = tmp_path / "000000000001.journal"
    path.write_bytes(old[:12] + zlib.crc32(old[8:12] + old[16:]).to_bytes(4, "little") + old[16:])
    written(tmp_path, 2).close()
    assert [e.step for e in Journal(tmp_path).read(1)] == [1, 2]


def test_flipped_bit_names_the_byte_where_its_frame_begins(tmp_path, flip):
    journal = written(tmp_path, 1)
    start = only_file(tmp_path).stat().st_size
    journal.append(entry(2))
    journal.append(entry(3))
    journal.sync()
    journal.close()
    flip(only_file(tmp_path), start + 20)
    with pytest.raises(CorruptError, match=f"the frame at byte {start} fails its checksum"):
        Journal(tmp_path)


def test_missing_frame_in_the_middle_is_corrupt(tmp_path):
    sizes = []
    journal = Journal(tmp_path)
    for step in (1, 2, 3):
        sizes.append(only_file(tmp_path).stat().st_size)
        journal.append(entry(step))
    journal.close()
    path = only_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: sizes[1]] + data[sizes[2] :])
    with pytest.raises(CorruptError, match="step 3 follows on step 1"):
        Journal(tmp_path)


def test_long_journal_is_several_files_that_read_as_one(tmp_path):
    journal = written(tmp_path, 50, segment_bytes=300)
    journal.close()
    assert len(list(tmp_path.glob("*.journal"))) > 5
    again = Journal(tmp_path, segment_bytes=300)
    assert [e.step for e in again.read(1)] == list(range(1, 51))
    assert [e.step for e in again.read(33)] == list(range(33, 51))
    assert again.lineage == journal.lineage


def test_lost_file_in_the_middle_is_corrupt(tmp_path):
    written(tmp_path, 50, segment_bytes=300).close()
    sorted(tmp_path.glob("*.journal"))[2].unlink()
    with pytest.raises(CorruptError, match="expected"):
        Journal(tmp_path)


def test_trimmed_steps_are_gone_and_said_to_be(tmp_path):
    journal = written(tmp_path, 50, segment_bytes=300)
    files = len(list(tmp_path.glob("*.journal")))
    journal.trim(30)
    assert 1 < journal.first_step <= 30
    assert len(list(tmp_path.glob("*.journal"))) < files
    assert [e.step for e in journal.read(30)] == list(range(30, 51))
    with pytest.raises(DataLossError, match="step 1 was trimmed"):
        next(journal.read(1))
    journal.close()
    assert Journal(tmp_path).last_step == 50


def test_trim_that_the_disk_refuses_is_logged_and_made_up_for(tmp_path, monkeypatch, caplog):
    journal = written(tmp_path, 50, segment_bytes=300)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        journal.trim(30)
    assert "cannot be trimmed, and grows: [Errno 30] Read-only" in caplog.text
    assert [e.step for e in journal.read(1)] == list(range(1, 51))
    journal.trim(30)
    assert journal.first_step > 1


def test_the_file_that_is_written_to_is_never_trimmed(tmp_path):
    journal = written(tmp_path, 50, segment_bytes=300)
    journal.trim(10**6)
    assert len(list(tmp_path.glob("*.journal"))) == 1
    journal.close()
    assert Journal(tmp_path).last_step == 50


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


def test_frame_of_a_later_build_is_named_as_such(tmp_path):
    written(tmp_path, 1).close()
    with only_file(tmp_path).open("ab") as file:
        file.write(journal_frames._frame(msgspec.msgpack.encode({"step": "two"})))
    with pytest.raises(VersionError, match="not one that this build knows"):
        Journal(tmp_path)


def test_folder_that_cannot_be_made_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the step journal .*; choose another folder"):
        Journal(tmp_path / "file" / "journal")


@pytest.mark.parametrize("segment_bytes", [2**20, 1_000])
def test_last_steps_of_a_long_journal_are_found_without_reading_it_again(tmp_path, monkeypatch, segment_bytes):
    monkeypatch.setattr(journal_module, "_STEPS_A_PLACE", 8, raising=False)
    written(tmp_path, 100, segment_bytes=segment_bytes).close()
    journal, decoded = Journal(tmp_path, read_only=True), []
    real = journal_frames._decode

    def decode(*arguments):
        decoded.append(real(*arguments).step)
        return real(*arguments)

    monkeypatch.setattr(journal_frames, "_decode", decode)
    for first in (1, 8, 9, 50, 96, 97, 100):
        assert [each.step for each in journal.read(first)] == list(range(first, 101))
    decoded.clear()
    list(journal.read(98))
    assert len(decoded) <= 8 + 3


GOLDEN = Path(__file__).parents[1] / "golden"
OLD, NEW, NEWER = b'{"seed":0}', b'{"seed":1}', b'{"seed":2}'


def golden_steps() -> list[StepEntry]:
    """Those of the golden files."""
    first = {"features": {0: 5}, "actions": {0: 0}}
    later = {"features": {0: 7}, "actions": {0: 1}}
    begins = {"features": {0: 2}, "actions": {0: 0}}
    stop = {"features": {0: 7}}
    return [
        StepEntry(step=1, ends=first, watermark_ms=9, agree=8, publish=True, begins=begins, stop_at=stop),
        StepEntry(step=2, ends=later, watermark_ms=12, agree=8, released_ms=30, idle={"actions": [0]}),
        StepEntry(step=3, ends=later, watermark_ms=2**63 - 1, agree=8, publish=True, ended=True),
    ]


def write_golden(folder: Path) -> Path:
    """The steps, of which the third is made under other settings."""
    journal = Journal(folder)
    journal.settle(1, OLD)
    for step in golden_steps():
        if step.step == 3:
            journal.settle(3, NEW)
        journal.append(step)
        if step.publish:
            journal.sync()
    journal.close()
    return only_file(folder)


def test_golden_file_is_still_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    golden = (GOLDEN / "journal.v4.bin").read_bytes()
    assert write_golden(tmp_path / "fresh").read_bytes() == golden
    (tmp_path / "000000000001.journal").write_bytes(golden)
    again = Journal(tmp_path)
    assert list(again.read(1)) == golden_steps()
    assert again.settings == {1: OLD, 3: NEW}


def test_golden_file_of_version_3_is_read_and_gone_on_from_in_a_file_with_settings(tmp_path):
    path = tmp_path / "000000000001.journal"
    path.write_bytes((GOLDEN / "journal.v3.bin").read_bytes())
    journal = Journal(tmp_path)
    assert list(journal.read(1)) == golden_steps()
    assert journal.settings == {}
    journal.settle(1, OLD)
    journal.settle(4, NEW)
    journal.append(entry(4))
    journal.close()
    assert path.read_bytes() == (GOLDEN / "journal.v3.bin").read_bytes() + journal_frames.encode_mark(3)
    again = Journal(tmp_path)
    assert (again.settings, again.last_step) == ({1: OLD, 4: NEW}, 4)


def test_settings_hold_from_their_step_on_and_the_later_of_two_for_one_step_counts(tmp_path):
    journal = written(tmp_path, 3)
    journal.settle(1, OLD)
    journal.settle(4, NEW)
    journal.append(entry(4))
    journal.settle(5, NEW)
    journal.settle(5, NEWER)
    journal.settle(3, NEW)  # what is the only way on for steps that wait
    held = {1: OLD, 3: NEW, 4: NEW, 5: NEWER}
    assert list(journal.settings.items()) == list(held.items())
    journal.close()
    again = Journal(tmp_path, read_only=True)
    assert list(again.settings.items()) == list(held.items())
    assert [e.step for e in again.read(1)] == [1, 2, 3, 4]


def test_every_file_begins_with_the_settings_in_force_so_that_trimming_loses_none(tmp_path):
    journal = Journal(tmp_path, segment_bytes=300)
    journal.settle(1, OLD)
    for step in range(1, 51):
        if step in (20, 21):
            journal.settle(step, NEW if step == 20 else NEWER)
        journal.append(entry(step))
    journal.trim(before_step=45)
    journal.close()
    again = Journal(tmp_path)
    assert 21 < again.first_step <= 45
    assert again.settings == {21: NEWER}


def test_settings_that_a_crash_cut_off_are_removed_at_every_length(tmp_path):
    journal = written(tmp_path, 3)
    journal.sync()
    path = only_file(tmp_path)
    whole = path.read_bytes()
    journal.settle(4, NEW)
    journal.close()
    longer = path.read_bytes()
    for cut in range(len(whole) + 1, len(longer)):
        path.write_bytes(longer[:cut])
        again = Journal(tmp_path)
        assert (again.last_step, again.settings) == (3, {})
        assert path.read_bytes() == whole
        again.close()


def test_flipped_bit_in_settings_with_a_durable_step_behind_them_is_corrupt(tmp_path, flip):
    journal = Journal(tmp_path)
    journal.settle(1, OLD)
    path = only_file(tmp_path)
    settled = path.stat().st_size
    journal.append(entry(1))
    journal.sync()
    journal.close()
    whole = path.read_bytes()
    for at in range(settled):
        flip(path, at)
        with pytest.raises(CorruptError, match=str(path)):
            Journal(tmp_path)
        path.write_bytes(whole)


def test_settings_of_a_later_format_are_refused_by_name(tmp_path):
    later = journal_frames.SettingsEntry(settings=OLD, from_step=1, format=2)
    Journal(tmp_path).close()
    with only_file(tmp_path).open("ab") as file:
        file.write(journal_frames.encode_settings(later))
    with pytest.raises(VersionError, match=r"settings at byte \d+ are of format 2, this build reads 1"):
        Journal(tmp_path)


def test_settings_that_the_disk_does_not_take_change_nothing(tmp_path, monkeypatch):
    journal = written(tmp_path, 2)
    journal.settle(1, OLD)
    before = only_file(tmp_path).read_bytes()

    def full(file, data):
        file.write(data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(UnavailableError, match=r"cannot write to the step journal .*No space"):
        journal.settle(3, NEW)
    monkeypatch.undo()
    assert only_file(tmp_path).read_bytes() == before
    assert journal.settings == {1: OLD}
