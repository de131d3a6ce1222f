from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import msgspec
import pytest
from journals import entry, only_file, written

from monolith.errors import ConfigError, CorruptError, DataLossError, VersionError
from monolith.streaming import journal as journal_module
from monolith.streaming import journal_frames
from monolith.streaming.journal import Journal, held


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
