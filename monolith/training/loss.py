"""The loss of a step: of each task the mean over its labels, weighted; summed over the tasks with their weights.

``log`` is binary cross-entropy that undoes negative sampling, so that the logit needs no correction later. Where a
slice's negatives were kept with probability r, the odds in the sample are 1/r times the true odds. Taking the loss at
``logit - ln r``, for positives and negatives of the slice alike, leaves ``logit`` itself on the true scale (Monolith's
logit correction, on the training side). ``squared`` is ``(output - label)^2``; its labels have no negatives, so rates
change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from monolith.config import TaskConfig
from monolith.tables.batch import Batch
from monolith.training.devices import to_device


def sampled_bce(logits: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Mean cross-entropy over the batch at ``logits - ln rates``; all (batch,) float32, rates in (0, 1]."""
    return functional.binary_cross_entropy_with_logits(logits - torch.log(rates), labels)


def loss_of(tasks: Sequence[TaskConfig], outputs: Tensor, batch: Batch) -> Tensor:
    """The scalar loss of a model's ``outputs``, (batch,) for one task and (batch, tasks) for several.

    A task of whose labels none weighs anything adds 0. Weights that are all 1 give the bits of no weights.
    """
    device = outputs.device
    rates = to_device(torch.tensor(batch.rates), device)
    weights = None if batch.label_weights is None else torch.tensor(batch.label_weights)
    total = None
    for place, task in enumerate(tasks):
        output = outputs if len(tasks) == 1 else outputs[:, place]
        labels = to_device(torch.tensor(batch.labels[:, place]), device)
        loss = _task_loss(task, output, labels, rates, None if weights is None else weights[:, place])
        loss = loss if task.weight == 1.0 else loss * task.weight
        total = loss if total is None else total + loss
    assert total is not None  # a job has a task
    return total


def gradient_of(tasks: Sequence[TaskConfig], outputs: Tensor, batch: Batch) -> Tensor:
    """The gradient of `loss_of` at ``outputs``, in their shape: all that a training step needs of the loss.

    Written out for a single ``log`` task without weights, where autograd takes longer than a small batch's arithmetic.
    Weights that are all 1 give the bits of no weights.
    """
    weighted = batch.label_weights is not None and not (batch.label_weights == 1).all()
    if weighted or len(tasks) > 1 or tasks[0].loss != "log":
        leaf = outputs.detach().requires_grad_()
        return torch.autograd.grad(loss_of(tasks, leaf, batch), leaf)[0]
    at, labels = outputs, to_device(torch.tensor(batch.labels[:, 0]), outputs.device)
    if not (batch.rates == 1).all():
        at = outputs - torch.log(to_device(torch.tensor(batch.rates), outputs.device))
    return (torch.sigmoid(at) - labels).mul_(tasks[0].weight / max(1, len(batch)))


def _task_loss(task: TaskConfig, output: Tensor, labels: Tensor, rates: Tensor, weights: Tensor | None) -> Tensor:
    # the weights are in main memory
    at = output - torch.log(rates) if task.loss == "log" else output
    kind = functional.binary_cross_entropy_with_logits if task.loss == "log" else functional.mse_loss
    if weights is None or bool((weights == 1).all()):
        return kind(at, labels)
    summed = (kind(at, labels, reduction="none") * to_device(weights, at.device)).sum()
    weight = float(weights.sum(dtype=torch.float64))
    return summed / weight if weight else summed


def predictions_of(tasks: Sequence[TaskConfig], outputs: Tensor) -> Tensor:
    """What the model says: of a ``log`` task the probability, of a ``squared`` one the output; shape as ``outputs``."""
    kinds = [task.loss for task in tasks]
    if "squared" not in kinds:
        return torch.sigmoid(outputs)
    if "log" not in kinds:
        return outputs
    return torch.where(torch.tensor([kind == "log" for kind in kinds]), torch.sigmoid(outputs), outputs)
