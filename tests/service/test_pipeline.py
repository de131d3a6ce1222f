"""Events -> Kafka -> trainer -> Redis -> replica, with everything killed on the way: the bits of a calm run."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from monolith.errors import UnavailableError
from monolith.serving import Replica
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.streaming.source import open_sink
from monolith.training.snapshot import Snapshots
from monolith.training.status import read_status

pytestmark = [pytest.mark.service, pytest.mark.e2e]

EVENTS = 40_000  # more than the test needs
CHUNK = 100
LEAD = 400  # events that are written before the trainer has seen them, at most
LAST = 40  # requests at one instant that end the streams: enough of them in every partition to move its clock there


class Producer(threading.Thread):
    """Writes events to two topics, a little ahead of the trainer; what a broker did not take is written again."""

    def __init__(self, kit, urls: tuple[str, str], status) -> None:
        super().__init__(daemon=True)
        self.rows, self.urls, self.status = kit.events(EVENTS, seed=5), urls, status
        self.written, self.enough = 0, threading.Event()

    def run(self) -> None:
        features, actions = self.rows
        sinks = [open_sink(url) for url in self.urls]
        due = 0
        while self.written < EVENTS and not self.enough.is_set():
            if self.written > LEAD + self._trained():
                self.enough.wait(0.05)
                continue
            until_ms, first = features[self.written + CHUNK - 1][2], due
            while due < len(actions) and actions[due][2] <= until_ms:
                due += 1
            self._append(sinks[0], features[self.written : self.written + CHUNK])
            self._append(sinks[1], actions[first:due])
            self.written += CHUNK
        for sink, rows in zip(sinks, _last(features[self.written - 1][2]), strict=True):
            self._append(sink, rows)

    def _trained(self) -> int:
        status = read_status(self.status)
        return status.samples if status else 0

    def _append(self, sink, rows) -> None:
        while True:
            try:
                return sink.append(rows)
            except UnavailableError:
                continue


def _last(at_ms: int) -> list[list[tuple[bytes, bytes, int]]]:
    """Feature and action rows that bring all partitions to ``at_ms``: one left behind would come there by wall time."""
    bodies = {"feature": {"features": {"user": 1, "item": 1, "tags": []}}, "action": {"action": "like"}}
    return [[_row(f"last{n}", kind, body, at_ms) for n in range(LAST)] for kind, body in bodies.items()]


def _row(request: str, kind: str, body: dict[str, object], at_ms: int) -> tuple[bytes, bytes, int]:
    event = {"v": 1, "request_id": request, "item_id": "1", "event_time_ms": at_ms, "type": kind, **body}
    return request.encode(), json.dumps(event).encode(), at_ms


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_counted_twice_when_everything_dies_once(kit, own_kafka, redis_server, topic, tell):
    urls = (own_kafka.create(f"{topic}-features", partitions=2), own_kafka.create(f"{topic}-actions", partitions=2))
    streams = {"features": urls[0], "actions": urls[1], "dead_letters": None, "follow": True, "max_out_of_order_s": 5}
    small = {"batch_size": 8, "step_records": 64, "snapshot_every_s": 0.5, "publish_every_s": 0.1}
    job = kit.job("live", input=streams, store=redis_server.url, train=small)
    state = kit.folder / "live/state"
    producer = Producer(kit, urls, state / "status.json")
    producer.start()
    rng = np.random.default_rng(3)
    kills = [_run_and_kill(kit, job, state, rng) for _ in range(5)]
    daemon = kit.spawn("train", job)
    _wait_for_more(kit, state, daemon, 20)
    replica = Replica.open(redis_server.url, model="e2e")
    own_kafka.kill()
    own_kafka.start()
    _wait_for_more(kit, state, daemon, 20)
    redis_server.kill()
    redis_server.start()
    _wait_for_more(kit, state, daemon, 10)
    producer.enough.set()
    producer.join()
    assert producer.written < EVENTS, "the stream ended too early to be killed in"
    kit.wait(lambda: _is_done(state, daemon), "the end of the stream to be trained and published", timeout_s=120)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=60) == 0, kit.output()[-3000:]

    again = kit.run("replay", job, "--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store")
    assert "identical to the run's snapshot" in again.stdout, again.stdout + again.stderr[-3000:]
    _compare_served_rows(kit, redis_server, replica)
    step = Snapshots(state / "snapshots").steps()[-1]
    tell(f"trainer killed at steps {kills} of {step}, broker and Redis once: identical")


def _run_and_kill(kit, job, state, rng) -> int:
    daemon = kit.spawn("train", job)
    _wait_for_more(kit, state, daemon, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.wait(timeout=rng.uniform(0.1, 1.5))
    daemon.kill()
    daemon.wait()
    status = read_status(state / "status.json")
    return status.step if status else 0


def _wait_for_more(kit, state, daemon, steps: int) -> None:
    """Until this daemon has made ``steps`` steps more."""

    def own_step() -> int | None:
        status = read_status(state / "status.json")
        return status.step if status and status.pid == daemon.pid else None

    first = kit.wait(lambda: (own_step() or 0) > 0 and own_step(), "the trainer's first report", timeout_s=90)
    kit.wait(
        lambda: daemon.poll() is not None or (own_step() or 0) >= first + steps, f"{steps} more steps", timeout_s=90
    )
    assert daemon.poll() is None, kit.output()[-3000:]


def _is_done(state, daemon) -> bool:
    """All is read, and nothing has been waiting to be published since two reports."""
    first = read_status(state / "status.json")
    if first.pid != daemon.pid or first.lag or first.sequence != first.stored_sequence:
        return False
    time.sleep(2.5)
    second = read_status(state / "status.json")
    return (second.step, second.stored_sequence) == (first.step, first.sequence)


def _compare_served_rows(kit, redis_server, replica) -> None:
    """Redis, the replica that followed it, and the store of the run that nothing happened to: the same rows."""
    calm, lived = open_store(f"lmdb://{kit.folder}/again/store", "e2e"), open_store(redis_server.url, "e2e")
    try:
        assert compare_images(calm, lived) == []
        image = calm.image()
        kit.wait(lambda: replica.version().sequence == image.delta.sequence, "the replica to follow")
        for name, table in image.delta.tables.items():
            assert len(table.ids)
            assert replica.lookup(name, table.ids).tobytes() == table.values.tobytes()
    finally:
        for each in (calm, lived, replica):
            each.close()
