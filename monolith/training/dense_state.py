"""The dense part's weights and its optimizer's moments as bytes: for snapshots (both) and for serving (weights).

The bytes are one safetensors file: tensor ``model.<name>`` for every entry of the module's state (weights and buffers),
``optimizer.<parameter>.<key>`` for the optimizer's, and ``steps`` for how often a model was trained that draws by
chance. Equal state gives equal bytes. Settings such as the learning rate are not in it: they come from the job file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from monolith.errors import CorruptError
from monolith.training.dense_optimizer import KEPT, DenseOptimizer, trained_weights
from monolith.training.modes import Modes

_STEPS = "steps"


def dense_weights(model: nn.Module) -> bytes:
    """The module's weights alone, under their own names, as safetensors; empty bytes for a module without any."""
    state = _copies(model.state_dict())
    return save(state) if state else b""


def load_dense_weights(model: nn.Module, data: bytes) -> None:
    """Set the weights from ``dense_weights`` bytes. Raises CorruptError, and changes nothing, if they do not fit."""
    _fill(model.state_dict(), _parse(data) if data else {}, "weight")


def save_dense_state(model: nn.Module, optimizer: DenseOptimizer, modes: Modes | None = None) -> bytes:
    """Weights and optimizer state as bytes, from which ``load_dense_state`` goes on bit for bit."""
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if modes is not None and modes.steps:
        state[_STEPS] = torch.tensor(modes.steps)
    for name, of_weight in optimizer.weight_states().items():
        state |= {f"optimizer.{name}.{key}": value for key, value in of_weight.items()}
    return save(_copies(state), metadata={"optimizer": optimizer.kind})


def load_dense_state(model: nn.Module, optimizer: DenseOptimizer, data: bytes, modes: Modes | None = None) -> None:
    """Set weights and optimizer state from ``save_dense_state`` bytes.

    Raises CorruptError, naming the tensor, if the bytes are of another model or optimizer; then nothing was changed.
    """
    tensors = _parse(data)
    _check_kind(data, optimizer.kind)
    steps = _fitting(tensors, _STEPS, torch.Size([]), torch.int64, "count") if _STEPS in tensors else torch.tensor(0)
    tensors.pop(_STEPS, None)
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    moments = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
    states = _weight_states(moments, model, optimizer.kind)
    _fill(model.state_dict(), weights, "weight")
    optimizer.set_weight_states(states)
    if modes is not None:
        modes.steps = int(steps)


class DenseState(NamedTuple):
    """What `save_dense_state` kept, whatever model it was of."""

    weights: dict[str, Tensor]
    optimizer: str  # torch's name of its kind
    moments: dict[str, dict[str, Tensor]]  # weight -> what the optimizer kept of it; empty: no step was made
    steps: int


def read_dense_state(data: bytes) -> DenseState:
    """Take ``data`` apart. Raises CorruptError for bytes that are no dense state."""
    tensors, moments = _parse(data), dict[str, dict[str, Tensor]]()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            weight, key = name.removeprefix("optimizer.").rsplit(".", 1)
            moments.setdefault(weight, {})[key] = tensor
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    return DenseState(weights, _written_by(data), moments, int(tensors.get(_STEPS, 0)))


def _weight_states(moments: Mapping[str, Tensor], model: nn.Module, kind: str) -> dict[str, dict[str, Tensor]]:
    """The optimizer's state by the weights' names, checked: all of it, or none where no step was made yet."""
    states: dict[str, dict[str, Tensor]] = {}
    known = set()
    for name, parameter in trained_weights(model):
        own = {key: f"optimizer.{name}.{key}" for key in KEPT[kind]}
        known |= set(own.values())
        if moments:
            states[name] = {key: _moment(moments, full, key, parameter) for key, full in own.items()}
    if surplus := sorted(set(moments) - known):
        raise CorruptError(
            f"the dense state holds {surplus[0]!r}, which optimizer {kind} of this model does not have: "
            f"resume with the job file that wrote it"
        )
    _check_counts(states)
    return states


def _check_counts(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise CorruptError if weights counted other steps than each other: all take part in every step."""
    counts = {name: float(state["step"]) for name, state in states.items() if "step" in state}
    if len(set(counts.values())) > 1:
        raise CorruptError(
            f"the dense state counts {counts} steps, one number for all weights is right: it is damaged, or another "
            f"program wrote it; resume from an older snapshot"
        )


def _check_kind(data: bytes, kind: str) -> None:
    """Raise CorruptError if another optimizer wrote the bytes."""
    written_by = _written_by(data)
    if written_by != kind:
        raise CorruptError(
            f"the dense state is of optimizer {written_by}, the job has {kind}: set dense_optimizer.kind back, "
            f"or start a new state folder"
        )


def _written_by(data: bytes) -> str:
    """The name that torch has for the optimizer, by the note in the safetensors header."""
    header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return str(header.get("__metadata__", {}).get("optimizer"))


def _moment(moments: Mapping[str, Tensor], name: str, key: str, parameter: Tensor) -> Tensor:
    shape = torch.Size([]) if key == "step" else parameter.shape
    return _fitting(moments, name, shape, torch.float32, "optimizer tensor")


def _fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy into every target the tensor of its name; all are checked before the first is copied."""
    if surplus := sorted(set(tensors) - set(targets)):
        raise CorruptError(f"the dense state holds {what} {surplus[0]!r}, which this model does not have")
    found = {name: _fitting(tensors, name, t.shape, t.dtype, what) for name, t in targets.items()}
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(found[name])


def _fitting(tensors: Mapping[str, Tensor], name: str, shape: torch.Size, dtype: torch.dtype, what: str) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise CorruptError(f"the dense state lacks {what} {name!r}: it is of another model or optimizer, or damaged")
    if tensor.shape != shape or tensor.dtype != dtype:
        raise CorruptError(
            f"{what} {name!r} of the dense state is {tensor.dtype} {tuple(tensor.shape)}, the model has "
            f"{dtype} {tuple(shape)}: resume with the job file that wrote it"
        )
    return tensor


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(tensor) for name, tensor in state.items()}


def _copy(tensor: Tensor) -> Tensor:
    """In main memory, wherever the tensor is: the bytes do not say where a model was trained."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _parse(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise CorruptError(f"{len(data)} bytes of dense state are not a safetensors file: {error}") from error
