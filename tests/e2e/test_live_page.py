"""The live page of a running trainer, in a real browser, and the curves that outlive the process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import urllib.request

import pytest

from monolith.training.curves import read_curves
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e

PHONE = (390, 844)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package `chromium`)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def live(tmp_path_factory, kit_class):
    """A trainer that has read its log and goes on following it: its kit, process and page."""
    kit = kit_class(tmp_path_factory.mktemp("live"))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=3_000)
    port = free_port()
    daemon = kit.spawn("train", kit.job("live", input={"follow": True}), "--dashboard", port)
    status = kit.folder / "live/state/status.json"
    kit.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.samples > 2_500, "the log to be read")
    curves = kit.folder / "live/state/curves.jsonl"
    kit.wait(lambda: (points := read_curves(curves)) and points[-1].samples > 2_500, "a point of what was learnt")
    yield kit, daemon, f"http://127.0.0.1:{port}/"
    daemon.kill()
    daemon.wait()


def browse(folder, url: str, *options: str, size: tuple[int, int] = PHONE) -> str:
    """What the page has become after some seconds of its own time, as HTML."""
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={folder}/browser", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=5000"),
        *options,
        url,
    ]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_browser
def test_page_draws_curves_facts_and_tables_of_the_running_trainer(live, tmp_path):
    kit, _, url = live
    page = browse(tmp_path, url, "--dump-dom")
    charts = re.findall(r'data-chart="([^"]+)"', page)
    assert {"AUC", "Log-loss", "Calibration (predicted over observed)", "Samples a second", "Rows", "Bytes"} <= {
        *charts
    }
    assert len(re.findall(r'<path d="M[\d.,LMh-]+"', page)) > len(charts)
    assert "training</b>" in page
    assert ">user</td>" in page
    assert read_status(kit.folder / "live/state/status.json").lineage in page


@needs_browser
def test_page_fits_the_width_of_a_phone(live, tmp_path):
    """Nothing in it is wider than the window, which the page notes beside how many points it drew."""
    _, _, url = live
    page = browse(tmp_path, url, "--dump-dom", size=PHONE)
    window, widest = (int(re.search(rf'data-{name}="(\d+)"', page).group(1)) for name in ("window", "widest"))
    assert widest <= window
    png = tmp_path / "phone.png"
    browse(tmp_path, url, f"--screenshot={png}", size=PHONE)
    assert struct.unpack(">II", png.read_bytes()[16:24]) == PHONE


def test_metrics_health_and_status_answer_beside_the_page(live):
    _, _, url = live
    assert json.load(urllib.request.urlopen(url + "health"))["healthy"]
    assert b"monolith_trainer_samples_total" in urllib.request.urlopen(url + "metrics").read()
    assert json.load(urllib.request.urlopen(url + "status"))["model"] == "e2e"


def test_curves_survive_a_restart_and_are_drawn(live):
    kit, daemon, _ = live
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0, kit.output()
    before = read_curves(kit.folder / "live/state/curves.jsonl")
    again = kit.run("train", "live.yaml", "--set", "input.follow=false")
    assert again.returncode == 0, again.stderr
    after = read_curves(kit.folder / "live/state/curves.jsonl")
    assert len(after) > len(before) > 1
    assert after[: len(before)] == before
    drawn = kit.run("plot", "live/state", "--out", "curves.png")
    assert drawn.returncode == 0, drawn.stderr
    assert kit.folder.joinpath("curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"{len(after):,} points" in drawn.stdout
    assert "holds no point" in kit.run("plot", ".").stderr


def test_tensorboard_is_written_or_refused_with_what_is_missing(live):
    kit, _, _ = live
    done = kit.run("train", "live.yaml", "--set", "input.follow=false", "--tensorboard", "board")
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        assert done.returncode == 1
        assert "pip install tensorboard" in done.stderr
        return
    events = EventAccumulator(str(kit.folder / "board"))
    events.Reload()
    assert "label.total/auc" in events.Tags()["scalars"]
