"""What a start takes for what ranks left behind, and why it does not go on with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from monolith.errors import CorruptError
from monolith.training.sharding.rescue import About, Place, Rescuer, fault, found, part_folder, rescuing
from monolith.training.snapshot import file_entry

STEP = 7


def left(state: Path, rank: int, *, step: int = STEP, ranks: int = 3, dense: int = 0, attempt: str = "a") -> Path:
    """As a rank leaves it that ended ``step`` and began a batch of the next, with a file in a table's place."""
    folder = state / "rescue" / attempt / f"{rank:04d}"
    (folder / "user" / f"{rank:04d}").mkdir(parents=True)
    paths = [folder / "dense.safetensors", folder / "user" / f"{rank:04d}" / "table.bin"]
    for path in paths:
        path.write_bytes(b"dense of %d" % rank)
    files = {str(path.relative_to(folder)): file_entry(path) for path in paths}
    about = About(1, rank, ranks, Place(step, begun=1, applied=1, dense=dense), files)
    (folder / "rescue.json").write_bytes(msgspec.json.encode(about))
    return folder


def test_a_rank_that_was_ended_while_it_wrote_counts_as_lost(tmp_path):
    left(tmp_path, 0)
    left(tmp_path, 2).rename(tmp_path / "rescue" / "a" / "0002.tmp")
    (left(tmp_path, 1) / "rescue.json").unlink()
    rescue = found(tmp_path)
    assert rescue is not None
    assert (rescue.lost, rescue.step) == ([1, 2], STEP + 1)
    assert found(tmp_path / "elsewhere") is None


def test_of_several_attempts_the_one_that_came_furthest_counts(tmp_path):
    left(tmp_path, 0)
    left(tmp_path, 0, step=STEP + 2, attempt="b")
    rescue = found(tmp_path)
    assert rescue is not None
    assert rescue.folder.name == "b"


def test_the_dense_part_is_that_of_the_rank_which_came_furthest_with_it(tmp_path):
    left(tmp_path, 0)
    left(tmp_path, 2, dense=1)
    rescue = found(tmp_path)
    assert rescue is not None
    assert rescue.dense() == b"dense of 2"


@pytest.mark.parametrize(
    ("ranks", "since", "until", "journalled", "reason"),
    [
        (3, 5, None, 8, None),
        (2, 5, None, 8, "it is of 3 ranks, and now there are 2"),
        (3, 5, None, 7, "it is of step 8, and the step journal ends at step 7"),
        (3, 5, 6, 9, "other settings hold after step 6, before its step 8"),
        (3, 9, None, 9, "its ranks stood at steps 8 to 8, the snapshot is of step 9"),
    ],
)
def test_what_does_not_fit_the_start_is_refused_with_the_reason(tmp_path, ranks, since, until, journalled, reason):
    left(tmp_path, 0)
    left(tmp_path, 2)
    rescue = found(tmp_path)
    assert rescue is not None
    assert fault(rescue, ranks, since=since, until=until, journalled=journalled) == reason


def test_ranks_that_stood_apart_are_refused(tmp_path):
    left(tmp_path, 0)
    left(tmp_path, 2, step=STEP + 3)
    rescue = found(tmp_path)
    assert rescue is not None
    assert "stood at steps 8 to 11" in str(fault(rescue, 3, since=5, until=None, journalled=20))


def test_a_part_that_was_damaged_or_is_not_there_is_refused_by_name(tmp_path):
    folder = left(tmp_path, 2)
    part = part_folder(folder.parent, 2, "user", 2)
    assert part == folder / "user" / "0002"
    with pytest.raises(CorruptError, match="has no part 1 of table 'user'"):
        part_folder(folder.parent, 2, "user", 1)
    (part / "table.bin").write_bytes(b"dense of 3")
    with pytest.raises(CorruptError, match=r"table.bin is damaged"):
        part_folder(folder.parent, 2, "user", 2)


def test_nothing_is_left_by_a_rank_that_was_not_told_to(tmp_path):
    with rescuing() as rescuer:
        assert isinstance(rescuer, Rescuer)
        rescuer.take()
        rescuer.write()
    assert list(tmp_path.iterdir()) == []
