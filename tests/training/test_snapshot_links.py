"""A file that stays is linked to from snapshot to snapshot, so that each is whole whatever happens to another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from small_snapshot import PARTS, manifest

from monolith.training.snapshot import (
    MANIFEST,
    LostFileError,
    Snapshots,
    open_snapshot,
)

ROWS = "joiner/waiting-000001.rows"


FIRST = {**PARTS, ROWS: b"waiting" * 1000}


LATER = {**PARTS, ROWS: None, "joiner/waiting-000002.rows": b"more"}


LAST = {**PARTS, ROWS: None, "joiner/waiting-000002.rows": None}


def inode(path: Path) -> int:
    return (path / ROWS).stat().st_ino


def test_a_file_that_stays_is_linked_to_but_never_by_the_next_snapshot(tmp_path):
    snapshots = Snapshots(tmp_path, keep=5)
    paths = [snapshots.write(manifest(step), parts) for step, parts in enumerate((FIRST, LATER, LAST, LAST, LAST))]
    inodes = [inode(path) for path in paths]
    assert inodes == [inodes[0], inodes[1], inodes[0], inodes[1], inodes[0]]
    assert inodes[0] != inodes[1]
    for path in paths:
        assert open_snapshot(path).read(ROWS) == FIRST[ROWS]
    assert open_snapshot(paths[3]).read("joiner/waiting-000002.rows") == b"more"


def test_with_room_for_two_every_file_is_in_two_places_and_what_nobody_names_goes(tmp_path):
    snapshots = Snapshots(tmp_path, keep=2)
    for step, parts in enumerate((FIRST, LATER, LAST, LAST, LAST)):
        snapshots.write(manifest(step), parts)
    left, right = (snapshots.path(step) for step in snapshots.steps())
    assert inode(left) != inode(right)
    assert (left / ROWS).stat().st_nlink == (right / ROWS).stat().st_nlink == 1
    again = {**PARTS, "joiner/waiting-000002.rows": None}
    assert not (snapshots.write(manifest(9), again) / ROWS).exists()


@pytest.mark.parametrize("name", [MANIFEST, ROWS, "joiner/waiting-000002.rows", "dense.safetensors"])
def test_damage_in_place_to_any_file_of_the_newest_leaves_the_one_before_whole(tmp_path, name):
    snapshots = Snapshots(tmp_path)
    for step, parts in enumerate((FIRST, LATER, LAST, LAST)):
        newest = snapshots.write(manifest(step), parts)
    with (newest / name).open("r+b") as file:
        file.write(b"\xff\xff")
    assert Snapshots(tmp_path).newest().manifest.step == 2


def test_where_one_snapshot_is_kept_it_is_linked_to(tmp_path):
    snapshots = Snapshots(tmp_path, keep=1)
    first = inode(snapshots.write(manifest(1), FIRST))
    assert inode(snapshots.write(manifest(2), LATER)) == first
    assert snapshots.steps() == [2]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_disk_without_links_gets_copies(tmp_path, monkeypatch, code):
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    snapshots = Snapshots(tmp_path)
    for step, parts in enumerate((FIRST, LATER, LAST, LAST)):
        newest = snapshots.write(manifest(step), parts)
    assert open_snapshot(newest).read(ROWS) == FIRST[ROWS]


def test_a_file_that_no_earlier_snapshot_has_is_asked_for(tmp_path):
    with pytest.raises(LostFileError, match=ROWS):
        Snapshots(tmp_path).write(manifest(1), LATER)
    Snapshots(tmp_path).write(manifest(1), FIRST)
    with pytest.raises(LostFileError, match=ROWS):
        Snapshots(tmp_path).write(manifest(2), LATER)  # what another process wrote may be of the same name
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


@pytest.mark.parametrize("how", ["flipped", "shorter", "gone"])
def test_a_damaged_file_is_not_copied_into_the_next_snapshot(tmp_path, how):
    snapshots = Snapshots(tmp_path)
    path = snapshots.write(manifest(1), FIRST) / ROWS
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"Waiting" * (1000 if how == "flipped" else 9))
    with pytest.raises(LostFileError):
        snapshots.write(manifest(2), LATER)
    assert snapshots.write(manifest(2), FIRST).is_dir()
