"""Snapshots are whole or not there, and a flipped byte anywhere is found."""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from small_snapshot import PARTS, manifest

from monolith.errors import ConfigError, CorruptError, UnavailableError, VersionError
from monolith.training.snapshot import (
    MANIFEST,
    SNAPSHOT_VERSION,
    Snapshots,
    find_snapshot,
    open_snapshot,
)


def test_what_is_written_is_read_back(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(7), PARTS)
    newest = snapshots.newest()
    assert newest.manifest.step == 7
    assert newest.manifest.sequence == 14
    assert newest.read("dense.safetensors") == PARTS["dense.safetensors"]
    assert newest.read("tables/user/table.bin") == b"rows" * 100


def test_equal_states_write_equal_bytes(tmp_path):
    left, right = (
        Snapshots(tmp_path / "a").write(manifest(7), PARTS),
        Snapshots(tmp_path / "b").write(manifest(7), PARTS),
    )
    assert (left / MANIFEST).read_bytes() == (right / MANIFEST).read_bytes()


def test_only_the_newest_are_kept(tmp_path):
    snapshots = Snapshots(tmp_path, keep=2)
    for step in (1, 2, 3):
        snapshots.write(manifest(step), PARTS)
    assert snapshots.steps() == [2, 3]


def test_no_snapshot_is_none(tmp_path):
    assert Snapshots(tmp_path / "nothing").newest() is None


@pytest.mark.parametrize("name", [MANIFEST, "dense.safetensors", "tables/user/table.bin"])
def test_a_flipped_byte_anywhere_is_found(tmp_path, name):
    path = Snapshots(tmp_path).write(manifest(7), PARTS)
    whole = (path / name).read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x01
        (path / name).write_bytes(damaged)
        with pytest.raises(CorruptError, match=str(path)):
            open_snapshot(path)
    (path / name).write_bytes(whole)
    open_snapshot(path)


def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path, caplog):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)
    newest = snapshots.write(manifest(2), PARTS)
    (newest / "dense.safetensors").write_bytes(b"short")
    assert snapshots.newest().manifest.step == 1
    assert "damaged" in caplog.text


def test_if_all_are_damaged_it_says_so(tmp_path):
    snapshots = Snapshots(tmp_path)
    (snapshots.write(manifest(1), PARTS) / "dense.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"every snapshot is damaged.*missing"):
        snapshots.newest()


def test_another_format_version_is_refused(tmp_path):
    path = Snapshots(tmp_path).write(msgspec.structs.replace(manifest(1), version=99), PARTS)
    with pytest.raises(VersionError, match="version 99"):
        open_snapshot(path)


def test_a_folder_without_a_manifest_is_no_snapshot(tmp_path):
    with pytest.raises(ConfigError, match="no snapshot"):
        open_snapshot(tmp_path)


def test_a_write_that_fails_leaves_the_earlier_ones(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)

    def full(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(UnavailableError, match="No space left"):
        snapshots.write(manifest(2), {"tables": full})
    assert snapshots.newest().manifest.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]


def test_a_snapshot_is_found_by_its_own_folder_or_as_the_newest_of_a_state_folder(tmp_path):
    snapshots = Snapshots(tmp_path / "snapshots")
    for step in (1, 2):
        snapshots.write(manifest(step), PARTS)
    assert find_snapshot(snapshots.path(1)).manifest.step == 1
    assert find_snapshot(tmp_path).manifest.step == 2


def test_a_folder_without_snapshots_is_said_to_hold_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="holds no snapshot; name a snapshot folder or a job's state folder"):
            find_snapshot(folder)


def twist(path: Path, how: str) -> None:
    """Make the snapshot in ``path`` unusable in some way."""
    manifest_path = path / MANIFEST
    if how in ("empty folder", "file", "link in a circle"):
        shutil.rmtree(path)
    match how:
        case "no manifest":
            manifest_path.unlink()
        case "empty folder":
            path.mkdir()
        case "file":
            path.write_bytes(b"what is this?")
        case "link in a circle":
            path.symlink_to(path.name)
        case "truncated manifest":
            manifest_path.write_bytes(manifest_path.read_bytes()[:-40])
        case "empty manifest":
            manifest_path.write_bytes(b"")
        case "a folder as manifest":
            manifest_path.unlink()
            manifest_path.mkdir()
        case "a list as manifest":
            manifest_path.write_bytes(b"[1, 2]")
        case "a manifest of another shape":
            fields = {"version": SNAPSHOT_VERSION, "files": [], "crc32": 0}
            fields["crc32"] = zlib.crc32(msgspec.json.encode(fields))
            manifest_path.write_bytes(msgspec.json.encode(fields))
        case "deeply nested":
            manifest_path.write_bytes(b"[" * 100_000)
        case "a flipped version":
            manifest_path.write_bytes(manifest_path.read_bytes().replace(b'"version": 3', b'"version": 2'))
        case "a missing file":
            (path / "dense.safetensors").unlink()
        case "a folder as file":
            (path / "dense.safetensors").unlink()
            (path / "dense.safetensors").mkdir()
        case "a truncated file":
            (path / "dense.safetensors").write_bytes(b"")
        case "another step's":
            shutil.rmtree(path)
            shutil.copytree(path.with_name("000000000001"), path)


WAYS = [
    "no manifest",
    "empty folder",
    "file",
    "link in a circle",
    "truncated manifest",
    "empty manifest",
    "a folder as manifest",
    "a list as manifest",
    "a manifest of another shape",
    "deeply nested",
    "a flipped version",
    "a missing file",
    "a folder as file",
    "a truncated file",
    "another step's",
]


@pytest.mark.parametrize("how", WAYS)
def test_whatever_makes_the_newest_unusable_the_one_before_takes_its_place(tmp_path, caplog, how):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)
    twist(snapshots.write(manifest(2), PARTS), how)
    assert Snapshots(tmp_path).newest().manifest.step == 1
    assert "snapshot unusable, trying the one before" in caplog.text
    assert "going on from the snapshot of step=1" in caplog.text


@pytest.mark.parametrize("how", WAYS)
def test_what_is_unusable_never_takes_the_place_of_a_snapshot_that_is_kept(tmp_path, how):
    """With room for two, the one gone on from and the new one stay, whatever lies between them."""
    before = Snapshots(tmp_path, keep=4)
    for step in (1, 5, 6, 7):
        before.write(manifest(step), PARTS)
    for step in (5, 6, 7):
        twist(before.path(step), how)
    again = Snapshots(tmp_path, keep=2)
    assert again.newest().manifest.step == 1
    again.write(manifest(6), PARTS)
    assert again.steps() == [1, 6], "the journal is trimmed behind the first of these"
    again.write(manifest(10), PARTS)
    assert again.steps() == again.named() == [6, 10]
    assert Snapshots(tmp_path).newest().manifest.step == 10


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_a_newest_that_the_disk_does_not_let_be_read_is_passed_over(tmp_path, monkeypatch, caplog, code):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)
    newest = snapshots.write(manifest(2), PARTS)
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.is_relative_to(newest):
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert snapshots.newest().manifest.step == 1
    assert f"000000000002 cannot be read: [Errno {code}]" in caplog.text


def test_a_newest_of_a_later_format_stops_since_passing_over_it_would_lose_work(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)
    snapshots.write(msgspec.structs.replace(manifest(2), version=99), PARTS)
    with pytest.raises(VersionError, match="version 99"):
        snapshots.newest()


@pytest.mark.parametrize("name", ["7", "0000000000009", "²", "٣", "lost+found", "000000000009.bak"])
def test_what_no_trainer_can_have_named_is_neither_a_snapshot_nor_touched(tmp_path, name):
    (tmp_path / name).mkdir()
    snapshots = Snapshots(tmp_path, keep=1)
    for step in (1, 2):
        snapshots.write(manifest(step), PARTS)
    snapshots.remove_leftovers()
    assert snapshots.steps() == snapshots.named() == [2]
    assert snapshots.newest().manifest.step == 2
    assert snapshots.strangers() == [tmp_path / name]


def test_snapshots_that_are_a_file_are_no_empty_folder(tmp_path):
    (tmp_path / "snapshots").write_text("")
    with pytest.raises(UnavailableError, match=r"cannot list the snapshots: .*Not a directory"):
        Snapshots(tmp_path / "snapshots").newest()


def test_leftovers_of_killed_processes_go(tmp_path, caplog):
    caplog.set_level("INFO")
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest(1), PARTS)
    for name in (".000000000002.tmp", ".000000000003.tmp", ".000000000001.old.tmp"):
        fill_folder = tmp_path / name
        fill_folder.mkdir()
        (fill_folder / "half").write_bytes(b"x" * 5000)
    assert len(snapshots.leftovers()) == 3
    snapshots.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]
    assert "removed count=3 bytes=" in caplog.text


@pytest.mark.parametrize("at", range(12))
def test_a_process_killed_while_it_drops_an_old_snapshot_leaves_no_half_one(tmp_path, monkeypatch, at):
    """Whatever call on the disk is the last one, what is named as a snapshot is a whole one."""
    before = Snapshots(tmp_path, keep=1)
    before.write(manifest(1), PARTS)
    calls = iter(range(at))

    def until_killed(real):
        def call(*args: object, **more: object):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*args, **more)

        return call

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        for name in ("unlink", "rmdir", "rename"):
            patch.setattr(os, name, until_killed(getattr(os, name)))
        before.write(manifest(2), PARTS)
    again = Snapshots(tmp_path)
    for step in again.named():
        open_snapshot(again.path(step))
    assert again.newest() is not None


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "make room"), (errno.EACCES, "give it the right"), (errno.EROFS, "mount it")]
)
def test_a_write_that_fails_says_what_helps_against_that_very_error(tmp_path, code, advice):
    def refused(_: Path) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(UnavailableError, match=advice) as error:
        Snapshots(tmp_path).write(manifest(2), {"tables": refused})
    assert ("room" in str(error.value)) == (code == errno.ENOSPC)


def test_a_snapshot_whose_name_is_not_known_to_be_on_the_disk_replaces_no_older_one(tmp_path, monkeypatch):
    snapshots = Snapshots(tmp_path, keep=1)
    snapshots.write(manifest(1), PARTS)
    with monkeypatch.context() as patch:
        patch.setattr("monolith.training.snapshot.sync_folder", _fails_on(tmp_path))
        with pytest.raises(UnavailableError, match="Input/output error"):
            snapshots.write(manifest(2), PARTS)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


def _fails_on(folder: Path):
    def sync(path: Path) -> None:
        if path == folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return sync


# --- files that later snapshots keep ----------------------------------------------------------------------------------
