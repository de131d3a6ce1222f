"""The binary bodies of a prediction for candidates, ``POST /predict`` with ``Content-Type: application/x-monolith``.

::

    request   "MPRQ"  u16 version (1)  u16 columns k  u32 candidates n  u32 length of the shared features
              i64 event time in ms, the least int64: now
              the shared features, a JSON mapping
              k columns (``columns``) of n values each
    response  "MPRR"  u16 version (1)  u16 tasks  u32 n  u32 1 if there is one task, a probability, else 0
              u64 generation  u64 sequence
              a time a task: u64 length of the name, the name (UTF-8), n float32

All little-endian, each part padded with zeros to a multiple of 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.serving.aligned import Aligned, ShortError, aligned
from monolith.serving.columns import Values as ColumnValues
from monolith.serving.columns import decode_column, encode_column
from monolith.serving.errors import BrokenAnswerError

VERSION = 1
NOW = -(2**63)

_REQUEST = struct.Struct("<4sHHIIq")
_RESPONSE = struct.Struct("<4sHHIIQQ")
_LENGTH = struct.Struct("<Q")

Scores = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RawCandidates:
    """A request, of which nothing that is JSON was read yet."""

    count: int
    shared: bytes
    columns: dict[str, ColumnValues | bytes]  # bytes: a JSON list
    event_time_ms: int | None  # None: now


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """Predictions by task, and the version that they are of."""

    generation: int
    sequence: int
    scores: Scores  # task -> (n,)
    is_probability: bool  # of one task, whose loss is log


def encode_request(
    shared: Mapping[str, Any], columns: Mapping[str, ColumnValues], event_time_ms: int | None = None
) -> bytes:
    """Raises InputError for columns of several lengths, and for values that cannot be sent."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the candidates' columns have several lengths, {lengths}: give a value a candidate")
    try:
        text = msgspec.json.encode(dict(shared))
        count, time_ms = next(iter(lengths.values()), 0), NOW if event_time_ms is None else event_time_ms
        head = _REQUEST.pack(b"MPRQ", VERSION, len(columns), count, len(text), time_ms)
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise InputError(f"the shared features or the event time cannot be sent: {error}") from error
    return aligned([head, text, *(encode_column(name, values) for name, values in columns.items())])


def decode_request(data: bytes) -> RawCandidates:
    """Raises InputError for anything else than such a body."""
    columns: dict[str, ColumnValues | bytes] = {}
    try:
        body = Aligned(data)
        magic, version, names, count, length, time_ms = body.numbers(_REQUEST, "the header")
        if magic != b"MPRQ" or version != VERSION:
            raise InputError(f"the body begins with {magic!r} version {version}, not with b'MPRQ' version {VERSION}")
        shared = bytes(body.take(length, "the shared features"))
        for _ in range(names):
            name, values, column = decode_column(body)
            if name in columns:
                raise InputError(f"the body has column {name!r:.80} twice: send it once")
            if values != count:
                raise InputError(f"column {name!r:.80} has {values} values for {count} candidates: send one for each")
            columns[name] = column
        body.finish()
    except ShortError as error:
        raise InputError(f"the body cannot be read: {error}") from error
    return RawCandidates(count, shared, columns, None if time_ms == NOW else time_ms)


def encode_response(answer: ScoreAnswer) -> bytes:
    """The predictions as they go out."""
    count = len(next(iter(answer.scores.values())))
    version = (answer.generation, answer.sequence)
    parts = [_RESPONSE.pack(b"MPRR", VERSION, len(answer.scores), count, answer.is_probability, *version)]
    for task, values in answer.scores.items():
        raw = task.encode()
        parts += [_LENGTH.pack(len(raw)), raw, np.ascontiguousarray(values, "<f4").tobytes()]
    return aligned(parts)


def decode_response(data: bytes, where: str) -> ScoreAnswer:
    """What ``encode_response`` wrote; arrays are read-only. Raises BrokenAnswerError for anything else."""
    try:
        body = Aligned(data)
        magic, version, tasks, count, flag, generation, sequence = body.numbers(_RESPONSE, "the header")
        if magic != b"MPRR" or version != VERSION or not tasks:
            raise ShortError(f"it begins with {magic!r} version {version} and has {tasks} tasks")
        scores: Scores = {}
        for _ in range(tasks):
            (length,) = body.numbers(_LENGTH, "a task's head")
            task = body.text(length, "a task's name")
            scores[task] = body.array("<f4", count, f"the predictions of {task!r:.80}")
        body.finish()
    except ShortError as error:
        raise BrokenAnswerError(f"the answer of {where} cannot be read: {error}") from error
    return ScoreAnswer(generation, sequence, scores, bool(flag))
