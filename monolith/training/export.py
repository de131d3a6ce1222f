"""The dense part as an ONNX graph, exported once a job, into which each version's weights are fed.

Inputs: one float32 (batch, width) matrix for each vector and each dense feature, by name, then one input a weight,
named ``w:<name>``. Output: ``logit``, (batch,) or, of several tasks, (batch, tasks). All names inside begin with
``w:/``, which no other name does. The batch is of any size. A replica so needs onnxruntime and no torch, and a new
version of the weights is a few hundred kB of safetensors and no new graph.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from monolith.errors import CorruptError, InputError
from monolith.training.dense_state import dense_weights, load_dense_weights

__all__ = ["DenseGraph", "dense_weights", "export_graph", "load_dense_weights"]

GRAPH_VERSION = 2  # of what is made of a model here; a kept graph of another one is not used
WEIGHT_PREFIX = "w:"
TOLERANCE = 1e-5  # relative to the largest logit of the batch, or to 1 if that is smaller: float32 rounding

_INNER_PREFIX = "w:/"
_TALKATIVE = ("torch.onnx._internal.exporter", "torch.fx.experimental.symbolic_shapes")
_SAME = 1e-3  # for inputs that no table made, whose logits may cancel: far above rounding, far below another formula
_MOST_REASON = 300  # characters of torch's reason in an error
_EXAMPLE_BATCH = 3  # the exporter takes 0 and 1 for constants


def export_graph(model: nn.Module, inputs: Mapping[str, int], kind: str = "") -> bytes:
    """The ONNX graph of a model in eval mode; takes about 3 s. Writes no file.

    ``inputs`` are the names of vectors and dense features, with their widths, in the graph's order. The bytes hold no
    weights, no traces and no paths. Raises InputError, which names ``kind`` and torch's reason, where ONNX cannot say
    what the model does, or says something else.
    """
    data = _exported(model, inputs, kind or type(model).__name__)
    _compare(data, model, inputs, kind or type(model).__name__)
    return data


def _exported(model: nn.Module, inputs: Mapping[str, int], kind: str) -> bytes:
    weights = dict(model.state_dict())
    if taken := [name for name in inputs if name.startswith(WEIGHT_PREFIX) or name in ("", "logit")]:
        raise InputError(
            f"features {taken} have names that the graph needs for itself ('logit', what begins with "
            f"{WEIGHT_PREFIX!r}, the empty name): rename them"
        )
    examples = [torch.zeros(_EXAMPLE_BATCH, dim) for dim in inputs.values()]
    batch = torch.export.Dim("batch")
    with _quietly(model), _refusing(kind):
        program = torch.onnx.export(
            _Functional(model, list(inputs), list(weights)),
            (*examples, *weights.values()),
            dynamo=True,
            dynamic_shapes=((*({0: batch} for _ in inputs), *(None for _ in weights)),),
            verbose=False,
        )
        assert program is not None  # dynamo=True gives one, or raises
    proto = program.model_proto  # made anew by every access
    _rename(proto.graph, [*inputs, *(WEIGHT_PREFIX + name for name in weights)])
    return _plain(proto)


class DenseGraph:
    """An exported graph, ready to run in onnxruntime on one thread. Any thread may call it."""

    def __init__(self, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own, with no common root but this one
            raise CorruptError(f"{len(graph)} bytes are not a graph that onnxruntime runs: {error}") from error

    def logits(
        self, vectors: Mapping[str, npt.NDArray[np.float32]], weights: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """Logits, one a task, from {feature: (batch, dim)} and {weight name without prefix: values}."""
        inputs = dict(vectors) | {WEIGHT_PREFIX + name: values for name, values in weights.items()}
        result: npt.NDArray[np.float32] = self._session.run(["logit"], inputs)[0]
        return result

    def check(self, model: nn.Module, vectors: Mapping[str, Tensor], tolerance: float = TOLERANCE) -> float:
        """The largest difference from torch over these vectors, relative to the largest logit (at least 1).

        Raises CorruptError if it is above ``tolerance`` or not a number: the version must not be published.
        """
        with torch.no_grad():
            expected = model(vectors).numpy()
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        inputs = {name: vectors[name].detach().numpy() for name in self._features()}
        got = self.logits(inputs, weights)
        if not expected.size:
            return 0.0
        difference = float(np.abs(got - expected).max() / max(1.0, float(np.abs(expected).max())))
        if not difference <= tolerance:
            raise CorruptError(
                f"the exported graph and torch differ by {difference:.3g} of the largest logit over {len(expected)} "
                f"samples, at most {tolerance} is rounding: look for NaN in the weights, then export the graph again"
            )
        return difference

    def _features(self) -> list[str]:
        return [node.name for node in self._session.get_inputs() if not node.name.startswith(WEIGHT_PREFIX)]


class _Functional(nn.Module):
    """The model as a function of its vectors and its weights, so that both become inputs of the graph."""

    def __init__(self, model: nn.Module, features: list[str], weights: list[str]) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that its weights are not this module's
        self._features = features
        self._weights = weights

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits, as the model gives them."""
        vectors = dict(zip(self._features, inputs, strict=False))
        weights = dict(zip(self._weights, inputs[len(self._features) :], strict=True))
        logits: Tensor = torch.func.functional_call(self._model[0], weights, (vectors,), tie_weights=False)
        return logits


@contextmanager
def _refusing(kind: str) -> Iterator[None]:
    """Turn whatever the exporter raises into an InputError with the first words of the innermost cause."""
    try:
        yield
    except Exception as error:  # of many classes, the user's own among them
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(
            f"model {kind} cannot be served: torch makes no ONNX graph of it: {_words(cause)}. Write "
            f"its forward without branches or loops over values, for batches of any size; or train it without a store"
        ) from error


def _words(error: BaseException) -> str:
    """Its class and the first paragraph of what it says, in one line."""
    paragraph = str(error).strip().partition("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(paragraph.split())[:_MOST_REASON].rstrip('.')}"


def _compare(data: bytes, model: nn.Module, inputs: Mapping[str, int], kind: str) -> None:
    """Raise InputError unless the graph gives what torch does, of one sample and of several."""
    generator = torch.Generator().manual_seed(1)
    training = model.training
    model.eval()
    try:
        graph = DenseGraph(data)
        for samples in (1, 5):
            columns = {name: torch.randn(samples, width, generator=generator) for name, width in inputs.items()}
            graph.check(model, columns, _SAME)
    except Exception as error:  # of onnxruntime's classes, where the graph is for another number of samples
        raise InputError(
            f"model {kind} cannot be served: its ONNX graph does not do what the model does: {_words(error)}. Write "
            f"its forward without branches or loops over values, for batches of any size; or train it without a store"
        ) from error
    finally:
        model.train(training)


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """Eval mode, and none of what torch logs and prints while it exports: what matters is in the exceptions."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels, training = [logger.level for logger in loggers], model.training
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    model.eval()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        model.train(training)


def _rename(graph: Any, inputs: Sequence[str]) -> None:
    """Name the inputs and the output as documented, and all else so that it cannot collide with any of them.

    The exporter names inner values like their operators (``cat``, ``sum_1``), as a feature may be named too.
    """
    outer = dict(zip((value.name for value in graph.input), inputs, strict=True))
    outer[graph.output[0].name] = "logit"

    def renamed(name: str) -> str:
        return outer.get(name, _INNER_PREFIX + name) if name else name  # no name: an optional input left out

    for part in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.name = renamed(part.name)
    for node in graph.node:
        node.name = _INNER_PREFIX + node.name
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)


def _plain(proto: Any) -> bytes:
    """The graph without the exporter's notes (stack traces with file names), as the same bytes every time."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
