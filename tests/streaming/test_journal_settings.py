from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from journals import entry, only_file, written

from monolith.errors import CorruptError, UnavailableError, VersionError
from monolith.streaming import journal as journal_module
from monolith.streaming import journal_frames
from monolith.streaming.journal import Journal, StepEntry

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
