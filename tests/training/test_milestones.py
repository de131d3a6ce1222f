from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monolith.training.milestones import Milestones

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def snapshot(tmp_path):
    """A folder with files on two levels."""
    folder = tmp_path / "state/snapshots/000000000007"
    (folder / "tables/user").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "tables/user/table.bin").write_bytes(b"rows")
    return folder


def _milestones(tmp_path: Path, **settings) -> Milestones:
    return Milestones(tmp_path / "state", **{"every_s": 3600.0, "keep": 3, **settings})


def test_a_milestone_is_the_snapshot_by_links_and_outlives_it(tmp_path, snapshot):
    milestones = _milestones(tmp_path)
    assert milestones.offer(snapshot, NOON)
    (kept,) = milestones.snapshots()
    assert kept == tmp_path / "state/milestones/20261127T120000.000000Z/000000000007"
    assert os.path.samefile(kept / "tables/user/table.bin", snapshot / "tables/user/table.bin")
    for path in sorted(snapshot.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert (kept / "tables/user/table.bin").read_bytes() == b"rows"


def test_one_is_taken_in_a_while_and_the_newest_stay(tmp_path, snapshot):
    milestones = _milestones(tmp_path)
    taken = [milestones.offer(snapshot, NOON + HOUR * half / 2) for half in range(10)]
    assert taken == [True, False] * 5
    hours = [kept.parent.name[9:13] for kept in milestones.snapshots()]
    assert hours == ["1400", "1500", "1600"]
    assert _milestones(tmp_path).offer(snapshot, NOON + 4.5 * HOUR) is False, "a new process goes by what is there"


def test_one_of_the_future_stops_none(tmp_path, snapshot):
    milestones = _milestones(tmp_path)
    assert milestones.offer(snapshot, NOON + 1000 * HOUR)
    assert milestones.offer(snapshot, NOON)


def test_without_a_time_none_is_taken(tmp_path, snapshot):
    assert not _milestones(tmp_path, every_s=None).offer(snapshot, NOON)
    assert not (tmp_path / "state/milestones").exists()


def test_where_there_are_no_links_files_are_copied(tmp_path, snapshot, monkeypatch):
    monkeypatch.setattr(os, "link", _refuses)
    milestones = _milestones(tmp_path)
    assert milestones.offer(snapshot, NOON)
    (kept,) = milestones.snapshots()
    assert (kept / "tables/user/table.bin").read_bytes() == b"rows"
    assert (kept / "manifest.json").stat().st_mtime == (snapshot / "manifest.json").stat().st_mtime


def _refuses(*_: object) -> None:
    raise OSError("no links here")


def test_what_a_killed_process_left_is_no_milestone_and_goes_with_the_next(tmp_path, snapshot):
    milestones = _milestones(tmp_path)
    left = tmp_path / "state/milestones/.20261127T110000.000000Z.tmp/000000000006"
    left.mkdir(parents=True)
    assert milestones.snapshots() == []
    assert milestones.offer(snapshot, NOON)
    assert not left.exists()


def test_a_disk_that_refuses_is_logged_and_asked_again(tmp_path, snapshot, caplog):
    milestones = _milestones(tmp_path)
    (tmp_path / "state/milestones").write_text("a file where the folder should be")
    assert not milestones.offer(snapshot, NOON)
    assert "no milestone was taken" in caplog.text
    (tmp_path / "state/milestones").unlink()
    assert milestones.offer(snapshot, NOON)
