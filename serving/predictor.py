"""From pooled vectors to predictions: the model's ONNX graph, run by onnxruntime, fed one version's weights.

The graph is made once a run. Its inputs are one float32 (batch, dim) matrix a feature, named like the feature, and one
input a dense weight, named ``w:`` and its name; its output is ``logit``, (batch,) of one task and (batch, tasks) of
several. So a new version costs no new graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.card import CardTask
from monolith.errors import CorruptError

WEIGHT_PREFIX = "w:"

Matrix = npt.NDArray[np.float32]
Weights = Mapping[str, npt.NDArray[Any]]


class Predictor:
    """A loaded graph. Any thread may call it; weights are an argument, so that one request has one version."""

    def __init__(
        self, graph: bytes, features: Sequence[str], where: str, tasks: Sequence[CardTask] = (CardTask(),)
    ) -> None:
        """Raises CorruptError if ``graph`` cannot be loaded or has no inputs for ``features``."""
        self._where = where
        self._is_log = np.array([task.loss == "log" for task in tasks])
        self._session = _load(graph, where)
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._features = [name for name in features if name in self._inputs]
        if unknown := {n for n in self._inputs if not n.startswith(WEIGHT_PREFIX)} - set(features):
            raise CorruptError(f"the graph of {where} wants inputs {sorted(unknown)}, the card has {list(features)}")

    def predict(self, vectors: Mapping[str, Matrix], weights: Weights) -> npt.NDArray[np.float32]:
        """Predictions (batch, tasks) from pooled vectors, feature -> (batch, dim).

        Of a task with loss ``log`` the probability, with ``squared`` the number itself.
        """
        feed: dict[str, npt.NDArray[Any]] = {name: vectors[name] for name in self._features}
        feed |= weights
        if missing := set(self._inputs) - set(feed):
            raise CorruptError(f"{self._where}: the graph wants {sorted(missing)}, the dense weights lack them")
        samples = len(next(iter(vectors.values()), ()))
        try:
            (logit,) = self._session.run(["logit"], {name: feed[name] for name in self._inputs})
        except Exception as error:  # as at loading: onnxruntime's errors have no common class of their own
            raise CorruptError(
                f"the graph of {self._where} cannot be run on its weights and {samples} "
                f"samples: {error}; restart the trainer, which publishes both anew"
            ) from error
        tasks = len(self._is_log)
        if logit.size != samples * tasks:
            raise CorruptError(
                f"the graph of {self._where} has an output of shape {logit.shape}, the card {tasks} tasks"
            )
        outputs = logit.reshape(samples, tasks)
        return np.where(self._is_log, sigmoid(outputs), outputs)


def load_weights(dense: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """The graph's weight inputs in a version's safetensors. Raises CorruptError if they cannot be read."""
    if not dense:
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {WEIGHT_PREFIX + name: array for name, array in load(dense).items()}
    except (SafetensorError, ValueError) as error:
        raise CorruptError(f"the dense weights of {where} cannot be read: {error}") from error


def sigmoid(logit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``1 / (1 + exp(-x))``, computed in float64 so that large logits neither overflow nor lose the small side."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit.astype(np.float64), -700.0, 700.0))), np.float32)


def _load(graph: bytes, where: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one request, one core: requests are many, and small
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common class of their own
        raise CorruptError(f"the graph of {where} cannot be loaded: {error}; restart the trainer") from error
