from __future__ import annotations

import pytest

from monolith.config import InputConfig, JobConfig, TableConfig, TrainConfig
from monolith.config.advice import advice


def job(**train) -> JobConfig:
    return JobConfig(
        name="j",
        input=InputConfig(samples="memory://s"),
        tables=[TableConfig(name="user", dim=4)],
        train=TrainConfig(**train),
    )


def test_batches_that_no_step_can_fill_are_told_with_the_number_to_set():
    (told,) = advice(job(batch_size=1024))
    assert "train.batch_size (1024) is above train.step_records (256)" in told
    assert "at least 1024" in told


@pytest.mark.parametrize("train", [{}, {"batch_size": 512, "step_records": 512}, {"batch_size": 16}])
def test_batches_that_fit_a_step_need_no_advice(train):
    assert list(advice(job(**train))) == []
