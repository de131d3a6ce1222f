"""Ranks that each read their partitions of Kafka topics make what one process makes of them, when one is killed too."""

from __future__ import annotations

import os
import signal

import pytest
from rank_jobs import differences, job
from rank_processes import pids_of, steps_of

pytestmark = [pytest.mark.service, pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_rank_of_several_that_read_kafka_is_killed_and_the_bits_are_those_of_one_process(kit, kafka, topic):
    urls = {name: kafka.create(f"{topic}-{name}", partitions=3) for name in ("features", "actions")}
    kit.fill(*urls.values(), count=1200)
    settings = {"input": {**urls, "co_partitioned": True}}
    alone = kit.run("train", job(kit, "alone", **settings))
    assert alone.returncode == 0, alone.stderr[-3000:]
    path, state = job(kit, "ranks", **settings), kit.folder / "ranks" / "state"
    daemon = kit.spawn("train", path, "--workers", 2)
    kit.wait(lambda: steps_of(state) > 2 or daemon.poll() is not None, "steps", 120)
    os.kill(pids_of(path)[1], signal.SIGKILL)
    assert daemon.wait(240) == 0, kit.output()[-4000:]
    assert "rank 1 ended" in kit.output()
    assert differences(kit, "alone", "ranks") == []
