"""The collection inside a graph of ``torch.compile`` or ``torch.export``: opaque operators that call the tables.

``monolith::collection_step`` observes, looks up and pools; in backward ``monolith::collection_apply`` steps the tables.
``monolith::collection_lookup`` only reads. They are registered as ordered effects: a compiler neither drops one whose
result nobody uses, nor takes two equal ones for one, nor changes their order. What they call is what an eager model
calls, so the tables learn the same bits.

A graph knows its collection by a number that no other collection has, in this process or another. A program that was
exported, saved and loaded elsewhere therefore raises InputError; it never reads the tables of another model.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch._library.effects import EffectType

from monolith.errors import InputError
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection
from monolith.training.jagged import bags_between, event_times
from monolith.training.lookup import LookupStep, WeightGradients, applied_matrix

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class Place:
    """Where a graph finds a collection: by a number, which is a tensor, so that compiled code serves any process."""

    def __init__(self, collection: Collection, features: Sequence[str]) -> None:
        self.collection = collection
        self.features = list(features)
        self.width = sum(collection.dims)
        number = secrets.randbits(62)
        self.handle = torch.tensor(number)  # () int64
        _places[number] = self

    def bags(self, values: Tensor, lengths: Tensor, weights: Tensor | None, keys: Sequence[int]) -> list[Bag]:
        """The bag of each output; ``keys`` are numbers of features, -1 for keys that the collection does not read."""
        names = [self.features[number] if number >= 0 else f"key {place}" for place, number in enumerate(keys)]
        bags = bags_between(names, values, lengths, weights)
        return [bags[out.feature] for out in self.collection.outputs]

    def spans(self, lengths: Tensor, keys: Sequence[int]) -> list[slice]:
        """Where the ids of each output are among all."""
        ends = lengths.reshape(len(keys), -1).sum(dim=1).cumsum(dim=0).tolist()
        begins = [0, *ends]
        places = [keys.index(self.features.index(out.feature)) for out in self.collection.outputs]
        return [slice(begins[place], ends[place]) for place in places]


class _Ticket(np.ndarray[Any, Any]):
    """The memory of a ticket tensor, (1,) int64: the step lives for as long as a tensor has this memory."""

    lookup: LookupStep
    spans: list[slice]


_places: WeakValueDictionary[int, Place] = WeakValueDictionary()
_tickets: WeakValueDictionary[int, _Ticket] = WeakValueDictionary()
_numbers = count()


def pooled(
    place: Place, anchor: Tensor, features: KeyedJaggedTensor, times: int | Tensor | None, *, training: bool
) -> Tensor:
    """The pooled vectors (batch, sum of dims), by the operators.

    Raises InputError for a feature that is missing, and for an export in training mode.
    """
    if training and torch.compiler.is_exporting():
        raise InputError(
            "an exported program cannot train a collection: torch.export leaves out what tables do in backward. Call "
            "eval() on the model to export it for reading, or torch.compile it to train"
        )
    keys = features.keys()
    if features.variable_stride_per_key() or any(name not in keys for name in place.features):
        raise InputError(f"the input has keys {keys}; needed are {place.features}, with batches of one size")
    numbers = [place.features.index(key) if key in place.features else -1 for key in keys]
    weights = features.weights_or_none()
    ids = (features.values().cpu(), features.lengths().cpu(), None if weights is None else weights.cpu())
    if not training:
        read: Tensor = collection_lookup(place.handle, *ids, numbers, place.width)
        return read
    learns = weights is not None and weights.requires_grad
    when = (times.cpu(), None) if isinstance(times, Tensor) else (None, times)
    vectors: Tensor = collection_step(place.handle, anchor, *ids, *when, numbers, place.width, learns)[0]
    return vectors


def _place(handle: Tensor) -> Place:
    place = _places.get(int(handle))
    if place is None:
        raise InputError(
            "the graph reads a collection that is not in this process (an exported program carries no rows): run it "
            "where its tables are, or export the part of the model behind the collection and feed that with vectors"
        )
    return place


@torch.library.custom_op("monolith::collection_lookup", mutates_args=(), device_types="cpu")
def collection_lookup(
    handle: Tensor, values: Tensor, lengths: Tensor, weights: Tensor | None, keys: list[int], _width: int
) -> Tensor:
    """The pooled vectors (batch, width); nothing is changed."""
    place = _place(handle)
    return torch.from_numpy(place.collection.lookup(place.bags(values, lengths, weights, keys)))


@torch.library.custom_op("monolith::collection_step", mutates_args=(), device_types="cpu")
def collection_step(
    handle: Tensor,
    _anchor: Tensor,
    values: Tensor,
    lengths: Tensor,
    weights: Tensor | None,
    times_ms: Tensor | None,
    time_ms: int | None,
    keys: list[int],
    _width: int,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Observe and pool: vectors (batch, width), and the ticket (1,) int64 with which their gradients come back."""
    place = _place(handle)
    bags = place.bags(values, lengths, weights, keys)
    times = event_times(time_ms if times_ms is None else times_ms, lengths.numel() // len(keys))
    collection = place.collection
    step = collection.forward(bags, times)
    ticket = np.array([next(_numbers)], np.int64).view(_Ticket)
    ticket.lookup = LookupStep(step, collection.dims, WeightGradients(collection, bags) if learns else None)
    ticket.spans = place.spans(lengths, keys) if learns else []
    _tickets[int(ticket[0])] = ticket
    return torch.from_numpy(step.vectors), torch.from_numpy(ticket)


@torch.library.custom_op("monolith::collection_apply", mutates_args=(), device_types="cpu")
def collection_apply(ticket: Tensor, grad: Tensor, ids: int) -> tuple[Tensor, Tensor]:
    """Step the tables by the gradient (batch, width). Gives the anchor's, (0,), and that of the weights, (ids,)."""
    held = _tickets[int(ticket)]
    weight_grad = torch.zeros(ids)
    grads = applied_matrix(held.lookup, grad.numpy())
    for span, part in zip(held.spans, grads, strict=True):
        if part is not None:
            weight_grad[span] += part
    return torch.zeros(0), weight_grad


@collection_lookup.register_fake
def _(*inputs: Any) -> Tensor:
    _, _, lengths, _, keys, width = inputs
    return _matrix(lengths, keys, width)


@collection_step.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    lengths, (keys, width) = inputs[3], inputs[7:9]
    return _matrix(lengths, keys, width), lengths.new_empty((1,), dtype=torch.int64)


@collection_apply.register_fake
def _(_ticket: Tensor, grad: Tensor, ids: int) -> tuple[Tensor, Tensor]:
    return grad.new_empty((0,)), grad.new_empty((ids,))


def _matrix(lengths: Tensor, keys: Sequence[int], width: int) -> Tensor:
    return lengths.new_empty((lengths.numel() // len(keys), width), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.ids, ctx.learns = (inputs[2].numel(), True) if inputs[9] else (0, False)


def _apply(ctx: Any, grad: Tensor, _ticket_grad: Tensor | None) -> tuple[Tensor | None, ...]:
    anchor, weights = collection_apply(ctx.saved_tensors[0], grad, ctx.ids)
    return (None, anchor, None, None, weights if ctx.learns else None, *[None] * 5)


collection_step.register_autograd(_apply, setup_context=_keep)
for _operator in (collection_step, collection_apply, collection_lookup):
    _operator.register_effect(EffectType.ORDERED)
