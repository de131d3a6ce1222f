"""A model's dense weights in one run of memory, their gradients in another, and one optimizer over both.

A network is few numbers in many tensors. On small batches an optimizer, a check or a reset takes most of its time per
tensor and not per number, so here each is one call for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from monolith.config import DenseOptimizerConfig
from monolith.training.dense_guard import LARGEST, unfit_gradient
from monolith.training.devices import CPU

# torch's name of the optimizer, and what the optimizer keeps of a weight; "step", the count of steps, is one number.
KEPT = {"SGD": (), "Adagrad": ("step", "sum"), "Adam": ("step", "exp_avg", "exp_avg_sq")}
_NAMES = {"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam"}
_LINE = 16  # float32 of a memory line; each weight begins at one, as it would in memory of its own


def trained_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that learn, by name: those that want gradients."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class DenseOptimizer:
    """One optimizer step for all weights of ``model``: torch's function of the configured kind, fused.

    From then on the model's parameters and their gradients are views of two runs of memory: names, shapes and values
    stay, and a backward adds to the gradients in place. All weights of the model must take part in every loss.
    """

    def __init__(self, config: DenseOptimizerConfig, model: nn.Module, device: torch.device = CPU) -> None:
        """``device`` is where the model is."""
        self._model = model
        self._shapes = {name: parameter.shape for name, parameter in trained_weights(model)}
        sizes = [-(-shape.numel() // _LINE) * _LINE for shape in self._shapes.values()]
        self._starts = dict(zip(self._shapes, accumulate(sizes, initial=0), strict=False))
        self._config = config
        self.kind = _NAMES[config.kind]
        # torch has no fused Adagrad for GPUs, and what is not fused counts its steps in main memory.
        self._fused = device.type == "cpu" or self.kind != "Adagrad"
        self._weights, self._grads = (torch.zeros(sum(sizes), device=device) for _ in range(2))
        count = torch.zeros((), device=device if self._fused else CPU)
        self._state = {key: count if key == "step" else torch.zeros_like(self._grads) for key in KEPT[self.kind]}
        self._move_in()

    @property
    def gradients(self) -> Tensor:
        """All weights' gradients in one run of memory, (n,); a view."""
        return self._grads

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self._grads.zero_()

    def step(self) -> None:
        """One step on the gradients as they are."""
        weights, grads, state = [self._weights], [self._grads], {key: [run] for key, run in self._state.items()}
        options: dict[str, Any] = {"lr": self._config.lr, "weight_decay": self._config.weight_decay}
        options |= {"maximize": False, "fused": self._fused, "foreach": False}
        if self.kind == "SGD":
            sgd(weights, grads, [None], momentum=0.0, dampening=0.0, nesterov=False, **options)
        elif self.kind == "Adagrad":
            adagrad(weights, grads, state["sum"], state["step"], lr_decay=0.0, eps=1e-10, **options)
        else:
            first, second, steps = state["exp_avg"], state["exp_avg_sq"], state["step"]
            adam(weights, grads, first, second, [], steps, amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, **options)

    def unfit_gradient(self) -> str | None:
        """What `dense_guard.unfit_gradient` says of the model, in one pass where it has nothing to say."""
        if float(torch.dot(self._grads, self._grads)) <= LARGEST**2:  # the one number that a step asks of a GPU
            return None
        return unfit_gradient(self._model)

    def weight_states(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer keeps of each weight, by the weight's name: views."""
        return {
            name: {key: run if key == "step" else self._of(run, name) for key, run in self._state.items()}
            for name in self._shapes
        }

    def set_weight_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from `weight_states`, with one count of steps in all of them; no states: from before any step."""
        for run in self._state.values():
            run.zero_()
        for name, own in self.weight_states().items() if states else ():
            for key, target in own.items():
                target.copy_(states[name][key])

    def _move_in(self) -> None:
        with torch.no_grad():
            for name, parameter in trained_weights(self._model):
                weight, grad = self._of(self._weights, name), self._of(self._grads, name)
                weight.copy_(parameter)
                if parameter.grad is not None:
                    grad.copy_(parameter.grad)
                parameter.data, parameter.grad = weight, grad

    def _of(self, run: Tensor, name: str) -> Tensor:
        """The part of a run that is the weight ``name``'s, in its shape."""
        shape = self._shapes[name]
        return run[self._starts[name] :][: shape.numel()].view(shape)
