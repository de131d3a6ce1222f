from __future__ import annotations

from pathlib import Path

import pytest

from monolith.cli import main
from monolith.streaming.source import open_sink


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of two batches: three records, and one whose value is NEEDLE."""
    sink = open_sink(f"log://{tmp_path}/log")
    sink.append([(b"k", b"%d" % n, 1000 + n) for n in range(3)])
    sink.append([(b"k", b"NEEDLE", 2000)])
    sink.close()
    return tmp_path / "log"


def code_of(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def test_head_ends_with_the_records_there_are(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert code_of("inspect", f"log://{folder}", "--head", "9") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["0", "1", "2", "NEEDLE"]


def test_head_that_meets_a_damaged_record_ends_in_the_error(folder: Path, capsys: pytest.CaptureFixture[str]):
    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"NEEDLE", b"NEEDLF"))
    assert code_of("inspect", f"log://{folder}", "--head", "9") == 1
    out, err = capsys.readouterr()
    assert "0:2 " in out
    assert "batch of offset 3 cannot be read" in err
