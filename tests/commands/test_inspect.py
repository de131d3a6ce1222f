from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from monolith.cli import main
from monolith.events import FeatureEvent
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetter
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
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [record["text"] for record in shown] == ["0", "1", "2", "NEEDLE"]
    assert [record["event_time_ms"] for record in shown] == [1000, 1001, 1002, 2000]


def test_head_shows_events_and_dead_letters_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    event = FeatureEvent("r", "i", 5, {"user": 7, "tags": ["a"]})
    letter = DeadLetter(
        reason="feature_type", detail="no integer", key=b"r", value=encode(event), stream="features", partition=0,
        offset=3, event_time_ms=5, ingestion_time_ms=6,
    )  # fmt: skip
    sink = open_sink(f"log://{tmp_path}/both")
    sink.append([(b"r", encode(event), 5), (b"l", msgspec.msgpack.encode(letter), 5), (b"x", b"\xff\x00", 5)])
    sink.close()
    assert code_of("inspect", f"log://{tmp_path}/both", "--head", "9") == 0
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines()[2:])
    assert first["event"]["features"] == {"user": 7, "tags": ["a"]}
    assert (second["letter"]["reason"], second["record"]["event"]) == ("feature_type", first["event"])
    assert base64.b64decode(third["bytes"]) == b"\xff\x00"


def test_head_that_meets_a_damaged_record_ends_in_the_error(folder: Path, capsys: pytest.CaptureFixture[str]):
    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"NEEDLE", b"NEEDLF"))
    assert code_of("inspect", f"log://{folder}", "--head", "9") == 1
    out, err = capsys.readouterr()
    assert '"offset":2' in out
    assert "batch of offset 3 cannot be read" in err
