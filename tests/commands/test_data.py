from __future__ import annotations

from pathlib import Path

import pytest

from monolith import cli
from monolith.datasets import ml100k_origin


def test_data_get_says_whose_it_is_and_where_it_is(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(ml100k_origin, "get", lambda folder: (folder, "from a test, checksum matches"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "get", "ml-100k", "--to", str(tmp_path)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "GroupLens" in said
    assert "Harper and Joseph A. Konstan" in said
    assert f"ml-100k: {tmp_path} (from a test, checksum matches)" in said
