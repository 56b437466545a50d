"""How rows are put into words: numbers at full stored precision, and never a digit of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zsei.memory.chunks import some
from zsei.memory.query import Row
from zsei.records import Citation


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An answer before it is given: what it says, the rows behind it, and whether it answers."""

    text: str
    rows: tuple[Row, ...] = ()
    citations: tuple[Citation, ...] = ()
    remarks: str = ""
    """What must be known to trust it, whoever words it: one bracketed line each."""
    answered: bool = True
    """False when nothing in memory fits the question."""


def refusal(text: str) -> Draft:
    """Nothing fits: said plainly, without rows or citations."""
    return Draft(text=text, answered=False)


def number(value: object) -> str:
    """A stored number, digit for digit."""
    return repr(value) if isinstance(value, int | float) else str(value)


def measured(row: Row) -> str:
    """`value unit (std, n)` of a measurement row, or why there is none."""
    if row["value"] is None:
        note = f" ({row['note']})" if row.get("note") else ""
        return f"could not be told{note}"
    text = number(row["value"])
    if row.get("unit"):
        text += f" {row['unit']}"
    details = [f"{name} {number(row[name])}" for name in ("std", "n") if row.get(name)]
    return text + (f" ({', '.join(details)})" if details else "")


def names(values: object) -> str:
    """A few of the names in a row, joined."""
    return some([str(value) for value in values]) if isinstance(values, Sequence) else ""


def plural(kind: object) -> str:
    """Several of a kind: heads, branches."""
    return f"{kind}es" if str(kind).endswith(("s", "sh", "ch")) else f"{kind}s"


def because(outcome: object, reason: object) -> str:
    """A verdict's reason, without the outcome that it may begin with."""
    return str(reason).removeprefix(f"{outcome}:").strip()


def cite(rows: Iterable[Row], text: str = "") -> tuple[Citation, ...]:
    """One citation per analysis and finding that the rows come from."""
    found: dict[tuple[str, str | None], Citation] = {}
    for row in rows:
        run, finding = str(row["run"]), row.get("finding")
        finding = str(finding) if finding else None
        about = text or str(row.get("metric") or row.get("code") or "")
        if row.get("component"):
            about = f"{about} of {row['component']}".strip()
        found.setdefault((run, finding), Citation(run=run, finding=finding, text=about))
    return tuple(found.values())


def source(row: Row) -> str:
    """The citation at the end of a line."""
    finding = f", {row['finding']}" if row.get("finding") else ""
    return f"[{row['run']}{finding}]"


def where(rows: Sequence[Row]) -> str:
    """The analyses that rows come from, with the model's name: for the head of an answer."""
    runs = {str(row["run"]): str(row["model"]) for row in rows}
    if len(runs) == 1:
        ((run, model),) = runs.items()
        return f"analysis {run} ({model})"
    return f"{len(runs)} analyses"
