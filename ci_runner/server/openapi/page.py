"""The API's documentation as one page, made from the OpenAPI document, without external resources."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from typing import Final

import falcon

from ci_runner.model.json_schema import Schema
from ci_runner.server.openapi.document import document
from ci_runner.server.openapi.openapi_json import Operation, RequestBody, Response

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 code { font-size: 1rem; } .method { text-transform: uppercase; font-weight: bold; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .2rem .6rem .2rem 0;
vertical-align: top; border-bottom: 1px solid #8884; }
pre { overflow-x: auto; background: #8882; padding: .6rem; }
section { margin: 2rem 0; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""


@cache
def page() -> str:
    """Return the page as HTML."""
    api = document()
    info = api["info"]
    operations = [
        _operation(path, method, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in api["components"]["schemas"].items()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(info['title'])} API</title>"
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        "<p>Send your key as <code>Authorization: Bearer ci_…</code>. Errors are JSON: "
        '<code>{"detail": "…"}</code>. For machines: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(operations)}<h1>Schemas</h1>{''.join(schemas)}</body></html>"
    )


def _operation(path: str, method: str, operation: Operation) -> str:
    rows = [
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
        f"<td>{escape(item.get('description', ''))}</td></tr>"
        for item in operation.get("parameters", ())
    ]
    parameters = (
        f"<table><tr><th>Parameter</th><th>in</th><th></th></tr>{''.join(rows)}</table>" if rows else ""
    )
    answers = [
        f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td><td>{_links(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    ]
    body = f"<p>Body: {_links(operation['requestBody'])}</p>" if "requestBody" in operation else ""
    open_to_all = "" if operation["security"] else "<p>Needs no key.</p>"
    return (
        f'<section><h2><span class="method">{escape(method)}</span> <code>{escape(path)}</code></h2>'
        f"<p>{escape(operation['summary'])}.</p>{open_to_all}{body}{parameters}"
        f"<table><tr><th>Answer</th><th></th><th></th></tr>{''.join(answers)}</table></section>"
    )


def _links(holder: Response | RequestBody) -> str:
    parts = []
    for media, content in holder.get("content", {}).items():
        schema = content["schema"]
        name = (schema.get("$ref") or schema.get("items", {}).get("$ref") or "").rpartition("/")[2]
        link = f' <a href="#{escape(name)}">{escape(name)}</a>' if name else ""
        parts.append(f"<code>{escape(media)}</code>{link}")
    return ", ".join(parts)


def _schema(name: str, schema: Schema) -> str:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return f'<section id="{escape(name)}"><h2>{escape(name)}</h2><pre>{escape(text)}</pre></section>'


class DocsPage:
    """`GET /docs`."""

    public = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the page."""
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.text = page()
