"""The rows that absent ids share, of a table whose parts are on several ranks: each part has all of them.

So an id's owner reads them, and starts the rows of new ids from them, as one process does. Gradients of ids without a
row go from their owners to all parts, which make the same step on the same sums: the copies stay alike. Each part saves
and publishes the rows whose numbers are in its buckets; where parts come from files, those go to all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monolith.tables import _core
from monolith.tables.buckets import BUCKETS
from monolith.training.sharding.answers import OwnPart, PartStep, Shared
from monolith.training.sharding.messages import MessageReader, as_ints
from monolith.training.sharding.transport import Transport

Ints = npt.NDArray[np.int64]


def share_gradients(transport: Transport, steps: Sequence[PartStep]) -> None:
    """Have each part take the gradients of shared rows that came to any part. Collective, if a table's ids share rows.

    They are added in the order of the global batch where each occurrence's came, else part after part.
    """
    sharing = [step for step in steps if step.shares]
    if not sharing:
        return
    message = np.concatenate([piece for step in sharing for piece in _sent(step)])
    everyones = [MessageReader(each) for each in transport.send([message] * transport.ranks).wait()]
    came: dict[int, list[Shared]] = {}
    for reader in everyones:
        while not reader.at_end:
            number, count, dim = reader.ints(3).tolist()
            came.setdefault(number, []).append(
                Shared(reader.ints(count), reader.ints(count), reader.floats(count * dim).reshape(count, dim))
            )
    together = {number: _in_order(each) for number, each in came.items()}
    for step in sharing:
        step.share_instead(together[step.part.number])


def _sent(step: PartStep) -> list[Ints]:
    shared = step.sharing() if step.in_order else _summed(step.sharing())
    head = np.array([step.part.number, *shared.grads.shape], np.int64)
    return [head, shared.numbers, shared.keys, as_ints(shared.grads)]


def _summed(shared: Shared) -> Shared:
    """One gradient for each row: the sum, one after the other."""
    numbers, places = np.unique(shared.numbers, return_inverse=True)
    sums = np.zeros((len(numbers), shared.grads.shape[1]), np.float32)
    np.add.at(sums, places, shared.grads)
    return Shared(numbers, np.zeros(len(numbers), np.int64), sums)


def _in_order(each: Sequence[Shared]) -> Shared:
    numbers, keys, grads = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
    order = np.argsort(keys, kind="stable")
    return Shared(numbers[order], keys[order], np.ascontiguousarray(grads[order]))


def spread_tails(transport: Transport, parts: Sequence[OwnPart]) -> None:
    """Have each part's shared rows be those of the parts that own them. Collective, if a table's ids share rows."""
    copying = [part for part in parts if part.division.copies_tail]
    if not copying:
        return
    message = np.concatenate([piece for part in copying for piece in _own_rows(part)])
    for reader in [MessageReader(each) for each in transport.send([message] * transport.ranks).wait()]:
        while not reader.at_end:
            _take_rows(reader, copying)


def _take_rows(reader: MessageReader, parts: Sequence[OwnPart]) -> None:
    """Have those of ``parts`` that are of the table take the next rows of a message."""
    number, count, values, state = reader.ints(4).tolist()
    numbers, marks = reader.ints(count), reader.ints(count).astype(np.uint32)
    rows = reader.floats(values), reader.floats(state)
    for part in parts:
        if part.number != number:
            continue
        with part.table.writer:
            _core.table_set_tail_rows(part.table.native, numbers, marks, *rows)


def _own_rows(part: OwnPart) -> list[Ints]:
    numbers = np.arange(part.division.config.tail_rows)
    numbers = numbers[part.table.buckets.mask()[numbers % BUCKETS]]
    with part.table.writer:
        marks, values, state = _core.table_tail_rows(part.table.native, numbers)
    head = np.array([part.number, len(numbers), len(values), len(state)], np.int64)
    return [head, numbers, marks.astype(np.int64), as_ints(values), as_ints(state)]
