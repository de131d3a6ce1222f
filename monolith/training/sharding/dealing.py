"""From where samples were joined to where they are trained: each rank's share of each batch, in one exchange a step.

A batch's samples are in the order of the whole step, and each rank trains a run of them (`learner.bounds`), whichever
partitions they came from. So a step is the one that rank 0 would have made and divided, at every number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from monolith.tables.batch import Batch, Ints, concatenated
from monolith.tables.batch_bytes import from_bytes, to_bytes
from monolith.training.sharding.learner import Part, bounds, scales_of, weights_of
from monolith.training.sharding.transport import Transport

_WORD = 8  # bytes that messages are counted in


class Deal(msgspec.Struct, frozen=True, array_like=True, tag="deal"):
    """Send the step's samples to where they are trained. Collective."""

    places: bytes  # (n,) int64: of this rank's samples, among all
    samples: int  # in all
    weights: list[list[float]]  # of each batch's labels, by task


def dealt(own: Batch, deal: Deal, batch_size: int, transport: Transport, *, to_all: bool) -> list[Part]:
    """A rank's part of each of the step's batches; of the step's samples it has ``own`` now. Collective.

    ``to_all``: every rank gets all samples.
    """
    places = np.frombuffer(deal.places, np.int64)
    everyone = np.arange(len(places))
    trained_by = _ranks_of(places, deal.samples, batch_size, transport.ranks)
    chosen = [everyone if to_all else np.flatnonzero(trained_by == rank) for rank in range(transport.ranks)]
    arrived = transport.send([message_of(places[each], own.take(each)) for each in chosen]).wait()
    pieces = [opened(message) for message in arrived]
    order = np.argsort(np.concatenate([of_piece for of_piece, _ in pieces]))
    return _parts(concatenated([piece for _, piece in pieces]).take(order), deal, batch_size, transport, to_all=to_all)


def _sizes(samples: int, batch_size: int) -> list[int]:
    return [min(batch_size, samples - begin) for begin in range(0, samples, batch_size)]


def _ranks_of(places: Ints, samples: int, batch_size: int, ranks: int) -> Ints:
    """Which rank trains each of the samples at ``places`` (n,)."""
    ends = np.array([bounds(size, ranks)[1:] for size in _sizes(samples, batch_size)])
    inside = places % batch_size
    trained_by: Ints = (inside[:, None] >= ends[places // batch_size]).sum(axis=1)
    return trained_by


def _parts(samples: Batch, deal: Deal, batch_size: int, transport: Transport, *, to_all: bool) -> list[Part]:
    parts, begin = [], 0
    for size, whole in zip(_sizes(deal.samples, batch_size), deal.weights, strict=True):
        first, last = (0, size) if to_all else list(pairwise(bounds(size, transport.ranks)))[transport.rank]
        piece = samples[begin : begin + last - first]
        parts.append(Part(piece, size, () if to_all else scales_of(weights_of(piece), whole)))
        begin += last - first
    return parts


def message_of(places: Ints, batch: Batch) -> Ints:
    """Numbers of samples and bytes, the places, and the batch in whole words."""
    data = to_bytes(batch)
    padded = data + bytes(-len(data) % _WORD)
    return np.concatenate([np.array([len(places), len(data)]), places, np.frombuffer(padded, np.int64)])


def opened(message: Ints) -> tuple[Ints, Batch]:
    """The places and the batch of `message_of`. Raises as `from_bytes`."""
    samples, size = message[:2].tolist()
    return message[2 : 2 + samples], from_bytes(message[2 + samples :].tobytes()[:size])


def weights_by_batch(batch: Batch, batch_size: int) -> list[Sequence[float]]:
    """What the labels of each of a step's batches weigh, by task."""
    return [weights_of(piece) for piece in batch.pieces(batch_size)]
