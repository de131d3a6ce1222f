"""Files that survive a power cut, and what helps against a disk that refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from monolith.disk import bytes_below, make_folder, remedy, scratch_beside, write_durably


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_only_missing_room_asks_for_room(code):
    assert "make room" in remedy(error(code))
    others = [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.ENOENT, errno.EMFILE, errno.ENXIO]
    assert not any("room" in remedy(error(other)) for other in others)


def test_an_error_that_has_only_the_systems_words_is_known_by_them():
    assert remedy(lmdb.Error(f"mdb_put: {os.strerror(errno.EROFS)}")) == remedy(error(errno.EROFS))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_durably(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(error(errno.EIO)))
        with pytest.raises(OSError, match="Input/output"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_with_all_that_it_lies_in_and_each_name_is_made_durable(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr("monolith.disk.sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]


def test_room_is_that_of_all_files_below_and_none_for_what_is_gone(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "a" / "circle").symlink_to("circle")
    assert 10_000 <= bytes_below(tmp_path) <= 20_000
    assert bytes_below(tmp_path / "nowhere") == 0


def test_a_file_with_two_names_takes_room_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 5000)
    once = bytes_below(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert bytes_below(tmp_path) == once
    assert bytes_below(tmp_path / "b") == once


def test_what_a_killed_process_left_beside_a_file_is_removed_and_a_living_ones_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".set.{dead.pid}.tmp", f".set.{os.getppid()}.tmp", ".set.word.tmp", f".other.{dead.pid}.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    (tmp_path / f".file.{dead.pid}.tmp").write_text("x")
    assert scratch_beside(tmp_path / "set") == tmp_path / f".set.{os.getpid()}.tmp"
    assert scratch_beside(tmp_path / "file") == tmp_path / f".file.{os.getpid()}.tmp"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
