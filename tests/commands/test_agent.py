"""torchrun as `monolith train --workers` starts it: how long ranks have to end, and how it ends itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(sys.argv[1])
    if os.environ["RANK"] == "1":
        while not (folder / "waits").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (folder / "waits").touch()
    while not asked:
        time.sleep(0.01)
    time.sleep(15)
    (folder / "outlived").touch()
"""


@pytest.mark.timeout(120)
def test_a_rank_that_does_not_end_has_the_time_that_it_is_given_and_no_more(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text("\n".join(line.removeprefix("    ") for line in RANK.splitlines()))
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "0", "--shutdown-timeout", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "monolith.commands.agent", *words, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert (tmp_path / "waits").exists()
    assert not (tmp_path / "outlived").exists(), "the rank had 15 s, where 1 s was said"
    assert f"exitcode: -{signal.SIGKILL.value}" in ended.stderr
    assert "Traceback" not in ended.stderr
