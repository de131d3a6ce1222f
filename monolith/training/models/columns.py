"""What the columns of a network's weights stand for, so that weights find their places in a network of other features.

An axis of a weight is said as runs ``(key, width)``: what lies side by side along it. Where two networks have a run of
the same key and width, that part of the weight means the same in both. An axis of which nothing is said means the same
wherever it has the same length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from monolith.config import ModelConfig
from monolith.config.model_rules import is_own

Runs = tuple[tuple[str, int], ...]
Axes = Mapping[str, Mapping[int, Runs]]  # weight -> axis -> what lies along it


class Network(NamedTuple):
    """What a network reads and says, by keys that mean the same in another job."""

    config: ModelConfig
    vectors: Runs  # side by side, in order
    numbers: Runs  # dense features, in order
    tasks: Runs  # of width 1


def axes_of(network: Network) -> Axes | None:
    """The axes of all weights of one of our models that depend on inputs or tasks; None: a class of the user's own."""
    if is_own(network.config.kind):
        return None
    if network.config.kind == "dcnv2":
        return _dcnv2(network)
    if network.config.kind == "dlrm":
        return _dlrm(network)
    deep = {
        "deepfm": tuple((key, width - 1) for key, width in network.vectors if width > 1),
        "widedeep": tuple((key, width) for key, width in network.vectors if width > 1),
        "mlp": network.vectors,
    }
    axes: dict[str, dict[int, Runs]] = {
        "dense.linear.weight": {0: network.tasks, 1: network.numbers},
        "bias": {0: network.tasks},
        "parts": {1: network.tasks},
        "wide": {0: network.tasks},
    }
    if network.config.kind in deep:
        axes |= _perceptron("mlp", deep[network.config.kind] + network.numbers, network.config.hidden, network.tasks)
    return axes


def _perceptron(name: str, inputs: Runs, hidden: Sequence[int], outputs: Runs) -> dict[str, dict[int, Runs]]:
    """Linear layers at twice their number; the last one has the outputs."""
    last = 2 * len(hidden)
    axes: dict[str, dict[int, Runs]] = {f"{name}.{last}.weight": {0: outputs}, f"{name}.{last}.bias": {0: outputs}}
    axes.setdefault(f"{name}.0.weight", {})[1] = inputs
    return axes


def _dcnv2(network: Network) -> Axes:
    """Each cross layer reads and gives what lies in ``x_0``; the last layer reads that beside the deep part."""
    first, config = network.vectors + network.numbers, network.config
    axes: dict[str, dict[int, Runs]] = {}
    for layer in range(config.cross_layers):
        inner, outer = f"cross.{layer}.0", f"cross.{layer}.1"
        axes |= {f"cross.{layer}.weight": {0: first, 1: first}, f"cross.{layer}.bias": {0: first}}
        axes |= {f"{inner}.weight": {1: first}, f"{outer}.weight": {0: first}, f"{outer}.bias": {0: first}}
    deep: Runs = (("the deep part", config.hidden[-1]),) if config.hidden else ()
    axes |= {"mlp.0.weight": {1: first}, "last.bias": {0: network.tasks}}
    return axes | {"last.weight": {0: network.tasks, 1: first + deep}}


def _dlrm(network: Network) -> Axes:
    """The bottom reads the numbers, the top the bottom's vector and a product for each pair."""
    own = "all numbers"
    dim = network.vectors[0][1] if network.vectors else 0
    keys = [own, *(key for key, _ in network.vectors)]
    pairs = tuple((" x ".join(sorted(pair)), 1) for pair in combinations(keys, 2))
    return {
        "bottom.0.weight": {1: network.numbers},
        **_perceptron("top", ((own, dim), *pairs), network.config.hidden, network.tasks),
    }
