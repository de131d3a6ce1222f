"""From the bodies of questions to the bodies of answers, for one replica; `server` has the paths and the connections.

What is asked, in which form, is seen by content type and, of JSON, by its keys: ``lookups`` makes a look-up one of
several names, ``candidates`` a prediction one of candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from starlette.responses import Response

from monolith.config.job import ServeConfig
from monolith.serving import body, scoring, together
from monolith.serving.allowance import Share
from monolith.serving.candidates import Candidates
from monolith.serving.inference import Prediction, Rows, widest
from monolith.serving.ledger import Version
from monolith.serving.pieces import Pieces, at_once
from monolith.serving.questions import (
    check_rows,
    decode_candidates,
    decode_lookup,
    decode_raw_candidates,
    decode_samples,
    decode_time,
    decode_together,
    has_key,
)
from monolith.serving.replica import Replica, Samples

JSON = "application/json"
BINARY = body.CONTENT_TYPE
VALUE_BYTES = 64  # of memory that a value of a prediction takes besides its row: an object, an id, a weight
JSON_FLOAT_BYTES = 20
SMALL_JSON_BYTES = 4096  # a body that the event loop reads itself
SMALL_JSON_LOOKUP = 256  # ids of it, whose rows take longer to be written than to be found
SMALL_LOOKUP = 1024  # ids that it looks up itself
PIECE_FLOATS = 8192  # written as JSON at one go


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and how many rows it took."""

    response: Response
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What makes an answer, and whether it takes no more than microseconds where the rows are in memory."""

    pieces: Pieces[Answer]
    small: bool


class Answers:
    """Any thread may call it. What is too large, not understood or not to be had raises as `Replica` does."""

    def __init__(self, replica: Replica, settings: ServeConfig) -> None:
        self._replica = replica
        self._settings = settings

    def lookup(self, kind: str, data: bytes, share: Share) -> Work:
        """A look-up of one name or of several."""
        if kind == BINARY and together.is_together(data):
            questions = together.decode_request(data)
            rows = sum(map(len, questions.values()))
            return Work(at_once(lambda: self._binary_together(questions, share)), rows <= SMALL_LOOKUP)
        if kind == BINARY:
            name, ids = body.decode_request(data)
            return Work(at_once(lambda: self._binary_rows(name, ids, share)), len(ids) <= SMALL_LOOKUP)
        small = len(data) <= SMALL_JSON_BYTES and data.count(b",") < SMALL_JSON_LOOKUP
        return Work((self._json_together if has_key(data, "lookups") else self._json_rows)(data, share), small)

    def predict(self, kind: str, data: bytes, share: Share) -> Work:
        """A prediction for samples or for candidates."""
        if kind == BINARY:
            return Work(self._binary_candidates(data, share), False)
        return Work((self._json_candidates if has_key(data, "candidates") else self._samples)(data, share), False)

    # --- look-ups ---

    def _binary_rows(self, name: str, ids: Any, share: Share) -> Answer:
        check_rows(len(ids), self._settings)
        rows = self._replica.read(name, ids)
        share.grow(rows.values.nbytes)
        answer = body.LookupAnswer(rows.version.generation, rows.version.sequence, rows.values)
        return Answer(Response(body.encode_response(answer), media_type=BINARY), len(ids))

    def _binary_together(self, questions: dict[str, Any], share: Share) -> Answer:
        count = sum(map(len, questions.values()))
        check_rows(count, self._settings)
        answer = self._replica.lookup_together(questions)
        share.grow(sum(rows.values.nbytes + len(rows.found) for rows in answer.rows.values()))
        told = together.TogetherAnswer(answer.version.generation, answer.version.sequence, answer.rows)
        return Answer(Response(together.encode_response(told), media_type=BINARY), count)

    def _json_rows(self, data: bytes, share: Share) -> Pieces[Answer]:
        question = decode_lookup(data, self._settings)
        yield
        rows: Rows = self._replica.read(question.name, question.values)
        share.grow(rows.values.size * JSON_FLOAT_BYTES)
        text = yield from _json_matrix(rows.values)
        result = {"name": question.name, "dim": rows.values.shape[1], "rows": text}
        return Answer(as_json(result | _version_fields(rows.version)), len(rows.values))

    def _json_together(self, data: bytes, share: Share) -> Pieces[Answer]:
        questions = decode_together(data, self._settings)
        yield
        answer = self._replica.lookup_together(questions)
        share.grow(sum(rows.values.size for rows in answer.rows.values()) * JSON_FLOAT_BYTES)
        result = {}
        for name, rows in answer.rows.items():
            text = yield from _json_matrix(rows.values)
            result[name] = {"dim": rows.values.shape[1], "rows": text, "found": rows.found.tolist()}
        count = sum(map(len, questions.values()))
        return Answer(as_json({"lookups": result} | _version_fields(answer.version)), count)

    # --- predictions ---

    def _samples(self, data: bytes, share: Share) -> Pieces[Answer]:
        share.grow(self._prediction_bytes(min(data.count(b",") + 1, self._settings.max_values)))
        prediction = yield from self._replica.predicting(
            lambda: cast(Iterator[Samples], decode_samples(data, self._settings)), decode_time(data, self._settings)
        )
        return _json_scores(prediction)

    def _json_candidates(self, data: bytes, share: Share) -> Pieces[Answer]:
        share.grow(self._prediction_bytes(min(data.count(b",") + 1, self._settings.max_values)))
        candidates, time_ms = decode_candidates(data, self._settings)
        yield
        return _json_scores((yield from self._scored(candidates, time_ms)))

    def _binary_candidates(self, data: bytes, share: Share) -> Pieces[Answer]:
        raw = scoring.decode_request(data)
        share.grow(self._prediction_bytes(min(len(data) // 4, self._settings.max_values)))
        candidates = decode_raw_candidates(raw, self._settings)
        yield
        prediction = yield from self._scored(candidates, raw.event_time_ms)
        version = prediction.version
        told = scoring.ScoreAnswer(version.generation, version.sequence, prediction.values, prediction.is_probability)
        return Answer(Response(scoring.encode_response(told), media_type=BINARY), len(prediction))

    def _scored(self, candidates: Candidates, time_ms: int | None) -> Pieces[Prediction]:
        return self._replica.predicting_candidates(candidates, time_ms)

    def _prediction_bytes(self, values: int) -> int:
        return values * (VALUE_BYTES + 4 * self._largest_dim())

    def _largest_dim(self) -> int:
        return max(1, widest(self._replica.card()))


def as_json(content: object, status: int = 200) -> Response:
    """A response of a server."""
    return Response(msgspec.json.encode(content), status, media_type=JSON)


def _json_matrix(values: Any) -> Pieces[msgspec.Raw]:
    """Rows (n, dim) as JSON, a piece at a time."""
    count, dim = values.shape
    step = max(1, PIECE_FLOATS // dim)
    texts = []
    for first in range(0, count, step):
        texts.append(msgspec.json.encode(values[first : first + step].tolist())[1:-1])
        yield
    return msgspec.Raw(b"[" + b",".join(texts) + b"]")


def _json_scores(prediction: Prediction) -> Answer:
    by_task = {task: values.tolist() for task, values in prediction.values.items()}
    result: dict[str, Any] = {"predictions": by_task}
    if prediction.is_probability:
        result = {"probabilities": next(iter(by_task.values()))}
    return Answer(as_json(result | _version_fields(prediction.version)), len(prediction))


def _version_fields(version: Version) -> dict[str, Any]:
    return {"generation": version.generation, "sequence": version.sequence}
