"""The journal says where a run went on without what it had lost."""

from __future__ import annotations

import os

import pytest
from journals import entry, only_file, written

from monolith.errors import CorruptError, VersionError
from monolith.streaming import journal_frames
from monolith.streaming.journal import Journal, RecoveryEntry

LOST = RecoveryEntry(recovered_after=3, snapshot=1, lost=[1], ranks=2)


def test_a_recovery_is_there_when_the_journal_is_opened_again_and_steps_go_on(tmp_path):
    journal = written(tmp_path, 3)
    journal.recovered(LOST)
    journal.append(entry(4))
    journal.close()
    again = Journal(tmp_path, read_only=True)
    assert again.recoveries == [LOST]
    assert [each.step for each in again.read(1)] == [1, 2, 3, 4]


def test_a_recovery_that_is_repeated_after_a_crash_is_written_once(tmp_path):
    journal = written(tmp_path, 3)
    journal.recovered(LOST)
    journal.recovered(LOST)
    journal.close()
    again = Journal(tmp_path)
    again.recovered(LOST)
    assert again.recoveries == [LOST]
    again.close()
    frames = [each for each, _ in journal_frames.read_frames(only_file(tmp_path))]
    assert frames.count(LOST) == 1


def test_a_build_that_does_not_know_the_frame_refuses_the_journal(tmp_path, monkeypatch):
    journal = written(tmp_path, 3)
    journal.recovered(LOST)
    journal.close()
    monkeypatch.setattr(journal_frames, "_RECOVERY_KEY", b"no such key")
    with pytest.raises(VersionError, match="is not one that this build knows"):
        Journal(tmp_path)


def test_a_flipped_bit_in_a_recovery_with_a_durable_step_behind_it_is_corrupt(tmp_path, flip):
    journal = written(tmp_path, 3)
    journal.sync()
    begin = os.path.getsize(only_file(tmp_path))
    journal.recovered(LOST)
    end = os.path.getsize(only_file(tmp_path))
    journal.append(entry(4))
    journal.sync()
    journal.close()
    flip(only_file(tmp_path), (begin + end) // 2)
    with pytest.raises(CorruptError):
        Journal(tmp_path)
