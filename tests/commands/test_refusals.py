"""Paths and disks that refuse: each told in one line that names the place, never as a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monolith.cli import main
from monolith.commands.export import _write
from monolith.commands.inspect import moment
from monolith.errors import UnavailableError


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a failing command says on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def odd_journal(tmp_path: Path) -> Path:
    """A state folder whose journal has a folder where a file should be."""
    (tmp_path / "state" / "journal" / "000000000001.journal").mkdir(parents=True)
    return tmp_path / "state"


def test_an_error_that_nobody_had_more_to_say_of_is_one_line(odd_journal, capsys):
    line = one_line(capsys, "inspect", str(odd_journal))
    assert line.startswith("monolith inspect: [Errno 21] Is a directory: ")
    assert line.endswith("000000000001.journal'")


def test_with_the_log_level_debug_it_is_a_traceback(odd_journal):
    with pytest.raises(IsADirectoryError):
        main(["--log-level", "debug", "inspect", str(odd_journal)])


@pytest.mark.parametrize("out", ["folder.csv", "no/such/folder.parquet", "file/x.parquet"])
def test_export_names_the_file_that_it_cannot_write(tmp_path, out):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("kept")
    chunk = (np.arange(3), np.zeros((3, 2), np.float32))
    with pytest.raises(UnavailableError, match=rf"cannot write .*{out}: "):
        _write([chunk], 2, tmp_path / out)
    assert (tmp_path / "folder.csv").is_dir()
    assert (tmp_path / "file").read_text() == "kept"


def test_export_that_a_disk_ends_leaves_no_half_file(tmp_path):
    def chunks():
        yield np.arange(3), np.zeros((3, 2), np.float32)
        raise OSError(28, "No space left on device")

    with pytest.raises(UnavailableError, match=r"cannot write .*x\.parquet: \[Errno 28\] No space"):
        _write(chunks(), 2, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("time_ms", [10**15, 2**62, -(2**62)])
def test_a_time_that_no_calendar_has_is_told_in_ms(time_ms):
    assert moment(time_ms) == f"{time_ms} ms"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers 0: give the number of processes, 1 or more"),
        (
            ["--workers", "2", "--max-restarts", "-1"],
            "--max-restarts -1: give how often all may start again, 0 or more",
        ),
        (["--max-restarts", "3"], "--max-restarts belongs to --workers: give that too, or give it to torchrun"),
    ],
)
def test_numbers_of_processes_and_restarts_that_cannot_be_are_refused(tmp_path, capsys, words, said):
    job = tmp_path / "job.yaml"
    job.write_text(f"{{name: j, input: {{samples: 'log://{tmp_path}/s'}}, tables: [{{name: user, dim: 4}}]}}")
    assert one_line(capsys, "train", str(job), *words) == f"monolith train: ConfigError: {said}"


def test_a_command_of_which_torchrun_started_several_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = one_line(capsys, "replay", "job.yaml", "--state", str(tmp_path / "new"))
    assert line.startswith("monolith replay: ConfigError: monolith replay runs in one process, and torchrun started 2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "cannot read the job file" in one_line(capsys, "replay", "job.yaml", "--state", str(tmp_path / "new"))
