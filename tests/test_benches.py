"""Every benchmark can still be loaded: what it imports from the package is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHES = Path(__file__).parents[1] / "bench"


def test_every_benchmark_finds_what_it_imports():
    names = sorted(path.stem for path in BENCHES.glob("*.py"))
    assert len(names) > 20
    imports = f"import sys; sys.path.insert(0, {str(BENCHES)!r})\nimport {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_benchmark_of_offline_training_compares_each_model_on_a_few_rows():
    words = ["--rows", "600", "--batch", "200", "--ids", "50", "--features", "3", "--rounds", "1"]
    command = [sys.executable, str(BENCHES / "offline.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["lr", "fm", "deepfm", "dcnv2"]
