"""What sharing rows costs: one job with collisionless tables, and with hashed ones of several sizes, on one stream.

Two ids that are hashed to one row are one id to the model. Of n ids in m rows ``n - m * (1 - (1 - 1/m) ** n)`` are
expected to be lost so. Everything but the kind of table is the same: the compared tables have neither admission nor
expiry, which tables of a fixed number of rows cannot have; one more variant has the job's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.config.admission import Always
from monolith.config.eviction import Unlimited
from monolith.config.expiry import Forever
from monolith.config.kinds import kind_of
from monolith.config.table import TableConfig
from monolith.datasets.judging import SHARDS, Value, shard_areas
from monolith.datasets.online import Split, follow, samples_of, train_epoch
from monolith.datasets.served import Floats, Ints, Progress, score
from monolith.errors import ConfigError
from monolith.tables.batch import Batch
from monolith.tables.vectors import vectors_of
from monolith.training.fitting import lasting
from monolith.training.learner import Learner

OWN_ROWS, WITH_RULES = "collisionless", "with the job's rules"
SIZES = (6.0, 1.0, 0.5, 0.25, 0.1)  # rows an id


class Areas(msgspec.Struct, frozen=True):
    """AUC over all judged samples, and over each of `SHARDS` equal parts of them."""

    whole: Value
    shards: list[Value]


class TableSize(msgspec.Struct, frozen=True):
    """One table of a variant."""

    ids: int  # that the samples have
    rows: int | None  # None: as many as there are ids
    lost: float  # share of the ids that have no row of their own left: 1 - rows in use / ids
    expected: float  # the same, of a perfect hash on average


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One variant and seed; a line of ``runs.jsonl``."""

    key: str
    data: str
    variant: str
    seed: int
    samples: int  # judged
    tables: dict[str, TableSize]  # those that differ between variants
    num_bytes: int  # of all tables, to answer, after the epochs
    epochs: list[Areas]  # of the judged samples after each epoch over the others
    stream: Areas | None  # of the judged samples, each scored before it was learnt, in one pass; None: not measured


def expected_lost(ids: int, rows: int) -> float:
    """The share of ``ids`` ids that lose their row to others among ``rows`` rows, on average."""
    return 1 + rows * float(np.expm1(ids * np.log1p(-1 / rows))) / ids if rows > 1 else 1 - 1 / ids


def ids_of(split: Split, feature: str) -> Ints:
    """The different ids of a feature in all samples."""
    bags = (step.batch.bags[feature] for step in (*split.earlier, *split.later))
    return np.unique(np.concatenate([np.unique(bag.ids) for bag in bags]))


def check_tables(job: JobConfig, names: Sequence[str]) -> None:
    """Raises ConfigError for a table that is not there, is not collisionless, or is read by several features."""
    tables = {table.name: table for table in job.tables}
    for name in names:
        if name not in tables:
            raise ConfigError(f"--tables {name}: the job has no such table; it has {', '.join(tables)}")
        if tables[name].kind != "collisionless" or len(tables[name].feature_names()) > 1:
            kind, features = tables[name].kind, ", ".join(tables[name].feature_names())
            raise ConfigError(
                f"--tables {name}: compared are collisionless tables of one feature; it is {kind}, of {features}"
            )


def variants(job: JobConfig, ids: Mapping[str, Ints], sizes: Sequence[float]) -> dict[str, JobConfig]:
    """The job by name of variant: ``ids`` are those of the tables to compare, ``sizes`` rows an id."""
    plain = _with(job, ids, _plain)
    found = {OWN_ROWS: plain} | {
        f"hashed, {size:g} rows an id": _with(job, ids, _hashed(ids, size)) for size in sorted(sizes, reverse=True)
    }
    return found if plain == job else found | {WITH_RULES: job}


def _with(job: JobConfig, ids: Mapping[str, Ints], change: Callable[[TableConfig], TableConfig]) -> JobConfig:
    tables = [change(table) if table.name in ids else table for table in job.tables]
    return msgspec.structs.replace(job, tables=tables)


def _plain(table: TableConfig) -> TableConfig:
    return msgspec.structs.replace(table, admission=Always(), expiry=Forever(), eviction=Unlimited(), per_feature={})


def _hashed(ids: Mapping[str, Ints], size: float) -> Callable[[TableConfig], TableConfig]:
    def change(table: TableConfig) -> TableConfig:
        rows = max(1, round(size * len(ids[table.name])))
        return msgspec.structs.replace(_plain(table), kind="hashed", rows=rows)

    return change


def sizes_of(job: JobConfig, ids: Mapping[str, Ints]) -> dict[str, TableSize]:
    """Of the compared tables, with the collisions that these very ids have."""
    return {table.name: _size(table, ids[table.name]) for table in job.tables if table.name in ids}


def _size(table: TableConfig, ids: Ints) -> TableSize:
    if table.rows is None:
        return TableSize(len(ids), None, 0.0, 0.0)
    ((_, keys),) = vectors_of(table.name, table.dim, kind_of(table)).requests(ids)
    return TableSize(len(ids), table.rows, 1 - len(np.unique(keys)) / len(ids), expected_lost(len(ids), table.rows))


def by_epoch(job: JobConfig, split: Split, epochs: int, progress: Progress) -> tuple[list[Areas], int]:
    """The judged samples' AUC after each epoch over the first part, and the bytes of the tables at the end."""
    learner, train, test = Learner(lasting(job)), split.train, split.test
    found = []
    for number in range(1, epochs + 1):
        train_epoch(learner, train, number)
        found.append(_areas(test, score(learner, test)))
        progress("epochs", number * len(train), epochs * len(train))
    return found, sum(table.num_bytes() for table in learner.tables.values())


def on_stream(job: JobConfig, split: Split, progress: Progress) -> Areas:
    """One pass over everything, as the daemon makes it: each judged sample scored before it was learnt."""
    learner = Learner(job)
    follow(learner, split.earlier, progress, "stream, first part")
    scores = follow(learner, split.later, progress, "stream, judged part")
    return _areas(samples_of(split.later).take(np.flatnonzero(split.judged)), scores[split.judged])


def _areas(samples: Batch, scores: Floats) -> Areas:
    whole, shards = shard_areas(scores, samples.labels[:, 0], SHARDS)
    return Areas(whole, shards)
