"""The third stage: tables with the rows and widths that were found, trained from their first values.

First values are a function of seed, table, id and column, so a kept row begins with the first columns of those that
the supernet began with. No id is admitted: what was left out reads as any absent id does (zeros, or ``absent:
hashed_tail``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import msgspec
import numpy as np

from monolith.config import JobConfig, TableConfig
from monolith.config.absent import AbsentZeros
from monolith.config.admission import Always
from monolith.config.eviction import Unlimited
from monolith.optembed.budget import compact
from monolith.tables.arguments import Ids
from monolith.tables.embedding import Embedding
from monolith.tables.kinds import new_embedding, open_embedding
from monolith.training.fitting import lasting
from monolith.training.learner import Learner


def compact_job(job: JobConfig, widths: Mapping[str, int]) -> JobConfig:
    """The job with compact tables where ``widths`` has one; nothing expires."""
    tables = [compact(table, widths[table.name]) if table.name in widths else table for table in job.tables]
    return lasting(msgspec.structs.replace(job, tables=tables))


def compact_learner(job: JobConfig, ids: Mapping[str, Ids]) -> Learner:
    """A learner of a `compact_job` whose tables have rows of ``ids``, with their first values."""
    learner = Learner(job)
    made = {table.name: _filled(table, ids[table.name]) for table in job.tables if table.name in ids}
    learner.collection.replace_tables({**learner.tables, **made})
    return learner


def _filled(config: TableConfig, ids: Ids) -> Embedding:
    """A table that has rows of ``ids`` and admits no other."""
    open_to_all = {"admission": Always(), "absent": AbsentZeros(), "eviction": Unlimited()}
    table = new_embedding(msgspec.structs.replace(config, **open_to_all))
    native = table.one_table
    assert native is not None
    native.native.reserve(len(ids))
    native.observe(np.ascontiguousarray(ids))
    with tempfile.TemporaryDirectory() as folder:
        table.save(folder)
        return open_embedding(folder, config)
