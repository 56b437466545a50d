"""Was this tried before? Every proposal that memory holds, accepted or not, with its numbers."""

import json
import sqlite3
from collections.abc import Sequence

from zsei.memory.store import Memory
from zsei.records import Measurement, Outcome, Proposal, Record

NEAR = ("the same weights", "a model of the same name", "a model of the same family")
"""How near the model of an earlier try is to the one asked about, the nearest first."""


class Tried(Record):
    """One proposal that was judged before."""

    run: str
    model: str
    near: str
    """Whose it was: one of `NEAR`."""
    same_edit: bool
    """Same strategy, same components, same parameters: the very same edit."""
    proposal: str
    strategy: str
    components: tuple[str, ...]
    shared: tuple[str, ...]
    """Which of the components asked about it touched."""
    outcome: Outcome | None
    """None: it was proposed and never judged."""
    reason: str
    before: tuple[Measurement, ...] = ()
    after: tuple[Measurement, ...] = ()
    bounds: tuple[Measurement, ...] = ()


def tried_before(
    memory: Memory,
    proposal: Proposal,
    *,
    model_hash: str = "",
    model: str = "",
    family: str = "",
    outcomes: Sequence[Outcome] = (),
    limit: int = 20,
) -> tuple[Tried, ...]:
    """Earlier proposals of the same strategy on one of the same components.

    Component ids are paths in the model, so those of another model of the same family may name the
    same place; of a model of another family they say nothing, and it is not looked at.

    Args:
        memory: Where to look.
        proposal: What somebody thinks of trying; parameters decide only about `same_edit`.
        model_hash: Of which model, by its weights; "" is not known. The same for `model`, its
            name, and `family`. Without any of the three all models count as of the same family.
        outcomes: Only proposals that ended so; none is all, the rejected ones too.
        limit: How many at most.

    Returns:
        The very same edits first, then by how near the model is, then the newest first.
    """
    anyone = not (model_hash or model or family)
    found: list[tuple[tuple[int, int], Tried]] = []
    with memory.reading() as db:
        for row in db.execute(_PROPOSED, (proposal.strategy,)):
            named = (
                (row["model_hash"], model_hash),
                (row["model"], model),
                (row["family"], family),
            )
            near = next((n for n, (own, asked) in enumerate(named) if asked and own == asked), None)
            near = len(NEAR) - 1 if near is None and anyone else near
            components = tuple(json.loads(row["components"]))
            shared = tuple(name for name in proposal.components if name in components)
            if near is None or (proposal.components and not shared):
                continue
            if outcomes and row["outcome"] not in outcomes:
                continue
            same = row["id"] == proposal.id
            each = Tried(
                run=row["run"],
                model=row["model"],
                near=NEAR[near],
                same_edit=same,
                proposal=row["id"],
                strategy=row["strategy"],
                components=components,
                shared=shared,
                outcome=row["outcome"],
                reason=row["reason"] or "it was not judged",
                **_numbers(db, row["run"], row["position"]),
            )
            found.append(((0 if same else 1, near), each))
    found.sort(key=lambda pair: pair[0])  # stable: the newest stay first
    return tuple(each for _, each in found[:limit])


_PROPOSED = """
    SELECT proposals.run, proposals.id, proposals.strategy, proposals.components,
           runs.model, runs.family, runs.model_hash, outcome, reason, position
    FROM proposals JOIN runs ON runs.id = proposals.run
    LEFT JOIN verdicts ON verdicts.run = proposals.run AND verdicts.proposal = proposals.id
    WHERE proposals.strategy = ?
    ORDER BY runs.sequence DESC, proposals.priority, proposals.id"""


def _numbers(
    db: sqlite3.Connection, run: str, position: int | None
) -> dict[str, tuple[Measurement, ...]]:
    """What the gate measured, digit for digit."""
    phases: dict[str, list[Measurement]] = {"before": [], "after": [], "bounds": []}
    asked = (
        "SELECT phase, name, value, unit, std, n, state, note FROM verdict_numbers "
        "WHERE run = ? AND verdict = ? ORDER BY phase, place"
    )
    for row in db.execute(asked, (run, position)):
        phase = "bounds" if row["phase"] == "bound" else row["phase"]
        if phase in phases:
            values = {name: row[name] for name in row.keys() if name != "phase"}  # noqa: SIM118
            phases[phase].append(Measurement(**values))
    return {phase: tuple(numbers) for phase, numbers in phases.items()}
