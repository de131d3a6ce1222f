"""The questions of a client: what is sent, and what is made of the answer. `Client` and `AsyncClient` send them.

Integers and columns travel in binary, everything else as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError, InputError
from monolith.events import FeatureValue
from monolith.serving import body, scoring, together
from monolith.serving.errors import BrokenAnswerError

JSON = "application/json"

Ids = npt.NDArray[np.int64]
LookupValues = Sequence[int] | Sequence[str] | Ids
Scores = npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question(Generic[_T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[bytes, str], _T]  # the answer's body and where it is from; raises BrokenAnswerError
    content: bytes | None = None
    kind: str = JSON


def lookup(name: str, values: LookupValues) -> Question[body.LookupAnswer]:
    """Rows of one table or feature. Raises InputError for what is no list of values."""
    ids = _as_array(values)
    if ids.ndim == 1 and np.can_cast(ids.dtype, np.int64, "safe") and ids.dtype != np.bool_:
        content = body.encode_request(name, ids.astype(np.int64))
        return Question("POST", "/lookup", _broken_if_corrupt(body.decode_response), content, body.CONTENT_TYPE)

    def read(data: bytes, where: str) -> body.LookupAnswer:
        with _understood(where):
            answer = msgspec.json.decode(data, type=dict[str, Any])
            rows = np.array(answer["rows"], np.float32).reshape(-1, answer["dim"])
            return body.LookupAnswer(answer["generation"], answer["sequence"], rows)

    return Question("POST", "/lookup", read, _json({"name": name, "values": _as_list(values)}, "/lookup"))


def lookup_together(questions: Mapping[str, LookupValues]) -> Question[together.TogetherAnswer]:
    """Rows of several. Raises InputError for values that are neither integers nor strings."""
    listed = {name: v if isinstance(v, np.ndarray) else _as_list(v) for name, v in questions.items()}
    names = list(listed)

    def read(data: bytes, where: str) -> together.TogetherAnswer:
        return together.decode_response(data, names, where)

    return Question("POST", "/lookup", read, together.encode_request(listed), body.CONTENT_TYPE)


def predict(samples: Sequence[Mapping[str, FeatureValue]], event_time_ms: int | None) -> Question[Scores]:
    """Predictions for samples. Raises InputError for what is no JSON."""

    def read(data: bytes, where: str) -> Scores:
        with _understood(where):
            answer = msgspec.json.decode(data, type=dict[str, Any])
            if "predictions" in answer:
                return {task: np.array(values, np.float32) for task, values in answer["predictions"].items()}
            return np.array(answer["probabilities"], np.float32)

    time = {} if event_time_ms is None else {"event_time_ms": event_time_ms}
    return Question("POST", "/predict", read, _json({"samples": samples, **time}, "/predict"))


def predict_candidates(
    shared: Mapping[str, FeatureValue],
    columns: Mapping[str, Sequence[FeatureValue] | npt.NDArray[Any]],
    event_time_ms: int | None,
) -> Question[Scores]:
    """Predictions for candidates. Raises InputError for columns of several lengths, and what cannot be sent."""

    def read(data: bytes, where: str) -> Scores:
        answer = scoring.decode_response(data, where)
        return next(iter(answer.scores.values())) if answer.is_probability else answer.scores

    listed = {name: v if isinstance(v, np.ndarray) else _as_list(v) for name, v in columns.items()}
    content = scoring.encode_request(shared, listed, event_time_ms)
    return Question("POST", "/predict", read, content, body.CONTENT_TYPE)


def version() -> Question[dict[str, Any]]:
    """What is served."""

    def read(data: bytes, where: str) -> dict[str, Any]:
        with _understood(where):
            return msgspec.json.decode(data, type=dict[str, Any])

    return Question("GET", "/version", read)


def _broken_if_corrupt(decode: Callable[[bytes, str], _T]) -> Callable[[bytes, str], _T]:
    def read(data: bytes, where: str) -> _T:
        try:
            return decode(data, where)
        except CorruptError as error:
            raise BrokenAnswerError(str(error)) from error

    return read


@contextmanager
def _understood(where: str) -> Iterator[None]:
    """What reads an answer that may be another server's."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise BrokenAnswerError(  # msgspec's are ValueErrors
            f"the answer of {where} is not understood: {type(error).__name__}: {error}; is it monolith serve?"
        ) from error


def _json(content: object, path: str) -> bytes:
    try:
        return msgspec.json.encode(content)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"the question for {path} is no JSON: {error}") from error


def _as_array(values: LookupValues) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of several lengths
        raise InputError(f"a look-up takes a list of values, not {values!r:.80}: {error}") from error


def _as_list(values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping):
        raise InputError(f"a list of values is wanted, not {values!r:.80}")
    try:
        return list(values)
    except TypeError as error:
        raise InputError(f"a look-up takes a list of values, not {values!r:.80}") from error
