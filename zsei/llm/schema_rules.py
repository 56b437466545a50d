"""What every provider takes as the schema of an answer.

Providers treat open objects, defaults and optional fields differently, or drop them without a word;
answers are made of closed objects, lists and plain values instead.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

DEEPEST = 3
"""Objects inside each other, the answer itself included."""


def faults(output: type[BaseModel]) -> tuple[str, ...]:
    """What in a type of answers some provider would not take, as sentences; none where all fits."""
    schema = output.model_json_schema()
    return tuple(_walk(schema, schema.get("$defs", {}), output.__name__, 1))


def _walk(node: dict[str, Any], parts: dict[str, Any], where: str, depth: int) -> Iterator[str]:
    node = parts[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
    if "default" in node:
        yield f"{where} must have no default"
    if "anyOf" in node or "oneOf" in node:
        yield f"{where} must have one type and not be optional"
    elif node.get("type") == "object":
        properties = node.get("properties", {})
        if depth > DEEPEST:
            yield f"{where} must not lie deeper than {DEEPEST} objects"
        elif node.get("additionalProperties") is not False:
            yield f"{where} must be closed to further fields and no dict"
        elif set(node.get("required", ())) != set(properties):
            yield f"{where} must require all of its fields"
        else:
            for name, field in properties.items():
                yield from _walk(field, parts, f"{where}.{name}", depth + 1)
    elif node.get("type") == "array":
        yield from _walk(node.get("items", {}), parts, where, depth)
    elif "type" not in node and "enum" not in node and "const" not in node:
        yield f"{where} must have a type"
