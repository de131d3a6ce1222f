"""A network in its two modes: scored in eval mode, trained in training mode, with chance that repeats itself.

What a model says of a sample is its output in eval mode: no dropout, batch norm by its running statistics. Progressive
validation, `score`, the exported graph and replicas all mean that one. In training mode torch's generator is set anew
for each step from (seed, number of the step), so dropout, and whatever else a user's module draws, is a function of the
learner's state and of a sample's place in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import xxhash
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from monolith.training.devices import CPU, generators
from monolith.training.inputs import Inputs


class Modes:
    """Owns the mode of ``model``, which is eval except inside a training forward, and counts its steps.

    ``always`` says that the model may differ between its modes though no layer of torch's that does is in it.
    """

    def __init__(self, model: nn.Module, seed: int, *, always: bool = False, device: torch.device = CPU) -> None:
        self._model = model.eval()
        self._seed = seed
        self._generators = generators(device)
        self._norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        drops = any(isinstance(module, _DropoutNd) for module in model.modules())
        self.differ = always or drops or bool(self._norms)
        self.steps = 0  # training forwards so far, where the modes differ; part of the state
        self._before: list[Tensor] = []  # the buffers before the newest of them

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Outputs to learn from, with gradients, and outputs that say what the model says, from before this step."""
        if not self.differ:
            outputs: Tensor = self._model(inputs)
            return outputs, outputs.detach()
        with torch.no_grad():
            said: Tensor = self._model(Inputs(inputs.matrix.detach(), inputs.widths, inputs.dense))
        return self.outputs(inputs), said

    def outputs(self, inputs: Inputs) -> Tensor:
        """Outputs to learn from alone."""
        outputs: Tensor
        if not self.differ:
            outputs = self._model(inputs)
            return outputs
        self._before = [buffer.clone() for buffer in self._model.buffers()]
        with self._training(len(inputs.matrix)):
            outputs = self._model(inputs)
        return outputs

    def pass_over(self) -> None:
        """Count a step that another process makes on its samples, where this one has none."""
        self.steps += self.differ
        self._before = []

    def unfit_statistic(self) -> str | None:
        """The first running statistic that the newest training forward made NaN or infinite, in words."""
        if not self._norms:
            return None
        kinds = ("running_mean", "running_var")
        held = {f"{name}.{kind}": getattr(norm, kind) for name, norm in self._norms.items() for kind in kinds}
        own = {name: statistic for name, statistic in held.items() if statistic is not None}
        finite = torch.stack([statistic.isfinite().all() for statistic in own.values()]).tolist() if own else []
        for name, is_finite in zip(own, finite, strict=True):  # asked of the device once
            if not is_finite:
                return f"the running statistic {name!r} holds NaN or infinity"
        return None

    def undo(self) -> None:
        """Set the buffers back to what they were before the newest training forward."""
        for buffer, before in zip(self._model.buffers(), self._before, strict=False):
            buffer.copy_(before)

    @contextmanager
    def _training(self, samples: int) -> Iterator[None]:
        """Training mode, and torch's generator at this step's place. One sample alone has no variance to learn."""
        kept = [generator.get_state() for generator in self._generators]
        for generator in self._generators:
            generator.manual_seed(xxhash.xxh3_64_intdigest(f"{self._seed} {self.steps}".encode()))
        self._model.train()
        if samples < 2:
            for norm in self._norms.values():
                norm.eval()
        try:
            yield
        finally:
            self._model.eval()
            for generator, state in zip(self._generators, kept, strict=True):
                generator.set_state(state)
            self.steps += 1
