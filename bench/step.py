"""Where a small batch's training step spends its time, and the step as it was before it was made for small batches.

    python bench/step.py [--batch N] [--repeats N] [--json PATH]

The job of bench/stream.py: 26 tables of dim 17, DeepFM with an MLP of 416-128-64-1, dense Adam, one thread. Two
learners take the same samples, one batch after the other, in turns of 256 steps in this process:

  now      `Learner.step`
  former   a vector and a gradient for each feature, FM's terms by autograd, an optimizer and a guard that go from
           tensor to tensor, and slices of a batch that are checked like any batch

Printed are samples a second of wall time with the ratio of neighbouring turns, median and quartiles, then the median
time of each part of a step. "around the tables" is Python and autograd between the network and the native tables.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from stream import START_MS, job_of

from monolith.tables.batch import Bag, Batch
from monolith.training.dense_guard import LARGEST
from monolith.training.inputs import Inputs
from monolith.training.learner import Learner
from monolith.training.loss import gradient_of, sampled_bce
from monolith.training.models import DeepFM

TURN = 256  # steps
FEATURES = 26
Times = dict[str, float]


class Native:
    """The native collection, timed."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.seconds = 0.0

    def forward(self, *arguments: Any) -> None:
        """As the native one."""
        start = time.perf_counter()
        self._native.forward(*arguments)
        self.seconds += time.perf_counter() - start

    def backward(self, *arguments: Any) -> Any:
        """As the native one."""
        start = time.perf_counter()
        bad = self._native.backward(*arguments)
        self.seconds += time.perf_counter() - start
        return bad


class Now:
    """The learner's step, as it is and in parts."""

    def __init__(self, batch: int) -> None:
        self.learner = Learner(job_of(FEATURES, batch))

    def piece(self, whole: Batch, start: int, stop: int) -> Batch:
        """A batch of the samples."""
        return whole[start:stop]

    def step(self, batch: Batch) -> None:
        """One training step."""
        self.learner.step(batch)

    def vectors(self, batch: Batch) -> Any:
        """What the network reads."""
        matrix = self.learner.collection.forward_matrix(batch.bags, batch.event_time_ms)
        return Inputs(matrix, self.learner.vectors, {})

    def logits(self, inputs: Any) -> torch.Tensor:
        """The network's forward."""
        logits: torch.Tensor = self.learner.model(inputs)
        return logits

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        self.learner.optimizer.zero_grad()

    def loss(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What backward is called on, and with which gradient."""
        return logits, gradient_of(self.learner.job.labels, logits.detach(), batch)

    def guard(self) -> None:
        """Look for gradients that are not fit."""
        assert self.learner.optimizer.unfit_gradient() is None

    def optimize(self) -> None:
        """The dense optimizer's step."""
        self.learner.optimizer.step()


class FormerDeepFM(DeepFM):
    """The forward that left all of FM's backward to autograd."""

    def forward(self, inputs: Any) -> torch.Tensor:
        """Logits (batch,)."""
        stacked = torch.stack([inputs[name] for name in self.vectors], dim=1)
        deep = self.mlp(stacked[:, :, 1:].flatten(start_dim=1)).squeeze(1)
        factors = stacked[:, :, 1:]
        total = factors.sum(dim=1)
        second = 0.5 * (total * total - (factors * factors).sum(dim=1)).sum(dim=1)
        return self.bias + stacked[:, :, 0].sum(dim=1) + second + deep


class Former(Now):
    """The step before: everything a feature or a tensor at a time."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        learner = self.learner
        self.model = FormerDeepFM(learner.vectors, {}, learner.job.model, 1)
        self.model.load_state_dict(learner.model.state_dict())
        self.optimizer = torch.optim.Adam(list(self.model.parameters()), lr=learner.job.dense_optimizer.lr, fused=True)

    def piece(self, whole: Batch, start: int, stop: int) -> Batch:
        """A batch that is checked again."""
        bags = {}
        for name, bag in whole.bags.items():
            bags[name] = Bag(bag.ids[start:stop], bag.lengths[start:stop])
        names = ("labels", "rates", "event_time_ms", "ingestion_time_ms", "groups", "late")
        return Batch(bags=bags, dense={}, **{name: getattr(whole, name)[start:stop] for name in names})

    def step(self, batch: Batch) -> None:
        """One training step."""
        logits = self.logits(self.vectors(batch))
        self.zero_grad()
        self.loss(logits, batch)[0].backward()  # type: ignore[no-untyped-call]
        self.guard()
        self.optimize()
        torch.sigmoid(logits.detach()).numpy()

    def vectors(self, batch: Batch) -> Any:
        """A tensor for each feature."""
        return self.learner.collection.forward_bags(batch.bags, batch.event_time_ms)

    def logits(self, inputs: Any) -> torch.Tensor:
        """The network's forward."""
        logits: torch.Tensor = self.model(inputs)
        return logits

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        self.optimizer.zero_grad()

    def loss(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss itself."""
        return sampled_bce(logits, torch.tensor(batch.labels[:, 0]), torch.tensor(batch.rates)), None

    def guard(self) -> None:
        """Weight by weight."""
        with np.errstate(over="ignore", invalid="ignore"):
            for name, weight in self.model.named_parameters():
                assert weight.grad is not None, name
                flat = weight.grad.numpy().ravel()
                assert np.dot(flat, flat) <= LARGEST**2

    def optimize(self) -> None:
        """The dense optimizer's step."""
        self.optimizer.step()


def in_parts(who: Now, whole: Batch, batch: int) -> list[Times]:
    """The seconds of each part of each step."""
    collection = who.learner.collection._collection
    native = collection._native = Native(collection._native)  # type: ignore[assignment]
    steps: list[Times] = []
    for start in range(0, len(whole) - batch + 1, batch):
        native.seconds = 0.0
        clock = [time.perf_counter()]

        def done(clock: list[float] = clock) -> None:
            clock.append(time.perf_counter())

        piece = who.piece(whole, start, start + batch)
        done()
        inputs = who.vectors(piece)
        done()
        forward_native = native.seconds
        logits = who.logits(inputs)
        done()
        who.zero_grad()
        done()
        loss, gradient = who.loss(logits, piece)
        done()
        loss.backward(gradient)  # type: ignore[no-untyped-call]
        done()
        who.guard()
        done()
        who.optimize()
        done()
        torch.sigmoid(logits.detach()).numpy()
        done()
        steps.append(_named(clock, forward_native, native.seconds))
    collection._native = native._native
    return steps


def _named(clock: list[float], forward_native: float, native: float) -> Times:
    """The parts of a step by the moments at which each ended; ``native`` seconds of it were in the tables."""
    sliced, looked_up, forward, zeroed, lost, backward, guarded, optimized, scored = np.diff(clock)
    return {
        "slicing the batch": sliced,
        "tables, native": native,
        "around the tables, forward": looked_up - forward_native,
        "dense forward": forward,
        "loss and scores": lost + scored,
        "dense backward": backward - (native - forward_native),
        "zeroing and guarding gradients": zeroed + guarded,
        "dense optimizer": optimized,
    }


def samples_of(count: int, seed: int = 0) -> Batch:
    """Samples with one id of each feature, some frequent, most rare."""
    rng = np.random.default_rng(seed)
    ones, times = np.ones(count, np.int32), START_MS + np.arange(count)
    return Batch(
        bags={f"f{k}": Bag(rng.zipf(1.2, count) % 100_000, ones) for k in range(FEATURES)},
        dense={},
        labels=(rng.random((count, 1)) < 0.2).astype(np.float32),
        rates=np.ones(count, np.float32),
        event_time_ms=times,
        ingestion_time_ms=times,
        groups=times,
        late=np.zeros(count, np.bool_),
    )


def turn(who: Now, whole: Batch, batch: int) -> float:
    """Samples a second over a turn."""
    started = time.perf_counter()
    for start in range(0, len(whole), batch):
        who.step(who.piece(whole, start, start + batch))
    return len(whole) / (time.perf_counter() - started)


def compared(contenders: dict[str, Now], whole: Batch, batch: int, repeats: int) -> dict[str, list[float]]:
    """Rates of each, turn by turn; who begins changes."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    length = TURN * batch
    for number in range(repeats):
        start = number * length % (len(whole) - length + 1)
        names = list(contenders) if number % 2 else list(contenders)[::-1]
        for name in names:
            rates[name].append(turn(contenders[name], whole[start : start + length], batch))
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=40, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    whole = samples_of(4 * TURN * args.batch)
    contenders = {"former": Former(args.batch), "now": Now(args.batch)}
    compared(contenders, whole, args.batch, 2)  # the rows come in, the caches fill
    rates = compared(contenders, whole, args.batch, args.repeats)
    low, ratio, high = np.quantile(np.array(rates["now"]) / np.array(rates["former"]), [0.25, 0.5, 0.75])
    steps: dict[str, list[Times]] = {name: [] for name in contenders}
    for piece in whole.pieces(TURN // 4 * args.batch):  # in turns too, so that a busy machine is busy for both
        for name, who in contenders.items():
            steps[name] += in_parts(who, piece, args.batch)
    parts = {name: medians(each) for name, each in steps.items()}
    for name, rate in rates.items():
        print(f"{name:<8}{np.median(rate):>10,.0f} samples/s at batch {args.batch}")
    print(f"now / former {ratio:.2f}x ({low:.2f} to {high:.2f})\n\n{'microseconds a step':<32}{'former':>8}{'now':>8}")
    for part in parts["now"]:
        print(f"{part:<32}{parts['former'][part]:>8.0f}{parts['now'][part]:>8.0f}")
    print(f"{'all':<32}{sum(parts['former'].values()):>8.0f}{sum(parts['now'].values()):>8.0f}")
    if args.json:
        report = {"machine": machine(), "rates": rates, "ratio": [low, ratio, high], "parts_us": parts}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def medians(steps: list[Times]) -> Times:
    """The median microseconds of each part."""
    return {part: float(np.median([step[part] for step in steps])) * 1e6 for part in steps[0]}


if __name__ == "__main__":
    main()
