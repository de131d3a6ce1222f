"""Dense weights of another run in this job's network: what fits by name, shape and meaning of its columns.

A weight is taken whole where it has the same name and shape and its axes stand for the same. Where inputs differ, the
parts of it are taken that belong to inputs of both networks, and the rest stays as it was drawn. The moments that the
optimizer keeps follow their weights, and those of fresh parts are 0. Adam counts its steps once for all weights, so its
moments are taken only where every weight is taken whole: by the count of old steps, fresh weights would move far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monolith.training.dense_optimizer import KEPT, DenseOptimizer, trained_weights
from monolith.training.dense_state import DenseState
from monolith.training.models.columns import Network, Runs, axes_of
from monolith.training.modes import Modes


class Found(NamedTuple):
    """What became of one part of the dense state."""

    name: str
    outcome: str  # taken, partly taken, new, left
    detail: str = ""


class _Place(NamedTuple):
    """Where in a weight the parts of another one go: positions along each axis, of the one and of the other."""

    sources: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    fresh: tuple[str, ...]  # what stays as it was drawn

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Do it."""
        if source.dim():
            target[_crossed(self.targets)] = source[_crossed(self.sources)].to(target.device)
        else:
            target.copy_(source)


def carry_dense(
    was: DenseState, before: Network, now: Network, model: torch.nn.Module, optimizer: DenseOptimizer, modes: Modes
) -> list[Found]:
    """Set what fits of ``was``, the state of the network ``before``; returns what became of each part of it."""
    if before.config.kind != now.config.kind:
        reason = f"the model was {before.config.kind}, it is {now.config.kind}"
        return [Found("all dense weights", "new", reason)]
    places = dict(_places(was, before, now, model))
    found = []
    with torch.no_grad():
        for name, target in model.state_dict().items():
            place = places[name]
            if isinstance(place, _Place):
                place.copy(was.weights[name], target)
            found.append(_found(name, place))
    found += [Found(name, "left", "the network has no such weight") for name in sorted({*was.weights} - {*places})]
    modes.steps = was.steps
    return [*found, _carry_moments(was, places, model, optimizer)]


def _found(name: str, place: _Place | str) -> Found:
    if isinstance(place, str):
        return Found(name, "new", place)
    return Found(name, "partly taken", f"fresh: {', '.join(place.fresh)}") if place.fresh else Found(name, "taken")


def _places(
    was: DenseState, before: Network, now: Network, model: torch.nn.Module
) -> Iterator[tuple[str, _Place | str]]:
    """For each tensor of the model, where the old one's parts go, or why none fits."""
    old_axes, new_axes = axes_of(before), axes_of(now)
    moved = _moved(before, now) if old_axes is None or new_axes is None else None
    for name, target in model.state_dict().items():
        source = was.weights.get(name)
        if source is None:
            yield name, "there was none"
        elif source.dim() != target.dim() or source.dtype != target.dtype:
            yield name, f"it was {_shape(source)}, it is {_shape(target)}"
        elif moved:
            yield name, moved
        else:
            old, new = (axes.get(name, {}) if axes else {} for axes in (old_axes, new_axes))
            yield name, _place(source, target, old, new)


def _moved(before: Network, now: Network) -> str | None:
    """Why no weight of a class of the user's is known to fit, which says nothing of its columns."""
    inputs, others = before.vectors + before.numbers, now.vectors + now.numbers
    if before.tasks != now.tasks:
        return "the tasks differ, and the class does not say which weights are whose"
    if inputs != others and sum(width for _, width in inputs) == sum(width for _, width in others):
        return "other inputs of the same width in all, and the class does not say which columns are whose"
    return None


def _place(source: Tensor, target: Tensor, old: Mapping[int, Runs], new: Mapping[int, Runs]) -> _Place | str:
    sources, targets, fresh = [], [], dict[str, None]()
    for axis in range(target.dim()):
        lengths = source.shape[axis], target.shape[axis]
        if old.get(axis) == new.get(axis):
            if lengths[0] != lengths[1]:
                return f"it was {_shape(source)}, it is {_shape(target)}"
            here = there = torch.arange(lengths[0])
        else:
            here, there, names = _shared(old.get(axis, ()), new.get(axis, ()))
            fresh |= dict.fromkeys(names)
            if not len(here):
                return "nothing along it is as it was"
        sources.append(here)
        targets.append(there)
    return _Place(tuple(sources), tuple(targets), tuple(fresh))


def _shared(old: Runs, new: Runs) -> tuple[Tensor, Tensor, list[str]]:
    """Positions of what both have, in the old and in the new; and names of the new ones that the old has not."""
    begins: dict[tuple[str, int], int] = {}
    at = 0
    for run in old:
        begins[run] = at
        at += run[1]
    here: list[int] = []
    there: list[int] = []
    fresh, at = [], 0
    for run in new:
        if run in begins:
            here += range(begins[run], begins[run] + run[1])
            there += range(at, at + run[1])
        else:
            fresh.append(run[0])
        at += run[1]
    return torch.tensor(here, dtype=torch.long), torch.tensor(there, dtype=torch.long), fresh


def _carry_moments(
    was: DenseState, places: Mapping[str, _Place | str], model: torch.nn.Module, optimizer: DenseOptimizer
) -> Found:
    """Set the optimizer's state of what was taken."""
    name = f"dense optimizer {optimizer.kind}"
    if was.optimizer != optimizer.kind:
        return Found(name, "new", f"it was {was.optimizer}")
    if not was.moments:
        return Found(name, "taken", "it keeps nothing" if not KEPT[optimizer.kind] else "it had made no step")
    weights = dict(trained_weights(model))
    fresh = [w for w in weights if isinstance(place := places[w], str) or place.fresh]
    if fresh and optimizer.kind == "Adam":
        return Found(
            name, "new", f"its steps are counted once for all weights, and {', '.join(fresh)} have fresh parts"
        )
    optimizer.set_weight_states({w: _moments(was, w, places[w], weights[w], optimizer.kind) for w in weights})
    return Found(name, "partly taken", f"fresh: {', '.join(fresh)}") if fresh else Found(name, "taken")


def _moments(was: DenseState, name: str, place: _Place | str, weight: Tensor, kind: str) -> dict[str, Tensor]:
    """The state of one weight, zeros where it is fresh; the count of steps is that of all weights."""
    any_state = next(iter(was.moments.values()))
    moments = {}
    for key in KEPT[kind]:
        moments[key] = any_state[key] if key == "step" else torch.zeros_like(weight, requires_grad=False)
        if key != "step" and isinstance(place, _Place) and name in was.moments:
            place.copy(was.moments[name][key], moments[key])
    return moments


def _crossed(positions: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """An index of all combinations of positions along the axes."""
    return tuple(p.view([-1 if axis == i else 1 for i in range(len(positions))]) for axis, p in enumerate(positions))


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
