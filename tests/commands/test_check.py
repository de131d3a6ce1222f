"""`monolith check`: what it says of a job is so, and it changes nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from monolith.commands.check import Findings, check
from monolith.commands.check_tables import bytes_a_row, bytes_at_limit
from monolith.config import load_job
from monolith.config.absent import HashedTail
from monolith.config.admission import MinCount
from monolith.config.eviction import LFU, LRU
from monolith.config.optimizers import Adagrad
from monolith.config.table import TableConfig
from monolith.streaming.source import open_sink
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e

START_MS = 1_700_000_000_000


@pytest.fixture
def filled(kit):
    """A kit with streams of 400 events and a job that reads them."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=400)
    kit.job("small")
    return kit


def found(kit, *sets: str, job: str = "small") -> Findings:
    lines: list[str] = []
    findings = Findings(lines.append)
    findings.lines = lines
    check(load_job(kit.folder / f"{job}.yaml", sets), findings)
    return findings


def said(findings: Findings) -> str:
    return "\n".join([*findings.lines, *findings.warnings, *findings.faults])


def picture(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file's mode, time of change and bytes. Not LMDB's table of readers, in which every reader takes a place."""
    files = [path for path in sorted(folder.rglob("*")) if path.name != "lock.mdb"]
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in files
    }


def test_fresh_job_is_described_and_nothing_is_written(filled):
    before = picture(filled.folder)
    ended = filled.run("check", "small.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert picture(filled.folder) == before
    for text in (
        "job e2e: deepfm over 3 tables; learns label (log)",
        "user: dim 9, adagrad: ",
        "features: log://",
        "400 records in 1 partition",
        "of the first 400, 400 fit the job",
        "store: lmdb://",
        "not there; a run would begin at step 1",
        "the job would run",
    ):
        assert text in ended.stdout


def test_run_that_ended_is_told_with_the_step_it_would_go_on_at(filled):
    assert filled.run("train", "small.yaml").returncode == 0
    status = read_status(filled.folder / "small/state/status.json")
    before = picture(filled.folder)
    findings = found(filled)
    assert picture(filled.folder) == before
    assert findings.faults == []
    assert f"would go on at step {status.step + 1} from the snapshot of step {status.step}" in said(findings)
    assert f"sequence {status.sequence}, after step {status.step}" in said(findings)
    changed = said(found(filled, "train.batch_size=8"))
    assert "setting changed: train.batch_size was" in changed
    assert "the state folder is of another model" in found(filled, "model.hidden=[3]").faults[0]
    assert found(filled, "name=other").faults != []  # the store is of another model


def test_class_of_the_users_own_is_built_and_tried(filled, monkeypatch):
    (filled.folder / "checked_net.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, vectors, dense, tasks, *, wrong=0):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(sum(vectors.values()) + wrong, tasks)\n\n"
        "    def forward(self, inputs):\n"
        "        return self.layer(torch.cat(list(inputs.values()), dim=1))\n"
    )
    monkeypatch.syspath_prepend(str(filled.folder))
    own = "model={kind: checked_net:Net}"
    assert "28 weights; a batch went through it" in said(found(filled, own))
    assert any("checked_net:Net" in fault for fault in found(filled, own[:-1] + ", options: {wrong: 1}}").faults)
    assert any(
        "'unchecked_net' cannot be imported" in f for f in found(filled, "model={kind: unchecked_net:Net}").faults
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no CUDA device")
def test_gpu_that_is_not_there_is_a_fault(filled):
    assert "finds no CUDA device on this machine" in found(filled, "train.device=cuda").faults[0]


def test_running_trainer_is_not_disturbed(filled):
    daemon = filled.spawn("train", "small.yaml", "--set", "input.follow=true")
    status = filled.folder / "small/state/status.json"
    filled.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.samples > 0, "the log to be read")
    try:
        ended = filled.run("check", "small.yaml")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert f"a trainer runs (process {daemon.pid}" in ended.stdout
    finally:
        daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0, filled.output()


def test_missing_stream_is_waited_for_or_a_fault(filled):
    gone = f"input.features=log://{filled.folder}/none"
    assert "is not there yet: the job would wait for it" in said(found(filled, gone, "input.follow=true"))
    assert any("none" in fault for fault in found(filled, gone).faults)
    ended = filled.run("check", "small.yaml", "--set", gone)
    assert ended.returncode == 1
    assert "the job would not run: 1 fault\n" in ended.stdout


def test_records_that_do_not_fit_are_counted_with_an_example(filled):
    some = found(filled, "features.tags.type=int")
    assert any("of the first 400 records would be dead letters (feature_type" in fault for fault in some.faults)
    seconds = found(filled, "input.time_unit=s")
    assert any("would be dead letters" in fault for fault in seconds.faults)


def test_share_of_rejects_that_would_stop_the_job_is_a_fault(filled):
    sink = open_sink(f"log://{filled.folder}/features")
    sink.append([(None, b"junk", START_MS)] * 100)
    sink.close()
    assert found(filled).faults == []
    assert any("100 of the first 500 records would be dead letters" in text for text in found(filled).warnings)
    assert "100 of the first 500 records" in found(filled, "input.max_reject_share=0.1").faults[0]


def test_features_that_no_event_carries_are_named(filled):
    tables = "[{name: user, dim: 9}, {name: item, dim: 9}, {name: tags, dim: 9}, {name: citty, dim: 9}]"
    findings = found(filled, f"tables={tables}")
    assert any("none of the first 400 events carries citty" in warning for warning in findings.warnings)


def test_window_is_held_to_the_delays_of_actions(filled):
    assert "99 % of" in said(found(filled))
    short = found(filled, "join.window_s=20")
    assert any("of the actions come after join.window_s (20)" in warning for warning in short.warnings)
    shorter = found(filled, "join.window_s=0.01")
    assert any("shorter than train.step_linger_s" in warning for warning in shorter.warnings)
    other = found(filled, "join.positive_actions=[buy]")
    assert any("every sample would be a negative" in warning for warning in other.warnings)


def test_streams_that_are_said_to_be_co_partitioned_are_looked_at(kit):
    for name, partitions in (("features", 4), ("actions", 4), ("fewer", 3), ("others", 4)):
        rows = [(key, value, at) for key, value, at in kit.events(300, seed=1)[name != "features"]]
        if name == "others":
            rows = [(b"by something else", value, at) for _, value, at in rows]
        sink = open_sink(f"log://{kit.folder / name}?partitions={partitions}")
        sink.append(rows)
        sink.close()
    kit.job("small", input={"co_partitioned": True})
    assert found(kit).faults == []
    (fault,) = found(kit, f"input.actions=log://{kit.folder / 'fewer'}").faults
    assert "features has the partitions [0, 1, 2, 3], actions [0, 1, 2]" in fault
    (kit.folder / "begun" / "journal").mkdir(parents=True)
    (kit.folder / "begun" / "journal" / "000000000001.journal").touch()
    begun = found(kit, f"input.actions=log://{kit.folder / 'fewer'}", f"state={kit.folder / 'begun'}")
    assert not any("partitions" in fault for fault in begun.faults)
    assert any("the run would wait with those that only one has" in warning for warning in begun.warnings)
    (fault,) = found(kit, f"input.actions=log://{kit.folder / 'others'}").faults
    assert "requests have features and actions in partitions of different numbers (such as 'r" in fault


def test_missing_secret_and_unreachable_store_are_faults_by_key(filled, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    assert found(filled, "store=redis://:${UNSET}@127.0.0.1/0").faults[0].startswith("store: the environment has no")
    gone = found(filled, "store=redis://:hunter2@127.0.0.1:1/0?timeout_s=1")
    assert gone.faults[0].startswith("store: redis://***@127.0.0.1:1/0")
    assert "hunter2" not in said(gone)
    kafka = found(filled, "input.features=kafka://127.0.0.1:1/topic")
    assert kafka.faults[0].startswith("input.features: kafka://127.0.0.1:1/topic does not answer")


def test_state_folder_that_cannot_be_used_is_a_fault(filled):
    (filled.folder / "file").write_text("")
    assert "is a file; name a folder" in said(found(filled, f"state={filled.folder}/file"))
    (filled.folder / "odd/snapshots/000000000007").mkdir(parents=True)
    (filled.folder / "odd/snapshots/000000000007/manifest.json").write_text("{}")
    assert "has snapshots but no step journal" in said(found(filled, f"state={filled.folder}/odd"))
    if os.geteuid() != 0:  # root may write anywhere
        (filled.folder / "locked").mkdir(mode=0o500)
        assert "may not write in" in said(found(filled, f"state={filled.folder}/locked/state"))


def test_endless_tables_are_warned_about_on_streams_alone(filled, tmp_path):
    tables = "[{name: user, dim: 9}, {name: item, dim: 9, expiry: {kind: idle}}, {name: tags, dim: 9}]"
    assert any("without expiry: user, tags." in w for w in found(filled, f"tables={tables}").warnings)


def test_parquet_file_is_sampled_like_a_stream(kit):
    rows = 300
    table = {"ts": np.arange(rows) + 1_700_000_000, "item": np.arange(rows) % 9, "label": np.arange(rows) % 2}
    pq.write_table(pa.table(table), kit.folder / "data.parquet")
    url = f"parquet://{kit.folder}/data.parquet?time=ts&unit=s&item=item&label=label&features=item"
    job = {"name": "p", "input": {"samples": url}, "tables": [{"name": "item", "dim": 3}]}
    (kit.folder / "p.yaml").write_text(json.dumps(job | {"state": f"{kit.folder}/p/state"}))
    findings = found(kit, job="p")
    assert findings.faults == findings.warnings == []
    assert "records of 2023-11-14 22:13:20 UTC to 2023-11-14 22:18:19 UTC" in said(findings)
    wrong = found(kit, f"input.samples={url.replace('label=label', 'label=lable')}", job="p")
    assert "no column 'lable'" in wrong.faults[0]
    assert "data.parquet cannot be opened" in said(wrong)


def test_dead_letters_to_a_log_need_not_be_there(filled):
    assert "dead letters: log://" in said(found(filled))


def test_bytes_a_row_are_what_a_table_of_many_rows_takes():
    from monolith.tables import Table

    config = TableConfig(name="x", dim=17, optimizer=Adagrad())
    table = Table(config)
    table.observe(np.arange(300_000, dtype=np.int64), event_time_ms=0)
    stats = table.stats()
    measured = (stats.bytes_values + stats.bytes_state + stats.bytes_stamps + stats.bytes_index) / 300_000
    assert bytes_a_row(config).total == pytest.approx(measured, rel=0.1)


def test_limit_in_rows_counts_shared_rows_and_counters():
    plain = TableConfig(name="x", dim=4, eviction=LRU(max_rows=1000))
    row = bytes_a_row(plain)
    assert bytes_at_limit(plain, row) == 1000 * row.total
    tail = TableConfig(
        name="x", dim=4, eviction=LFU(max_bytes=10**6), absent=HashedTail(100), admission=MinCount(2, max_counters=50)
    )
    assert bytes_at_limit(tail, row) == 10**6 + 100 * row.total + 50 * 24


def test_store_without_a_password_needs_none(filled):
    sink = open_sink(f"log://{filled.folder}/dead")
    sink.close()
    assert found(filled, "store=null").lines[-2:][0].startswith("store: none")


@pytest.mark.parametrize(("policy", "told"), [("stop", "faults"), ("skip", "warnings")])
def test_stream_that_was_made_anew_since_the_run_read_it_is_told_of(filled, policy, told):
    job = load_job(filled.folder / "small.yaml", [])
    Path(job.state).mkdir(parents=True, exist_ok=True)
    name = job.input.features.partition("?")[0]
    (Path(job.state) / "streams.json").write_text(json.dumps({"features": {"source": name, "mark": "00"}}))
    findings = found(filled, f"input.on_data_loss={policy}")
    assert f"input.features: {name} was made anew since the run" in "".join(getattr(findings, told))
