"""What the flow graph says in words: short labels, and tooltips with every number."""

from collections.abc import Mapping
from html import escape

from zsei.records import Component, GraphEdge, GraphNode
from zsei.report.text import amount, number, short

UNITS = {"bytes": "bytes", "flops": "FLOPs", "seconds": "s"}


def escaped(text: str, limit: int = 60) -> str:
    """Clean, clip and escape foreign text."""
    return escape(short(text, limit))


def tail(name: str, limit: int) -> str:
    """The end of an id that tells it from its neighbours: `conv2`, `attention`, `features.0`."""
    last = name.rpartition("/")[2]
    pieces = last.split(".")
    numbered = not pieces[-1].strip("0123456789#")
    return short(".".join(pieces[-2:]) if numbered else pieces[-1] or name, limit)


def mark_name(node: GraphNode) -> str:
    """What stands beside a small mark."""
    return "residual" if node.kind == "residual" else tail(node.id, 18)


def node_title(node: GraphNode, component: Component | None, removed: bool) -> str:
    """Id, kind, where it stands in the model, and all attributes; escaped, one a line."""
    lines = [escaped(node.id, 160), f"kind: {escaped(node.kind)}"]
    if removed:
        lines.append("accepted for removal")
    if component is not None and component.path and component.path != node.id:
        lines.append(f"path: {escaped(component.path, 160)}")
    if component is not None and component.units:
        lines.append(f"units: {component.units}")
    return "\n".join([*lines, *_lines(node.attributes)])


def edge_title(edge: GraphEdge) -> str:
    """Both ends and all attributes; escaped, one a line."""
    ends = f"{escaped(edge.source, 120)} → {escaped(edge.target, 120)}"
    return "\n".join([ends, *_lines(edge.attributes)])


def _lines(attributes: Mapping[str, float | int | str | None]) -> list[str]:
    return [f"{escaped(name)}: {escaped(_value(name, v))}" for name, v in attributes.items()]


def _value(name: str, value: float | int | str | None) -> str:
    if value is None:
        return "could not tell"
    if isinstance(value, str):
        return value
    return amount(value, UNITS[name]) if name in UNITS else number(value)
