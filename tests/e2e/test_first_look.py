"""What a user sees of a job whose input is wrong, and how the refused records come back, as a user types it."""

from __future__ import annotations

import json
import time

import pytest

from monolith.streaming.source import open_sink
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e

START_MS = 1_700_000_000_000


@pytest.fixture
def shop(kit):
    """Samples whose `user` is a string in most records, where the job says integer."""

    def fill(good: int, bad: int) -> str:
        sink = open_sink(f"log://{kit.folder}/samples")
        rows = []
        for n in range(good + bad):
            user = n % 20 if n >= bad else f"u{n % 20}"
            event = {"type": "sample", "v": 1, "request_id": f"r{n}", "item_id": "i", "event_time_ms": START_MS + n,
                     "features": {"user": user}, "label": n % 2}  # fmt: skip
            rows.append((b"k", json.dumps(event).encode(), START_MS + n))
        sink.append(rows)
        sink.close()
        kit.folder.joinpath("shop.yaml").write_text(JOB)
        return "shop.yaml"

    return fill


JOB = """\
name: shop
input: {samples: "log://samples", dead_letters: "log://dead", follow: false}
tables: [{name: user, dim: 4}]
model: {kind: lr}
state: state
store: lmdb://store
"""
LR = JOB.replace("dim: 4", "dim: 1")


def test_a_job_that_cannot_use_most_records_stops_by_name_and_goes_on_once_it_is_mended(kit, shop):
    job = shop(good=100, bad=1200)
    kit.folder.joinpath(job).write_text(LR)
    stopped = kit.run("train", job)
    assert stopped.returncode == 1
    assert "RejectedError" in stopped.stderr
    assert "feature_type" in stopped.stderr
    assert "feature 'user' has 'u" in stopped.stderr
    mended = kit.run(
        "train", job, "--set", "features=[{name: user, type: string}]", "--set", "input.max_reject_share=1"
    )
    assert mended.returncode == 0, mended.stderr
    assert (
        read_status(kit.folder / "state/status.json").samples > 400
    )  # those of the steps that had been written down are letters


def test_a_run_that_trains_nothing_fails_and_publishes_nothing(kit, shop):
    job = shop(good=0, bad=50)
    kit.folder.joinpath(job).write_text(LR)
    for share in ("0.5", "1"):
        failed = kit.run("train", job, "--set", f"input.max_reject_share={share}", "--set", f"state=state{share}")
        assert failed.returncode == 1, failed.stdout
        assert "feature_type" in failed.stderr
    assert "holds no model yet" in kit.run("inspect", "lmdb://store").stderr


def test_refused_records_are_shown_mended_and_put_back(kit, shop):
    job = shop(good=900, bad=100)
    kit.folder.joinpath(job).write_text(LR)
    ended = kit.run("train", job)
    assert ended.returncode == 0, ended.stderr
    assert "left out: rejected 100 (feature_type 100)" in ended.stdout
    assert "monolith inspect log://dead --head 10" in ended.stdout
    assert "left out: rejected 100 (feature_type 100)" in kit.run("inspect", "state").stdout
    letters = kit.run("inspect", "log://dead", "--head", "1000").stdout
    lines = [json.loads(line) for line in letters.splitlines() if line.startswith("{")]
    assert len(lines) == 100
    for line in lines:
        line["record"]["event"]["features"]["user"] = int(line["record"]["event"]["features"]["user"][1:])
    kit.folder.joinpath("mended.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert kit.run("redeliver", "mended.jsonl", "--to", "log://samples", "--reason", "label").returncode == 1
    tried = kit.run("redeliver", "mended.jsonl", "--to", "log://samples", "--dry-run")
    assert "100 records would be put back" in tried.stdout
    put = kit.run("redeliver", "mended.jsonl", "--to", "log://samples", "--reason", "feature_type")
    assert "100 records were put back into log://samples: feature_type 100" in put.stdout
    assert kit.run("train", job).returncode == 0
    assert read_status(kit.folder / "state/status.json").samples == 1000


def test_letters_are_put_back_as_they_were_from_their_stream(kit, shop):
    job = shop(good=900, bad=100)
    kit.folder.joinpath(job).write_text(LR)
    assert kit.run("train", job).returncode == 0
    assert "100 records were put back" in kit.run("redeliver", "log://dead", "--to", "log://samples").stdout
    again = kit.run("train", job, "--set", "features=[{name: user, type: string}]")
    assert again.returncode == 0, again.stderr
    assert read_status(kit.folder / "state/status.json").samples == 1000


def test_redeliver_refuses_what_is_no_letter(kit, shop):
    shop(good=1, bad=0)
    assert "no dead letter" in kit.run("redeliver", "log://samples", "--to", "log://dead").stderr
    kit.folder.joinpath("lines.jsonl").write_text('{"letter": {}}\n')
    assert "line 1 is no letter" in kit.run("redeliver", "lines.jsonl", "--to", "log://dead").stderr
    assert "neither a stream's URL nor a file" in kit.run("redeliver", "nowhere", "--to", "log://dead").stderr


def test_from_the_start_on_something_is_said_every_two_seconds(kit):
    """Also while nothing has been read, because nobody has written yet."""
    kit.folder.joinpath("wait.yaml").write_text(LR.replace("follow: false", "follow: true"))
    daemon = kit.spawn("train", "wait.yaml")
    output = kit.folder / "out.log"
    kit.wait(lambda: "no answer from log://samples" in output.read_text(), "the stream that is not there to be named")
    seen, deadline = output.read_text().count("\n"), time.monotonic() + 20
    kit.wait(lambda: output.read_text().count("\n") >= seen + 2, "two more lines")
    assert time.monotonic() < deadline
    daemon.terminate()
    assert daemon.wait(timeout=30) == 0
    assert "starting: " in output.read_text()
