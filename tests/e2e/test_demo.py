"""`monolith demo` and `monolith bench online` as a user types them, on a short generated stream."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ["--set", "model.hidden=[8]"]

pytestmark = pytest.mark.e2e


def _job(kit, *options: str) -> list[str]:
    return ["--data", "synthetic", "--job", str(CHECKOUT / "jobs" / "synthetic.yaml"), *options, *SMALL]


def test_the_demo_ends_with_one_page_and_everything_exact(kit):
    done = kit.run("demo", *_job(kit, "--events", "3000", "--rate", "2000", "--dir", "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    page = done.stdout
    for word in ("frozen1", "online1", "warm - frozen", "best", "samples/s", "freshness   event to served row: p50"):
        assert word in page
    for line in ("parity", "replay"):
        exact = re.search(rf"^{line} .*: ([\d,]+) equal, 0 missing, 0 stale, 0 zombie$", page, re.MULTILINE)
        assert exact is not None
        assert exact[1] != "0"
    assert re.search(r"^user +\d", page, re.MULTILINE)
    assert '-> {"probabilities": [0.' in page
    assert (kit.folder / "demo" / "online.png").read_bytes().startswith(b"\x89PNG")
    port = int(re.search(r"--port (\d+)", page)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is still there"


def test_a_mistake_in_the_job_is_told_before_anything_is_written(kit):
    done = kit.run("demo", *_job(kit, "--dir", "demo"), "--set", "tables.user.dim=3")
    assert done.returncode == 1
    assert "the model deepfm takes tables of one dim" in done.stderr
    assert not (kit.folder / "demo").exists()


def test_a_server_that_cannot_start_ends_the_demo_with_its_last_words(kit):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = kit.run("demo", *_job(kit, "--events", "600", "--dir", "demo", "--port", port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    status = json.loads((kit.folder / "demo" / "state" / "status.json").read_text())
    with pytest.raises(ProcessLookupError):  # the daemon was not left behind
        os.kill(status["pid"], 0)


def test_bench_online_prints_the_table_and_keeps_json_and_picture(kit):
    done = kit.run("bench", "online", *_job(kit, "--events", "2000", "--dir", "bench"))
    assert done.returncode == 0, done.stderr
    result = json.loads((kit.folder / "bench" / "online.json").read_text())
    area = result["ways"]["online1"]["auc"]
    assert f"online1 {area['mean']:.4f} ± {area['sd']:.4f}" in " ".join(done.stdout.split())
    assert result["samples"] == pytest.approx(400, abs=10)
    assert (kit.folder / "bench" / "online.png").exists()
