from __future__ import annotations

from collections.abc import Callable

import pytest

from monolith.config import JobConfig, parse_job
from monolith.errors import ConfigError

JOB = """\
name: movies
input:
  features: log://build/features
  actions: log://build/actions
tables:
  - name: user
    dim: 4
    optimizer: {kind: adagrad, lr: 0.05}
  - name: movie
    dim: 4
    optimizer:
      kind: adam
      beta1: 0.8
  - name: genres
    dim: 4
    features: [genres, tags]
features:
  - name: genres
    type: string
    bag: true
train:
  batch_size: 16
store: lmdb://build/store
"""


@pytest.fixture
def job_text() -> str:
    return JOB


@pytest.fixture
def parse() -> Callable[..., JobConfig]:
    """Parse the job above after replacing ``old`` by ``new`` and setting ``sets``."""

    def parse(old: str = "", new: str = "", sets: list[str] | None = None) -> JobConfig:
        assert old in JOB
        return parse_job(JOB.replace(old, new, 1) if old else JOB, "job.yaml", sets or [])

    return parse


@pytest.fixture
def refused(parse: Callable[..., JobConfig]) -> Callable[..., str]:
    """The error's text for such a job; fails unless it is refused with ``says`` in the text."""

    def refused(old: str = "", new: str = "", *, sets: list[str] | None = None, says: str = "") -> str:
        with pytest.raises(ConfigError) as caught:
            parse(old, new, sets)
        assert says in str(caught.value)
        return str(caught.value)

    return refused
