from __future__ import annotations

from pathlib import Path

import pytest

from monolith import cli
from monolith.datasets import ml100k_origin
from monolith.streaming.source import open_source


def test_data_get_says_whose_it_is_and_where_it_is(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(ml100k_origin, "get", lambda folder: (folder, "from a test, checksum matches"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "get", "ml-100k", "--to", str(tmp_path)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "GroupLens" in said
    assert "Harper and Joseph A. Konstan" in said
    assert f"ml-100k: {tmp_path} (from a test, checksum matches)" in said


def test_data_write_appends_a_stream_to_two_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    urls = [f"log://{tmp_path / name}" for name in ("features", "actions")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "write", "synthetic", "--events", "600", "--features", urls[0], "--actions", urls[1]])
    assert ended.value.code == 0
    features, actions = (sum(open_source(url).end_position().values()) for url in urls)
    assert features == 600
    assert (
        f"{features + actions:,} events of 600 impressions written to {urls[0]} and {urls[1]}"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("rate", ["0", "-3", "nan"])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str):
    url = f"log://{tmp_path / 'x'}"
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "write", "synthetic", "--features", url, "--actions", url, f"--rate={rate}"])
    assert ended.value.code == 1
    assert f"--rate is {rate}; it takes events a second, above 0" in capsys.readouterr().err
