"""What a server answers, as an OpenAPI 3.1 document: ``GET /openapi.json``.

Schemas of JSON bodies are made of the structs that read them (`questions`) and of those here, which say what answers
hold; a test holds real answers to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from monolith import __version__
from monolith.serving import body
from monolith.serving.follower import Freshness
from monolith.serving.ledger import Version
from monolith.serving.metrics import CONTENT_TYPE as METRICS
from monolith.serving.questions import CandidatesQuestion, LookupQuestion, Sample, TogetherQuestion
from monolith.serving.replica import Age

JSON, BINARY, HTML = "application/json", body.CONTENT_TYPE, "text/html; charset=utf-8"
_REF = "#/components/schemas/{name}"


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON answer: has these fields and no others."""


class SamplesQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Feature values as events hold them, one mapping a sample, and when they are shown (ms since the epoch)."""

    samples: list[Sample]
    event_time_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class LookupRows(_Answer):
    """Rows, one a value: of a value without a row zeros, or the row that it shares; null for what is no number."""

    name: str
    dim: int
    rows: list[list[float | None]]
    generation: int
    sequence: int


class NamedRows(_Answer):
    """Rows of one name, and which of its values have rows of their own."""

    dim: int
    rows: list[list[float | None]]
    found: list[bool]


class TogetherRows(_Answer):
    """Rows by name, all of one version."""

    lookups: dict[str, NamedRows]
    generation: int
    sequence: int


class Probabilities(_Answer):
    """Of a model with one binary task: a probability a sample or candidate."""

    probabilities: list[float]
    generation: int
    sequence: int


class Predictions(_Answer):
    """Of any other model: by task, probabilities of binary ones and numbers of the others."""

    predictions: dict[str, list[float]]
    generation: int
    sequence: int


class Alive(_Answer):
    """The process lives."""

    status: str


class Ready(_Answer):
    """Questions can be answered."""

    status: str
    stale_ms: float
    age: Age


class NotReady(_Answer):
    """Why a load balancer should ask another server; ages where there is a model, but its trainer is silent."""

    error: str
    stale_ms: float | msgspec.UnsetType = msgspec.UNSET
    age: Age | msgspec.UnsetType = msgspec.UNSET


class Served(Version, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is served, and how old it is."""

    model: str
    payload: str
    ready: bool
    stale_ms: float
    trouble: str | None
    age: Age
    freshness: Freshness | None
    applied: int
    images: int


class Failure(_Answer):
    """What was wrong, what is allowed and what to do."""

    error: str


_STRUCTS = (
    LookupQuestion, TogetherQuestion, SamplesQuestion, CandidatesQuestion, LookupRows, TogetherRows, Probabilities,
    Predictions, Alive, Ready, NotReady, Served, Failure,
)  # fmt: skip
_OF_CONNECTIONS = {
    400: "What came is no HTTP request",
    408: "The request's header or body was not there in time",
    431: "The header is too long",
    503: "The server has as many connections as it may have",
}
_OF_TOKENS = {401: "The server wants a bearer token, and this request had none, or another"}
_OF_QUESTIONS = {
    400: "A body, a name or a value is not understood, or what came is no HTTP request",
    413: "More rows, values or bytes than the server's settings allow: split the request",
    415: "Another content type, or a packed body (`Content-Encoding`)",
    500: "Damaged data in the store or the model",
    503: "No model yet, too much to do, or too many connections; `Retry-After` says when to come again",
}
_OF_REPLICAS = {500: "Damaged data in the store", 503: "No model yet, or too many connections"}


def document(*, tokens: bool) -> dict[str, Any]:
    """The document of a server, which wants a bearer token or does not."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "monolith serve",
            "version": __version__,
            "description": "Embedding rows and predictions of one model; each answer is of one version of it. "
            "Another path is 404, another method 405, both with an error as everywhere.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}] if tokens else [],
        "paths": {
            "/lookup": {"post": _lookup()},
            "/predict": {"post": _predict()},
            "/health": {"get": _get("health", "Whether the process lives", {}, Alive) | {"security": []}},
            "/ready": {"get": _ready()},
            "/version": {"get": _get("version", "What is served, how fresh and how stale", _OF_REPLICAS, Served)},
            "/metrics": {"get": _get("metrics", "Prometheus's text format", {}, kind=METRICS)},
            "/openapi.json": {"get": _get("openapi", "This document", {}, kind=JSON)},
            "/docs": {"get": _get("docs", "This document, to be read in a browser", {}, kind=HTML)},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _lookup() -> dict[str, Any]:
    examples = {
        "one name": {"name": "user", "values": [17, 42]},
        "several names, of one version": {"lookups": {"user": [17, 42], "tag": ["new"]}},
    }
    return _post(
        "lookup",
        "Rows of a table's ids or of a feature's values",
        "A name is a feature, whose values are encoded as in training, or a table, whose ids are taken as they are. In "
        "binary, little-endian: version 1 for one name, version 2 for several, see `docs/formats.md` of the project.",
        (LookupQuestion, TogetherQuestion),
        examples,
        (LookupRows, TogetherRows),
    )


def _predict() -> dict[str, Any]:
    examples = {
        "samples": {"samples": [{"user": 17, "movie": 50}]},
        "candidates of one user": {"shared": {"user": 17}, "candidates": {"movie": [50, 51], "tags": [["new"], []]}},
    }
    return _post(
        "predict",
        "Predictions for samples, or for candidates that share features",
        "Candidates are columns, a value a candidate; `shared` features are given, looked up and pooled once. In "
        "binary candidates only, see `docs/formats.md` of the project.",
        (SamplesQuestion, CandidatesQuestion),
        examples,
        (Probabilities, Predictions),
    )


def _post(
    name: str,
    summary: str,
    description: str,
    questions: Sequence[type],
    examples: dict[str, Any],
    answers: Sequence[type],
) -> dict[str, Any]:
    shown = {what: {"value": value} for what, value in examples.items()}
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _any_of(questions), "examples": shown}, BINARY: {"schema": {}}},
        },
        "responses": {
            "200": {
                "description": "In the form of the question",
                "content": {JSON: {"schema": _any_of(answers)}, BINARY: {"schema": {}}},
            },
            **_errors({**_OF_CONNECTIONS, **_OF_TOKENS, **_OF_QUESTIONS}),
        },
    }


def _get(
    name: str, summary: str, errors: dict[int, str], answer: type | None = None, kind: str = JSON
) -> dict[str, Any]:
    schema = {} if answer is None else _any_of([answer])
    if answer is None and kind != JSON:
        schema = {"type": "string"}
    tokens = {} if name == "health" else _OF_TOKENS
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {kind: {"schema": schema}}},
            **_errors({**_OF_CONNECTIONS, **tokens, **errors}),
        },
    }


def _ready() -> dict[str, Any]:
    operation = _get("ready", "Whether questions can be answered", {}, Ready)
    operation["responses"]["503"] = {
        "description": "No model yet, a trainer silent for longer than `serve.max_age_s`, or too many connections",
        "content": {JSON: {"schema": _any_of([NotReady])}},
    }
    return operation


def _errors(texts: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in sorted(texts):
        found[str(status)] = {"description": texts[status], "content": {JSON: {"schema": _any_of([Failure])}}}
    if "401" in found:
        found["401"]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if "503" in found:
        found["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds"}}
    return found


def _any_of(kinds: Sequence[type]) -> dict[str, Any]:
    references = [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]
    return references[0] if len(references) == 1 else {"oneOf": references}
