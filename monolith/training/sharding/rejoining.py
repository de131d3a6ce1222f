"""Ranks go on with the rows that each left when another was lost, beside the snapshot's rows of the one that was.

What belongs to a table as a whole must be the same in all its parts. The parts were left within one batch of another,
and those of a lost rank are older, so all take the latest clock and count of steps of any part, and one place of the
sweep. No part knows any more what was removed before, so that the next delta is an image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError
from monolith.tables import Table, _core
from monolith.training.sharding import orders
from monolith.training.sharding.hot_tables import agree
from monolith.training.sharding.learner import DividedLearner
from monolith.training.sharding.orders import Channel
from monolith.training.sharding.own_parts import check_same_snapshot
from monolith.training.sharding.rescue import hot_bytes, part_folder

_NO_PLACE = -1


def watch(learner: DividedLearner, channel: Channel, folder: Path, step: int) -> None:
    """Have ``learner``'s rows left below ``folder``, should another rank be lost; it stands after ``step``."""
    learner.place.step = step
    channel.rescuer.watch(learner, folder)


def rejoined(learner: DividedLearner, order: orders.Rejoin) -> bytes:
    """Take this rank's rows; the answer is empty. Collective, but where it raises before the parts are there.

    Raises ConfigError for another snapshot than rank 0's, and as `Table.open` and `part_folder`.
    """
    failed: Exception | None = None
    try:
        _take(learner, order)
    except Exception as error:  # raised below: the others wait for what this rank says of its parts
        failed = error
    said = learner.transport.gather(np.concatenate([[failed is not None], _clockworks(learner, order.lost)]))
    if failed is not None:
        raise failed
    if not said[:, 0].any():
        _bring_up(learner, said[:, 1:], order)
        agree(learner.transport, learner.parts.hot_tables, learner.parts.parts)
    return b""


def _take(learner: DividedLearner, order: orders.Rejoin) -> None:
    if learner.rank in order.lost:
        check_same_snapshot(Path(order.tables), order.manifest, learner.rank)
        learner.load_own(Path(order.tables))
        return
    tables = []
    for part in learner.parts.parts:
        folder = part_folder(Path(order.folder), learner.rank, part.division.config.name, part.part)
        tables.append(Table.open(folder, part.division.part_config(), buckets=part.table.buckets))
    if late := [table.config.name for table in tables if table.sequence > order.sequence + 1]:
        raise CorruptError(f"tables {late} were left after sequence {order.sequence}, which the step journal ends with")
    for hot in learner.parts.hot_tables:
        hot.take_left(*hot_bytes(Path(order.folder), learner.rank, hot.name))
    learner.parts.replace_parts(tables)


def _clockworks(learner: DividedLearner, lost: list[int]) -> npt.NDArray[np.int64]:
    """Of each table the latest clock and count of steps of this rank's parts, and their place in the sweep."""
    said = np.full((len(learner.parts.divisions), 3), np.iinfo(np.int64).min)
    for part in learner.parts.parts:
        now = part.table.native.clockwork()
        place = _NO_PLACE if learner.rank in lost else now.sweep_cursor
        said[part.number] = np.maximum(said[part.number], [now.clock_ms, now.steps, place])
    return said.reshape(-1)


def _bring_up(learner: DividedLearner, said: npt.NDArray[np.int64], order: orders.Rejoin) -> None:
    everyones = said.reshape(len(said), -1, 3)
    newest = everyones.max(axis=0)
    first = next(rank for rank in range(len(said)) if rank not in order.lost)
    following = order.sequence + 1
    for part in learner.parts.parts:
        native = part.table.native
        clock_ms, steps, _ = newest[part.number].tolist()
        place, eviction = int(everyones[first, part.number, 2]), native.clockwork().eviction_cursor
        native.set_clockwork(_core.Clockwork(following, following, clock_ms, place, steps, eviction))
