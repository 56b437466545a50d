"""The service's documentation as one page that loads nothing from anywhere else."""

from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{border-top:1px solid #ccc;padding-top:1rem}code{background:#f3f3f3;padding:0 .2em}"
    "td{vertical-align:top;padding:.1rem 1rem .1rem 0}"
)


def documentation(openapi: dict[str, Any]) -> str:
    """A page that lists every operation of an OpenAPI document."""
    info = openapi["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))}</p>",
        "<p>As data: <a href=openapi.json>openapi.json</a>; ",
        "the messages: <a href=v1/contracts>v1/contracts</a>.</p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method, path, operation)
    return "".join(parts) + "</html>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    rows = [
        ("parameter " + p["name"], p.get("description") or p["schema"].get("pattern", ""))
        for p in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {})
    rows += [("body", f"{kind}{_model(content)}") for kind, content in body.items()]
    for status, response in operation["responses"].items():
        content = next(iter(response.get("content", {}).values()), {})
        rows.append((status, f"{response['description']}{_model(content)}"))
    table = "".join(
        f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td></tr>" for a, b in rows
    )
    return [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>",
        f"<table>{table}</table>",
    ]


def _model(content: dict[str, Any]) -> str:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f" ({name})" if name else ""
