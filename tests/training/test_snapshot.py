"""Snapshots are whole or not there, and a flipped byte anywhere is found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from monolith.errors import ConfigError, CorruptError, UnavailableError, VersionError
from monolith.training.snapshot import MANIFEST, SNAPSHOT_VERSION, Manifest, Snapshots, find_snapshot, open_snapshot


def manifest(step: int) -> Manifest:
    return Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=step, sequence=step * 2, job={"name": "m"})


def fill(folder: Path) -> None:
    (folder / "user").mkdir()
    (folder / "user" / "table.bin").write_bytes(b"rows" * 100)


PARTS = {"tables": fill, "dense.safetensors": b"weights" * 50}


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
