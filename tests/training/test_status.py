"""What a trainer says of itself, also where the disk does not take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.progress import Progress
from monolith.training.status import Status, StatusFile, read_status


def status(samples: int = 7) -> Status:
    return Status(
        model="m", lineage="l", step=3, sequence=2, stored_sequence=1, samples=samples, lag=0, watermark_ms=5,
        ended=False, metrics={}, tables={},
    )  # fmt: skip


def test_what_is_written_is_read_back(tmp_path):
    StatusFile(tmp_path / "status.json").write(status())
    assert read_status(tmp_path / "status.json").samples == 7
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_where_none_was_written_there_is_none(tmp_path):
    assert read_status(tmp_path / "status.json") is None


@pytest.mark.parametrize("refused", ["write_bytes", "replace"])
def test_disk_that_refuses_costs_the_report_and_not_the_training(tmp_path, monkeypatch, refused):
    """A read-only one refuses to remove the scratch file as well."""
    seen: list[Status] = []
    file = StatusFile(tmp_path / "status.json", observers=[seen.append])
    file.write(status(1))
    with monkeypatch.context() as patch:
        for name in (refused, "unlink"):
            patch.setattr(Path, name, lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        file.write(status(2))
    assert [each.samples for each in seen] == [1, 2]
    assert read_status(tmp_path / "status.json").samples == 1


def test_folder_that_is_gone_costs_the_report_and_not_the_training(tmp_path):
    StatusFile(tmp_path / "gone" / "status.json").write(status())
    assert not (tmp_path / "gone").exists()


def test_what_became_of_the_records_is_told(tmp_path):
    told = status()
    told.streams = Progress(
        records=9, dead_letters={"ahead": 2}, joined=JoinCounters(late=3), missing={"kafka://b/t": "away"}
    )
    told.warnings = ["raise join.window_s"]
    StatusFile(tmp_path / "status.json").write(told)
    again = read_status(tmp_path / "status.json")
    assert again.streams.dropped() == {"rejected ahead": 2, "late positives": 3}
    assert (again.streams, again.warnings) == (told.streams, ["raise join.window_s"])
