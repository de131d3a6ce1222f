"""The commands as a user types them, right and wrong."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from monolith.commands.compare import compare_snapshots
from monolith.serving import Client
from monolith.streaming.source import open_sink, open_source
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def trained(tmp_path_factory, kit_class):
    """A small run that ended: its job file in a kit."""
    kit = kit_class(tmp_path_factory.mktemp("trained"))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=2_000)
    ended = kit.run("train", kit.job("small"))
    assert ended.returncode == 0, ended.stderr
    return kit


# --- what works -------------------------------------------------------------------------------------------------------


def test_inspect_says_what_is_in_a_state_folder_a_stream_and_a_store(trained):
    state = trained.run("inspect", "small/state").stdout
    assert "journal small/state/journal: run" in state
    assert "table user:" in state
    assert "all checksums right" in state
    stream = trained.run("inspect", "log://features", "--head", "1").stdout
    assert "2,000 records in 1 partitions" in stream
    assert '"request_id":"r0"' in stream
    store = trained.run("inspect", "lmdb://small/store").stdout
    assert "table item:" in store
    assert "generation 1" in store


def test_inspect_against_finds_the_store_equal_to_the_trainer(trained):
    compared = trained.run("inspect", "lmdb://small/store", "--against", "small/state")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "0 missing, 0 stale, 0 zombie" in compared.stdout
    assert "table item#tail: 8 equal, 0 missing, 0 stale, 0 zombie" in compared.stdout
    (newest,) = sorted((trained.folder / "small/state/snapshots").iterdir())[-1:]
    assert trained.run("inspect", "lmdb://small/store", "--against", newest).stdout == compared.stdout


def test_a_changed_payload_is_published_anew_and_stays_equal_to_the_trainers_rows(trained):
    store, job = f"lmdb://{trained.folder}/packed", trained.folder / "small.yaml"
    for payload in ("int8_rowwise", "float16", "float32"):
        again = trained.run("train", job, "--set", f"store={store}", "--set", f"publish.payload={payload}")
        assert again.returncode == 0, again.stderr
        assert f"of dim 9 ({payload}, " in trained.run("inspect", store).stdout
        compared = trained.run("inspect", store, "--against", "small/state")
        assert compared.returncode == 0, compared.stdout + compared.stderr
        assert ("rows are compared as" in compared.stdout) == (payload != "float32")
        exported = trained.run("export", store, "--table", "user", "--out", f"{payload}.parquet")
        assert exported.returncode == 0, exported.stderr


def test_an_exported_table_has_the_rows_as_they_are_served(trained):
    import pyarrow.parquet as pq

    from monolith.serving.payload import RowFormat

    store, job = f"lmdb://{trained.folder}/eight", trained.folder / "small.yaml"
    trained.run("train", job, "--set", f"store={store}", "--set", "publish.payload=int8_rowwise")
    for source, name in (("small/state", "kept.parquet"), (store, "served.parquet")):
        assert trained.run("export", source, "--table", "tags", "--out", name).returncode == 0
    kept, served = (_rows(pq.read_table(trained.folder / f"{name}.parquet")) for name in ("kept", "served"))
    assert not np.array_equal(kept, served)
    assert RowFormat("int8_rowwise", 9).served(kept).tobytes() == served.tobytes()


def _rows(table):
    """The values of an exported table by ascending id."""
    return np.array(table.sort_by("id").column("values").to_pylist(), np.float32)


@pytest.mark.parametrize(("table", "rows"), [("tags", 7), ("item#tail", 8)])
def test_export_writes_a_snapshots_and_a_stores_rows_alike(trained, table, rows):
    import pyarrow.parquet as pq

    for source, name in (("small/state", "a.parquet"), ("lmdb://small/store", "b.parquet")):
        done = trained.run("export", source, "--table", table, "--out", name)
        assert done.returncode == 0, done.stderr
    left, right = (pq.read_table(trained.folder / name).sort_by("id") for name in ("a.parquet", "b.parquet"))
    assert left.num_rows == rows
    assert left.equals(right)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "npz", "npy", "safetensors"])
def test_export_writes_what_the_suffix_says(trained, suffix):
    done = trained.run("export", "lmdb://small/store", "--table", "tags", "--out", f"tags.{suffix}")
    assert done.stdout == f"7 rows of table tags in tags.{suffix}\n", done.stderr
    assert (trained.folder / f"tags.{suffix}").stat().st_size > 7 * 9 * 4


def test_export_refuses_a_suffix_that_it_does_not_know(trained):
    refused = trained.run("export", "lmdb://small/store", "--table", "tags", "--out", "tags.xlsx")
    assert refused.returncode == 1
    assert "allowed are .parquet, .csv, .jsonl, .npz, .npy, .safetensors" in refused.stderr


def test_an_ended_run_started_again_changes_nothing(trained):
    before = read_status(trained.folder / "small/state/status.json")
    assert trained.run("train", "small.yaml").returncode == 0
    after = read_status(trained.folder / "small/state/status.json")
    assert (after.step, after.sequence, after.samples) == (before.step, before.sequence, before.samples)


def test_serve_answers_over_http_and_stops_on_sigterm(trained):
    port = free_port()
    server = trained.spawn("serve", "small.yaml", "--port", port)
    try:
        trained.wait(lambda: answers(f"http://127.0.0.1:{port}/ready"), "a ready server")
        version = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/version"))
        assert version["sequence"] == read_status(trained.folder / "small/state/status.json").sequence
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0, trained.output()


def test_serve_without_a_models_name_and_with_a_token_answers_those_who_have_it(trained):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    (trained.folder / "tokens").write_text("a-secret-token\n")
    server = trained.spawn("serve", "--store", "lmdb://small/store", "--port", port, "--set", "serve.token_file=tokens")
    try:
        trained.wait(lambda: answers(f"{address}/health"), "a server that lives")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/version")
        with Client(address, token="a-secret-token") as client:
            trained.wait(client.ready, "a ready server")
            together = client.lookup_together({"user": [1, -5], "tags": ["t1"]})
            assert together.rows["user"].found.tolist()[1] is False
            scores = client.predict_candidates({"user": 1}, {"item": [1, 2, 3], "tags": [["t1"], [], ["t2", "t3"]]})
            assert scores.shape == (3,)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0, trained.output()
    assert "a-secret-token" not in trained.output()


def test_sigterm_ends_a_following_run_with_a_snapshot_and_exit_0(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_100)
    daemon = kit.spawn("train", kit.job("live", input={"follow": True}))
    status = kit.folder / "live/state/status.json"
    kit.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.samples > 900, "the log to be read")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0, kit.output()
    assert f"step {read_status(status).step}," in kit.run("inspect", "live/state").stdout


def test_store_of_a_run_that_sigterm_ended_is_of_the_moment_of_its_snapshot(kit):
    """Also where deltas leave so seldom that samples were waiting for one."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_100)
    job = kit.job("live", input={"follow": True}, train={"publish_every_s": 3600})
    daemon = kit.spawn("train", job)
    status = kit.folder / "live/state/status.json"
    kit.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.samples > 900, "the log to be read")
    assert read_status(status).stored_sequence == 0
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0, kit.output()
    compared = kit.run("inspect", "lmdb://live/store", "--against", "live/state")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    replayed = kit.run("replay", job, "--state", "again/state", "--store", f"lmdb://{kit.folder}/again/store")
    assert "identical to the run's snapshot" in replayed.stdout, replayed.stdout + replayed.stderr


def test_bad_events_become_dead_letters_and_the_rest_is_trained(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    sink = open_sink(f"log://{kit.folder / 'features'}")
    good = {"type": "feature", "v": 1, "request_id": "q", "item_id": "i", "event_time_ms": 1_700_000_700_000}
    far = {**good, "event_time_ms": 4_000_000_000_000, "features": {"user": 1}}
    bad = [
        b"not json",
        b"\xff\xff",
        b"",
        json.dumps({**good, "features": {"nobody": 1}}).encode(),
        json.dumps({**good, "features": {"user": "a word"}}).encode(),
        json.dumps({**good, "features": {"tags": {"x": float("nan")}}}).encode(),
        json.dumps({**good, "v": 99, "features": {}}).encode(),
        json.dumps(far).encode(),
    ]
    sink.append([(b"k", value, 1_700_000_700_000) for value in bad])
    sink.close()
    done = kit.run("train", kit.job("bad"))
    assert done.returncode == 0, done.stderr
    assert read_status(kit.folder / "bad/state/status.json").samples == 300
    letters = open_source(f"log://{kit.folder / 'bad/dead'}")
    found = letters.poll(100, 5.0)
    letters.close()
    assert len(found) == len(bad)


# --- what does not ----------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_file_line_and_nearest_key(kit):
    path = kit.job("typo", train={"batchsize": 3})
    refused = kit.run("train", path)
    assert refused.returncode == 1
    assert "typo.yaml" in refused.stderr
    assert "batch_size" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_settings_that_decide_bits_take_hold_behind_the_steps_that_wait(kit):
    """The steps of the lost snapshot are made again as they were, and published by nobody twice; then comes the new."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=2_000)
    job = kit.job("small")
    assert kit.run("train", job).returncode == 0
    before = read_status(kit.folder / "small/state/status.json")
    shutil.rmtree(sorted((kit.folder / "small/state/snapshots").iterdir())[-1])  # as if killed before it
    changed = kit.run("train", job, "--set", "tables.user.optimizer.lr=0.5")
    assert changed.returncode == 0, changed.stderr
    assert f"setting changed key=tables[0].optimizer.lr was=0.05 now=0.5 from_step={before.step + 1}" in changed.stderr
    after = read_status(kit.folder / "small/state/status.json")
    assert (after.step, after.samples) == (before.step, before.samples)
    assert kit.run("inspect", "lmdb://small/store", "--against", "small/state").returncode == 0


def test_another_model_or_a_lost_journal_is_named(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    job = kit.job("small")
    assert kit.run("train", job).returncode == 0
    refused = kit.run("train", job, "--set", "model.hidden=[4]")
    assert refused.returncode == 1
    assert "model.hidden[0] was 16, now 4" in refused.stderr
    shutil.rmtree(kit.folder / "small/state/journal")
    refused = kit.run("train", job)
    assert refused.returncode == 1
    assert "has snapshots but no step journal" in refused.stderr
    assert not (kit.folder / "small/state/journal").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"input": {"features": "log://nowhere"}}, "nowhere"),
        ({"store": "mysql://x"}, "mysql"),
        ({"input": {"features": "kafka://127.0.0.1:1"}}, "topic"),
    ],
)
def test_a_job_that_cannot_run_is_refused_in_one_line(kit, settings, says):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=10)
    refused = kit.run("train", kit.job("wrong", **settings))
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_inspect_of_a_broker_that_is_not_there_ends_in_one_line(kit):
    refused = kit.run("inspect", f"kafka://127.0.0.1:{free_port()}/events")
    assert refused.returncode == 1
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert "/events does not answer: no broker was reached in 4 s" in line


def test_a_state_folder_in_use_is_refused(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=100)
    job = kit.job("live", input={"follow": True})
    daemon = kit.spawn("train", job)
    try:
        kit.wait(lambda: (kit.folder / "live/state/status.json").exists(), "the first trainer")
        refused = kit.run("train", job)
        assert refused.returncode == 1
        assert f"in use by process {daemon.pid}" in refused.stderr
    finally:
        daemon.kill()
        daemon.wait()


def test_a_damaged_snapshot_is_passed_over_and_the_run_ends_the_same(trained, kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=2_000)
    job = kit.job("small")
    assert kit.run("train", job).returncode == 0
    newest = sorted((kit.folder / "small/state/snapshots").iterdir())[-1]
    whole = shutil.copytree(newest, kit.folder / "whole" / newest.name)
    damage(newest / "tables/user")
    again = kit.run("train", job)
    assert again.returncode == 0, again.stderr
    assert "snapshot unusable" in again.stderr
    assert compare_snapshots(whole, newest) == []


def test_a_damaged_log_is_named_with_its_offset(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=3_000)
    data = max((kit.folder / "features").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    at = content.rindex(b'"request_id"')
    content[at + 2] ^= 0xFF
    data.write_bytes(content)
    refused = kit.run("train", kit.job("damaged"))
    assert refused.returncode == 1
    assert "CorruptError" in refused.stderr
    assert "offset" in refused.stderr


def test_a_port_in_use_is_named(trained):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = trained.run("serve", "small.yaml", "--port", taken.getsockname()[1])
    assert refused.returncode == 1
    assert str(taken.getsockname()[1] if taken.fileno() >= 0 else "") in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_replay_into_a_used_folder_is_refused(trained):
    refused = trained.run("replay", "small.yaml", "--state", "small/state")
    assert refused.returncode == 1
    assert "not empty" in refused.stderr


# --- small tools ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except (urllib.error.URLError, OSError):
        return False


def damage(folder) -> None:
    path = next(p for p in folder.iterdir() if p.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
