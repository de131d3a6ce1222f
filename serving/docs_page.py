"""``GET /docs``: the OpenAPI document as one HTML page, which asks nobody for anything else and needs no script."""

from __future__ import annotations

import json
from html import escape
from typing import Any

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin: 2rem 0 .5rem; border-top: 1px solid #8886; padding-top: 1rem; overflow-wrap: anywhere; }
h2 b { font: 600 .8rem/1 monospace; padding: .2rem .4rem; border-radius: .3rem; background: #2a6f4e; color: #fff; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem; border-radius: .3rem; background: #8882; }
table { border-collapse: collapse; width: 100%; }
td { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
"""


def page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document, as `openapi.document` makes it."""
    info = document["info"]
    parts = [f"<p>{_text(info['description'])} <a href='openapi.json'>openapi.json</a></p>"]
    if document["security"]:
        parts.append("<p>Every path but <code>/health</code> wants <code>Authorization: Bearer TOKEN</code>.</p>")
    for path, methods in document["paths"].items():
        parts += [_operation(path, method, operation) for method, operation in methods.items()]
    parts.append("<h2>Bodies</h2>")
    parts += [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    title = escape(f"{info['title']} {info['version']}")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2 id='{escape(operation['operationId'])}'><b>{method.upper()}</b> {escape(path)}</h2>"]
    parts += [f"<p>{_text(operation[key])}</p>" for key in ("summary", "description") if key in operation]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Takes <code>{escape(kind)}</code>{_named(content['schema'])}</p>")
        for what, example in content.get("examples", {}).items():
            parts.append(f"<p>{escape(what)}:</p><pre>{escape(_command(path, kind, example['value']))}</pre>")
    rows = (
        f"<tr><td><code>{status}</code></td><td>{_text(response['description'])}"
        f"{''.join(map(_kind, response['content'].items()))}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return "".join([*parts, "<table>", *rows, "</table>"])


def _command(path: str, kind: str, value: object) -> str:
    return f"curl -s http://HOST:PORT{path} -H 'content-type: {kind}' -d '{json.dumps(value)}'"


def _kind(content: tuple[str, dict[str, Any]]) -> str:
    kind, about = content
    return f"<br><code>{escape(kind)}</code>{_named(about['schema'])}"


def _named(schema: dict[str, Any]) -> str:
    """Links to the schemas that a body may have."""
    names = [one["$ref"].rpartition("/")[2] for one in schema.get("oneOf", [schema]) if "$ref" in one]
    links = " or ".join(f"<a href='#schema-{escape(name)}'>{escape(name)}</a>" for name in names)
    return f", {links}" if links else ""


def _schema(name: str, schema: dict[str, Any]) -> str:
    about = {key: value for key, value in schema.items() if key not in ("title", "description")}
    return (
        f"<h3 id='schema-{escape(name)}'>{escape(name)}</h3><p>{_text(schema.get('description', ''))}</p>"
        f"<details><summary>JSON Schema</summary><pre>{escape(json.dumps(about, indent=2))}</pre></details>"
    )


def _text(text: str) -> str:
    """Plain text, in which what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
