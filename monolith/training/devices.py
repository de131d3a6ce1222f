"""Where the dense part of a model runs, and how what it reads gets there and its gradients come back.

Tables lie in main memory, whatever the device. On a GPU, vectors, numbers and labels go to it by way of pinned memory
while the caller goes on, and predictions and gradients come back so. On the CPU nothing is moved or copied.

What only a machine with a GPU can run is in `_Cuda`, and is not tested on a GPU by us.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monolith.config.rules import device_fault
from monolith.errors import ConfigError

CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """The device that ``train.device`` names: cpu, cuda:N, or cuda, the GPU of torchrun's LOCAL_RANK, else the first.

    Raises ConfigError for another word, and where this machine has no such GPU, or none for this rank alone.
    """
    if fault := device_fault(name):
        raise ConfigError(f"train.device: {fault}")
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return CPU
    rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if number and ranks > 1:
        raise ConfigError(
            f"train.device is {name!r}, and {ranks} processes of this machine would share that GPU: set it to cuda, "
            f"which gives each one of its own, or train in one process"
        )
    wanted, there = int(number) if number else rank, _Cuda.count()
    if wanted < there:
        return _Cuda.taken(wanted)
    if not there:
        raise ConfigError(
            f"train.device is {name!r}, and torch {torch.__version__} finds no CUDA device on this machine: install a "
            f"torch with CUDA where there is a GPU and its driver, or set train.device to cpu"
        )
    who = f"rank {rank} of {ranks} on this machine" if ranks > 1 else f"train.device, {name!r},"
    raise ConfigError(
        f"{who} needs GPU {wanted}, and torch sees {there}, numbered from 0: start no more processes than there are "
        f"GPUs, name another device, or look at CUDA_VISIBLE_DEVICES"
    )


def kind_of_device(device: torch.device) -> str:
    """What equal devices say of themselves: cpu, or the GPU's name."""
    return "cpu" if device.type == "cpu" else _Cuda.name(device)


def backend_of(device: torch.device) -> str:
    """What moves tensors between ranks: those of main memory by gloo, those of GPUs by nccl."""
    return "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"


def generators(device: torch.device) -> list[torch.Generator]:
    """What a network on ``device`` draws from: torch's own generators."""
    return [torch.default_generator] if device.type == "cpu" else [torch.default_generator, _Cuda.generator(device)]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor``, of main memory and without gradients, on ``device``, where it may not have arrived yet.

    What the device is told to do next waits for it. On the CPU it is ``tensor`` itself.
    """
    return tensor if device.type == "cpu" else _Cuda.pinned(tensor).to(device, non_blocking=True)


class ToHost:
    """``tensor`` on its way to main memory, in the order of what its device was told to do."""

    def __init__(self, tensor: Tensor) -> None:
        self._is_here = tensor.device.type == "cpu"
        self._tensor = tensor if self._is_here else tensor.to("cpu", non_blocking=True)  # torch pins what it makes
        self._arrived = None if self._is_here else _Cuda.mark(tensor.device)

    def wait(self) -> Tensor:
        """The tensor, once it is there; one that was there from the start is given itself."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor


def crossed(tensor: Tensor, device: torch.device) -> Tensor:
    """``to_device`` within autograd: the gradient comes back to main memory, and backward goes on once it is there."""
    crossing: Tensor = tensor if device.type == "cpu" else _Crossing.apply(tensor, device)  # type: ignore[no-untyped-call]
    return crossing


class _Crossing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: torch.device) -> Tensor:
        del ctx
        return to_device(tensor, device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        del ctx
        return ToHost(grad).wait(), None


def on_cpu(model: nn.Module) -> nn.Module:
    """``model`` itself where it is in main memory, else a copy of it there, as it is now."""
    state = [*model.parameters(), *model.buffers()]
    return model if all(tensor.device.type == "cpu" for tensor in state) else copy.deepcopy(model).cpu()


class _Cuda:
    """The calls that need a GPU; not tested on one by us."""

    @staticmethod
    def count() -> int:
        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    @staticmethod
    def taken(number: int) -> torch.device:
        torch.cuda.set_device(number)  # else pinned memory would have each rank take some of GPU 0
        return torch.device("cuda", number)

    @staticmethod
    def name(device: torch.device) -> str:
        return torch.cuda.get_device_name(device)

    @staticmethod
    def generator(device: torch.device) -> torch.Generator:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index]

    @staticmethod
    def pinned(tensor: Tensor) -> Tensor:
        return tensor.pin_memory()

    @staticmethod
    def mark(device: torch.device) -> torch.cuda.Event:
        event: torch.cuda.Event = torch.cuda.current_stream(device).record_event()
        return event
