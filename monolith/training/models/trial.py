"""Whether a model of the user's can be run as it will be, found out before the first sample is read."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from monolith.errors import ConfigError
from monolith.training.devices import CPU


@contextmanager
def said(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ConfigError that says it; the cause keeps the traceback."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {type(error).__name__}: {error}") from error


def try_model(model: nn.Module, widths: Mapping[str, int], tasks: int, kind: str, device: torch.device = CPU) -> None:
    """Score one sample and several, then make a training step with a copy. Raises ConfigError; weights stay.

    ``device`` is where the model is, and what it reads.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = {name: 0.1 * torch.randn(3, width, generator=generator).to(device) for name, width in widths.items()}
    there = "" if device.type == "cpu" else f" on {device}"
    model.eval()
    with said(f"model {kind} does not run{there}"), torch.no_grad():
        several, one = model(inputs), model({name: column[:1] for name, column in inputs.items()})
    _check_outputs(several, 3, tasks, kind)
    _check_outputs(one, 1, tasks, kind)
    if not torch.allclose(several[:1], one, rtol=1e-3, atol=1e-4):
        raise ConfigError(
            f"model {kind} scores a sample {one.tolist()} alone and {several[:1].tolist()} among three: a score must "
            f"depend on its sample only, since requests are of any size"
        )
    with said(f"model {kind} cannot be trained{there}"):
        leaves = {name: column.requires_grad_() for name, column in inputs.items()}
        outputs = copy.deepcopy(model).train()(leaves)
        _check_outputs(outputs, 3, tasks, kind)
        outputs.sum().backward()
    _check_parameters(model, kind, device)


def _check_outputs(outputs: object, samples: int, tasks: int, kind: str) -> None:
    wanted = (samples,) if tasks == 1 else (samples, tasks)
    if not isinstance(outputs, Tensor) or outputs.dtype != torch.float32 or outputs.shape != wanted:
        seen = f"{outputs.dtype} {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        either = "(batch,) or (batch, 1)" if tasks == 1 else f"(batch, {tasks})"
        raise ConfigError(f"model {kind} gives {seen} of {samples} samples; it must give logits, float32 {either}")
    if not outputs.isfinite().all():
        raise ConfigError(f"model {kind} gives {outputs.tolist()} of small random inputs; logits must be finite")


def _check_parameters(model: nn.Module, kind: str, device: torch.device) -> None:
    for name, weight in model.named_parameters():
        if weight.dtype != torch.float32 or weight.device != device:
            seen = f"{weight.dtype} on {weight.device}"
            where = "the CPU, from where they are moved" if device.type == "cpu" else str(device)
            raise ConfigError(f"model {kind}: the weight {name!r} is {seen}; weights must be float32 on {where}")
