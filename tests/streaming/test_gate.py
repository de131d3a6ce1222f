"""Records that go through the gate many together do what they would do one by one."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.errors import ConfigError
from monolith.streaming import gate, memory
from monolith.streaming.bounded import SizeCutter
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import UnwrittenJournal
from monolith.streaming.steps import StepReader
from monolith.tables.batch_bytes import to_bytes

START_MS = 1_700_000_000_000
NEVER = 10**9


@pytest.fixture
def outcome(make_job, monkeypatch):
    """What comes of the memory streams: steps, states and troubles, with arrays in the gate from ``many`` on."""

    def run(many: int, **inputs) -> list:
        monkeypatch.setattr(gate, "_MANY", many)
        memory.forget("letters")
        job = make_job(
            input={
                "follow": False,
                "dead_letters": "memory://letters",
                "max_jump_s": 60.0,
                "max_reject_share": 1.0,
                **inputs,
            },
            train={"step_records": 7},
        )
        inlets = open_inlets(job)
        letters = DeadLetters(job.input.dead_letters)
        cutter = SizeCutter(job, inlets)
        with StepReader(job, inlets, UnwrittenJournal(), letters, cutter=cutter, clock=lambda: 0.0) as reader:
            seen: list = []
            try:
                while not seen or not seen[-1][-1]:
                    step = reader.next(timeout_s=1.0)
                    assert step is not None
                    seen.append(
                        (to_bytes(step.batch), [*step.keys], reader.state(), step.watermark_ms, step.digest, step.ended)
                    )
            except ConfigError as error:  # a stream that is in another unit from its beginning
                seen.append(str(error))
            told = reader.progress()
            return [seen, told.held, told.jumps, told.stalled_s, told.dead_letters]

    return run


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), odd=st.sampled_from([0.0, 0.02, 0.2]), agree=st.integers(1, 3))
def test_records_taken_together_make_the_steps_of_records_taken_one_by_one(streams, outcome, seed, odd, agree):
    """Times go back and jump, some are in seconds, some records are none."""
    random, both = Random(seed), streams(2)
    time_s = START_MS / 1000
    for number in range(random.randint(1, 60)):
        time_s += random.choice([0, 0.001, 1, 1, 5, -3])
        partition, strange = random.randint(0, 1), random.random() < odd
        at_s = random.choice([time_s + 86_400, time_s / 1000, time_s + 61]) if strange else time_s
        both.show(f"r{number}", at_s, partition)
        if random.random() < 0.4:
            both.act(f"r{random.randint(0, number)}", time_s, partition)
        if random.random() < odd:
            both.features.put(partition, None, b"no event", START_MS, START_MS)
    config = {"jump_records": agree, "max_out_of_order_s": random.choice([0.0, 4.0]), "max_future_s": 1e6}
    assert outcome(1, **config) == outcome(NEVER, **config)
