"""Nothing that a run writes, prints or answers holds a secret of its job."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from servers import free_port

from monolith.training.status import read_status

pytestmark = [pytest.mark.service, pytest.mark.e2e]

SECRET = "hunter2/@:?&é"  # characters that a URL gives a meaning
ENCODED = "hunter2%2F%40%3A%3F%26%C3%A9"
TELLTALE = b"hunter2"


@pytest.fixture
def locked_redis(redis_server, monkeypatch):
    """A Redis that wants a password; the commands' environment holds it."""
    redis_server.client().config_set("requirepass", SECRET)
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)
    return f"redis://:${{REDIS_PASSWORD}}@127.0.0.1:{redis_server.port}/0"


@pytest.mark.parametrize("how", ["variable", "file", "whole", "direct"])
def test_password_of_the_store_is_in_nothing_that_a_run_writes(kit, locked_redis, monkeypatch, tmp_path_factory, how):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_100)
    outside = tmp_path_factory.mktemp("outside")
    store = _store(how, locked_redis, outside, monkeypatch)
    job = kit.job("secret", store=store)
    if how == "direct":
        job = job.rename(outside / "job.yaml")
    port = free_port()
    daemon = kit.spawn("--log-level", "debug", "train", job, "--set", "input.follow=true", "--dashboard", port)
    status = kit.folder / "secret/state/status.json"
    kit.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.stored_sequence > 0, "the log to be stored")
    assert TELLTALE not in Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
    pages = [_get(port, page) or "" for page in ("metrics", "health", "")]
    assert all(pages)
    daemon.terminate()
    assert daemon.wait(30) == 0, kit.output()
    answers = [*pages, _serve(kit, job), *_inspect(kit, "secret/state", store)]
    assert "0 missing, 0 stale, 0 zombie" in answers[-1]
    found = [path for path in kit.folder.rglob("*") if path.is_file() and TELLTALE in path.read_bytes()]
    assert found == []
    assert [key for key in _keys(locked_redis) if TELLTALE in key] == []
    assert all(TELLTALE not in answer.encode() for answer in answers)
    shown = {"variable": "${REDIS_PASSWORD}", "file": "${file:", "whole": "${STORE}", "direct": "redis://***@"}[how]
    newest = max((kit.folder / "secret/state/snapshots").iterdir())
    assert shown.encode() in (newest / "manifest.json").read_bytes()


def _store(how: str, url: str, outside: Path, monkeypatch) -> object:
    if how == "file":
        (outside / "password").write_text(f"{SECRET}\n")
        return url.replace("${REDIS_PASSWORD}", f"${{file:{outside / 'password'}}}")
    direct = url.replace("${REDIS_PASSWORD}", ENCODED)
    if how == "whole":
        monkeypatch.setenv("STORE", direct)
        return "${STORE}"
    return direct if how == "direct" else url


def _serve(kit, job) -> str:
    """What the server of the job answers to every page there is."""
    port = free_port()
    server = kit.spawn("--log-level", "debug", "serve", job, "--port", port)
    try:
        kit.wait(lambda: _get(port, "ready") is not None, "a ready server")
        return "\n".join(_get(port, page) or "" for page in ("metrics", "health", "version", "ready", "none"))
    finally:
        server.terminate()
        assert server.wait(20) == 0, kit.output()


def _inspect(kit, state, store) -> list[str]:
    runs: list[subprocess.CompletedProcess[str]] = [
        kit.run("inspect", state),
        kit.run("inspect", store, "--model", "e2e"),
        kit.run("inspect", store, "--model", "e2e", "--against", state),
    ]
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    return [run.stdout + run.stderr for run in runs]


def _get(port: int, page: str) -> str | None:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}").read().decode()
    except urllib.error.URLError:
        return None


def _keys(url: str) -> list[bytes]:
    """Every key of the store with all that it holds."""
    client = redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]), password=SECRET)
    keys = client.keys()
    assert len(keys) > 3
    return [key + client.dump(key) for key in keys]


def test_secrets_in_urls_of_brokers_are_in_no_error(kit, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2-kafka")
    urls = (
        "kafka://me:hunter2-direct@127.0.0.1:1/topic",
        "kafka://me:${KAFKA_PASSWORD}@127.0.0.1:1/topic",
        "kafka://127.0.0.1:1/topic?sasl_plain_password=hunter2-option",
        "kafka://127.0.0.1:1/topic?sasl_plain_password=${KAFKA_PASSWORD}",
        "kafka://127.0.0.1:1/topic?partitions=${KAFKA_PASSWORD}",
    )
    jobs = [kit.job(f"broker{number}", input={"features": url}) for number, url in enumerate(urls)]
    commands = [("check", job) for job in jobs]
    for url in urls:
        commands += [("--log-level", "debug", "inspect", url), ("init", "--from", url)]
    with ThreadPoolExecutor(5) as side_by_side:  # they wait for a broker that is not there
        for ended in side_by_side.map(lambda words: kit.run(*words), commands):
            assert ended.returncode == 1, ended.stdout
            assert "hunter2" not in ended.stdout + ended.stderr, (ended.args, ended.stdout, ended.stderr)


def test_wrong_password_is_in_no_error(kit, locked_redis, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2-wrong")
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=50)
    direct = locked_redis.replace("${REDIS_PASSWORD}", "hunter2-direct")
    for url in (locked_redis, direct):
        for words in (
            ("inspect", url, "--model", "e2e"),
            ("--log-level", "debug", "inspect", url, "--model", "e2e"),
            ("train", kit.job("wrong", store=url)),
            ("export", url, "--model", "e2e", "--table", "user", "--out", "x.parquet"),
        ):
            ended = kit.run(*words)
            assert ended.returncode == 1
            assert "refuses this user" in ended.stderr
            assert "hunter2" not in ended.stdout + ended.stderr


def test_missing_secret_is_an_error_by_key_before_anything_starts(kit, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    kit.lends_graphs = False
    job = kit.job("missing", store="redis://:${UNSET}@h/0")
    for words in (("train", job), ("serve", job)):
        ended = kit.run(*words)
        assert ended.returncode == 1
        assert "store: the environment has no variable UNSET" in ended.stderr
    assert not (kit.folder / "missing").exists()
    files = kit.job("files", input={"features": "log://${file:/none/here}/x"})
    assert "input.features: the file /none/here cannot be read" in kit.run("train", files).stderr


def test_files_that_a_run_writes_are_its_users_own(kit):
    kit.lends_graphs = False
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    job = kit.job("own", input={"dead_letters": f"log://{kit.folder / 'own/dead'}"})
    assert kit.run("train", job).returncode == 0
    written = [kit.folder / "own", *(kit.folder / "own").rglob("*")]
    assert {path.name for path in written} >= {"state", "store", "dead", "journal", "manifest.json", "data.mdb"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []
    assert kit.run("train", job, "--set", "state=shared/state", "--set", "files=group").returncode == 0
    shared = list((kit.folder / "shared").rglob("*"))
    assert [path for path in shared if path.stat().st_mode & 0o007] == []
    assert all(path.stat().st_mode & 0o040 for path in shared)


def test_state_folder_that_others_may_read_is_warned_about(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=60)
    (kit.folder / "open").mkdir()
    (kit.folder / "open/state").mkdir(mode=0o755)
    ended = kit.run("train", kit.job("open"))
    assert ended.returncode == 0
    assert "others may look into the state folder: chmod -R go-rwx" in ended.stderr
