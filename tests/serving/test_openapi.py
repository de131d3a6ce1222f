"""The OpenAPI document is valid, complete, and what the server does; its page asks nobody for anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest

from monolith.config.job import ServeConfig
from monolith.serving import server as server_module
from monolith.serving.openapi import document
from monolith.serving.replica import Replica
from monolith.serving.server import ReplicaServer

JSON = "application/json"


@pytest.fixture(params=["memory", "direct"])
def address(request, start_server, recommender, url):
    return start_server(Replica.open(url, "demo", request.param), mode=request.param, settings=ServeConfig(max_rows=5))


def validator(about: dict, schema: dict):
    jsonschema = pytest.importorskip("jsonschema", reason="pip install openapi-spec-validator, which brings jsonschema")
    return jsonschema.Draft202012Validator({**schema, "components": about["components"]})


@pytest.mark.parametrize("tokens", [False, True])
def test_the_document_is_valid(tokens):
    checker = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
    checker.validate(document(tokens=tokens))


def test_every_path_of_the_server_is_in_it(recommender, url):
    with Replica.open(url, "demo") as replica:
        app = ReplicaServer(replica).app
        served = {(route.path, method.lower()) for route in app.routes for method in route.methods if method != "HEAD"}
    told = {(path, method) for path, methods in document(tokens=False)["paths"].items() for method in methods}
    assert told == served
    assert all(path in server_module.PATHS for path, _ in told)


def test_tokens_are_wanted_by_all_paths_but_health_where_there_are_any():
    assert document(tokens=False)["security"] == []
    about = document(tokens=True)
    assert about["security"] == [{"bearer": []}]
    for path, methods in about["paths"].items():
        for operation in methods.values():
            assert (operation.get("security") == []) == (path == "/health")
            assert ("401" in operation["responses"]) == (path != "/health")


ASKED = [
    ("POST", "/lookup", {"name": "user", "values": [1, 9]}, 200),
    ("POST", "/lookup", {"lookups": {"user": [1, 9], "tags": ["new"]}}, 200),
    ("POST", "/lookup", {"name": "none", "values": [1]}, 400),
    ("POST", "/lookup", {"name": "user", "values": [1] * 6}, 413),
    ("POST", "/lookup", "text/csv", 415),
    ("POST", "/predict", {"samples": [{"user": 1}], "event_time_ms": 5}, 200),
    ("POST", "/predict", {"shared": {"user": 1}, "candidates": {"movie": [10], "tags": [["new"]]}}, 200),
    ("POST", "/predict", {"samples": 5}, 400),
    ("POST", "/predict", {"samples": [{}] * 6}, 413),
    ("POST", "/predict", "text/csv", 415),
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("GET", "/version", None, 200),
]


def test_answers_are_as_the_document_has_them(address):
    about = httpx.get(f"{address}/openapi.json").json()
    for method, path, content, status in ASKED:
        body = {"json": content} if isinstance(content, dict) else {}
        if isinstance(content, str):
            body = {"content": b"x", "headers": {"Content-Type": content}}
        response = httpx.request(method, address + path, **body)
        assert response.status_code == status, response.text
        operation = about["paths"][path][method.lower()]
        schema = operation["responses"][str(status)]["content"][JSON]["schema"]
        validator(about, schema).validate(response.json())
        if status == 200 and isinstance(content, dict):
            validator(about, operation["requestBody"]["content"][JSON]["schema"]).validate(content)


def test_a_server_without_a_model_answers_as_the_document_has_it(start_server, tmp_path):
    address = start_server(Replica.open(f"lmdb://{tmp_path}/none", "demo", timeout_s=None))
    about = httpx.get(f"{address}/openapi.json").json()
    for path in ("/ready", "/version"):
        response = httpx.get(address + path)
        assert response.status_code == 503
        validator(about, about["paths"][path]["get"]["responses"]["503"]["content"][JSON]["schema"]).validate(
            response.json()
        )


def test_its_examples_are_questions_of_their_schemas():
    about = document(tokens=False)
    for path in ("/lookup", "/predict"):
        content = about["paths"][path]["post"]["requestBody"]["content"][JSON]
        assert len(content["examples"]) == 2
        for example in content["examples"].values():
            validator(about, content["schema"]).validate(example["value"])
    with pytest.raises(Exception, match="not valid under any"):
        validator(about, {"$ref": "#/components/schemas/LookupQuestion/properties/values/items"}).validate(1.5)


class Page(HTMLParser):
    """What a page refers to, and the tags it leaves open."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "action", "data", "srcset")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_every_path_and_asks_nobody_for_anything(address):
    response = httpx.get(f"{address}/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = Page(response.text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import", response.text)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    about = httpx.get(f"{address}/openapi.json").json()
    for path, methods in about["paths"].items():
        assert f"</b> {path}</h2>" in response.text
        for operation in methods.values():
            assert all(f"<code>{status}</code>" in response.text for status in operation["responses"])
    assert all(f"schema-{name}" in page.ids for name in about["components"]["schemas"])
