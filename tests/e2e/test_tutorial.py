"""The tutorial's commands, as they stand on the page, on a file such as it describes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
ROWS = 20_000


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def write_clicks(path: Path) -> None:
    """A file with the page's columns, in which users and ads have tastes that can be learnt."""
    rng = np.random.default_rng(7)
    user, ad = rng.integers(0, 2_000, ROWS), rng.integers(0, 200, ROWS)
    price = np.exp(rng.normal(2.5, 0.9, ROWS))
    taste, charm = rng.normal(0, 1.5, 2_000), rng.normal(0, 1.5, 200)
    click = rng.random(ROWS) < 1 / (1 + np.exp(-(taste[user] + charm[ad] - 0.05 * price)))
    words = ["cars", "food", "music", "travel"]
    columns = {
        "time": pa.array(1_700_000_000_000 + np.arange(ROWS) * 30_000, pa.timestamp("ms")),
        "user_id": user,
        "ad_id": ad,
        "country": pa.array(rng.choice(["de", "fr", "us"], ROWS), mask=rng.random(ROWS) < 0.1),
        "interests": [words[: n % 4] for n in user],
        "price": price,
        "click": click,
    }
    pq.write_table(pa.table(columns), path)


def test_commands_of_the_tutorial_lead_from_a_file_to_a_prediction(tmp_path: Path):
    lines = commands()
    assert len(lines) <= 10
    write_clicks(tmp_path / "clicks.parquet")
    port = _free_port()
    script = "set -e\n" + "\n".join(lines).replace("8000", str(port))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    output = tmp_path / "output"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = shell.wait(300)  # the server goes on
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
    text = output.read_text()
    assert code == 0, text
    assert "the job would run" in text, text
    assert "0 missing, 0 stale, 0 zombie" in text, text
    assert re.search(r'"probabilities":\[0\.\d+\]', text), text
    assert '"name":"user_id","dim":17,"rows":[[' in text, text
    auc = [float(found) for found in re.findall(r"AUC (0\.\d+)", text)]
    assert auc[-1] > 0.7, text


def test_pages_that_the_tutorial_names_are_there():
    for name, _, place in re.findall(r"\]\(([a-z]+\.md)(#([a-z-]+))?\)", PAGE.read_text()):
        text = (PAGE.parent / name).read_text()
        headings = [
            re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)
        ]
        assert not place or place in headings, (name, place)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
