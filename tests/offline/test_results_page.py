"""docs/results.md: made of what is kept beside it, and made anew by a short run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from monolith import cli
from monolith.offline.cells import Prepared

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "bench" / "results.py"


def script():
    spec = importlib.util.spec_from_file_location("results_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_results_is_what_their_figures_give():
    report = json.loads((CHECKOUT / "docs/results.json").read_text())
    report["baselines"] = json.loads((CHECKOUT / "bench/baselines.json").read_text())
    assert (CHECKOUT / "docs/results.md").read_text() == script().page(report)
    assert all((CHECKOUT / "docs" / f"results-{data}.svg").is_file() for data in script().plotted(report))


def test_a_short_run_of_everything_makes_the_page(planted: Prepared, tmp_path: Path):
    words = ["--data", str(planted.folder), "--dir", str(tmp_path / "ctr"), "--seeds", "2", "--epochs", "1"]
    words += ["--dim", "4", "--set", "model.hidden=[8]", "--models", "mlp", "--kinds", "collisionless,hashed,unified"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "ctr", *words, "--bytes", "9k"])
    assert ended.value.code == 0
    speed = [sys.executable, str(CHECKOUT / "bench/offline.py"), "--models", "fm", "--rows", "500", "--features", "3"]
    speed += ["--batch", "100", "--ids", "50", "--rounds", "1", "--json", str(tmp_path / "speed.json")]
    page = [sys.executable, str(SCRIPT), "--ctr", str(tmp_path / "ctr"), "--speed", str(tmp_path / "speed.json")]
    for command in (speed, [*page, "--out", str(tmp_path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "results.md").read_text()
    assert "| planted | mlp | 9,000 | unified |" in text
    assert "| fm | " in text.split("## Speed of training")[1]
    assert str(tmp_path) not in text
    assert (tmp_path / "results-planted.svg").is_file()
