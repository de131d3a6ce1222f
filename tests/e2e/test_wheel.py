"""The wheel in environments that hold it and what it asks for: what the README begins with, run from there."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
import zipfile

import pytest
from installed import CHECKOUT, Environment, build_wheel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

READABLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def demo(wheel, tmp_path_factory):
    """The folder in which `monolith demo` ran, from an environment that can do everything, and that environment."""
    folder = tmp_path_factory.mktemp("all")
    everything = Environment(folder / "env", wheel, "train", "stream", "serve", "bench", "completion", torch=True)
    options = ["--events", "1500", "--rate", "2000", "--set", "model.hidden=[8]"]
    page = everything.run("monolith", "demo", "--data", "synthetic", *options, cwd=folder)
    return folder, everything, page


def readme(begin: str) -> str:
    """The README's Python that begins so."""
    (block,) = [code for code in READABLE.findall((CHECKOUT / "README.md").read_text()) if code.startswith(begin)]
    return block


def test_the_wheel_holds_what_the_package_needs_and_no_sources_of_the_core(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("monolith/")}
    command = ["git", "ls-files", "-co", "--exclude-standard", "monolith", "tables", "streaming", "serving", "jobs"]
    tracked = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    links = {f"monolith/{name}" for name in ("tables", "streaming", "serving", "jobs")}
    wanted = {name if name.startswith("monolith/") else f"monolith/{name}" for name in tracked} - links
    native = {name for name in wanted if "/native/" in name}
    extra = {name for name in held if name.endswith(".so")}
    assert held - extra == wanted - native
    assert len(extra) >= 2
    assert {"monolith/dashboard/page.html", "monolith/jobs/demo.yaml"} <= held


def test_the_base_alone_has_tables_logs_and_the_commands_that_read(wheel, demo, tmp_path):
    base = Environment(tmp_path / "env", wheel)
    first, core, _, torch = base.run("monolith", "--version", cwd=tmp_path).splitlines()
    assert first.startswith("monolith ")
    assert "vector code" in core
    assert torch == "torch not installed, torchrec not installed, fbgemm_gpu not installed"
    base.run("python", "-c", readme("import numpy as np\nfrom monolith.tables"), cwd=tmp_path)
    sink = readme("from monolith.streaming.source import open_sink")
    event = 'event_bytes, event_time_ms = b\'{"type": "feature"}\', 1\n'
    base.run("python", "-c", event + sink, cwd=tmp_path)
    assert "1 records in 1 partitions" in base.run("monolith", "inspect", "log://build/demo/features", cwd=tmp_path)
    store = f"lmdb://{demo[0]}/build/demo/store"
    assert "table item:" in base.run("monolith", "inspect", store, cwd=tmp_path)
    base.run("monolith", "export", store, "--table", "user", "--out", "user.csv", cwd=tmp_path)
    assert (tmp_path / "user.csv").read_text().startswith("id,v0,")


def test_the_extra_serve_answers_without_torch_and_without_kafka(wheel, demo, kit):
    free_port = unused_port()
    folder, serving = kit.folder, Environment(kit.folder / "env", wheel, "serve")
    for absent in ("torch", "kafka", "pyarrow"):
        code = f"import importlib.util as u; raise SystemExit(u.find_spec({absent!r}) is not None)"
        serving.run("python", "-c", code, cwd=folder)
    (folder / "build").symlink_to(demo[0] / "build")
    store = ["--store", "lmdb://build/demo/store", "--port", str(free_port)]
    server = serving.spawn("monolith", "serve", *store, cwd=folder)
    try:
        kit.wait(lambda: answers(f"http://127.0.0.1:{free_port}/ready"), "a ready server")
        code = readme("from monolith.serving import Client, Replica")
        for ours, here in (("8000", str(free_port)), ("0.5", "30"), ('"movies"', '"synthetic"'), ('"movie"', '"item"')):
            code = code.replace(ours, here)
        code += "assert rows.values.shape[1] == 17 and len(scores) == 3 and 0 < answer.probabilities[0] < 1, answer\n"
        serving.run("python", "-c", code, cwd=folder)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0, kit.output()


def test_training_runs_from_the_wheel_with_its_extras_and_the_pinned_set(demo):
    folder, everything, page = demo
    assert "0 missing, 0 stale, 0 zombie" in page
    where = everything.run("python", "-c", "import monolith; print(monolith.__file__)", cwd=folder)
    assert where.startswith(str(folder / "env"))
    assert "all checksums right" in everything.run("monolith", "inspect", "build/demo/state", cwd=folder)
    everything.run("monolith", "plot", "build/demo/state", "--out", "curves.png", cwd=folder)
    assert (folder / "curves.png").stat().st_size > 1000
    everything.run("monolith", "export", "build/demo/state", "--table", "user", "--out", "u.parquet", cwd=folder)
    assert "complete -" in everything.run("monolith", "completion", "bash", cwd=folder)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except (urllib.error.URLError, OSError):
        return False
