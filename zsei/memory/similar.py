"""Which analyses are most like one, and why: by findings, by structure, by measured profile.

All three come from stored numbers alone, so the answer is the same on every machine, with or
without an embedder.
"""

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from zsei.memory.store import Memory
from zsei.records import Record

_STEPS = 8
"""Places along the depth of a model at which profiles of different depth are compared."""
_FEWEST = 3
"""Layers that a profile needs to have a shape."""


class Alike(Record):
    """One way in which two analyses are compared."""

    by: str
    """"findings", "structure" or "profile"."""
    score: float
    """0 to 1; 1 is alike in all that is compared."""
    why: str


class Similar(Record):
    """An analysis that is like the one asked about."""

    run: str
    model: str
    score: float
    """Mean of the scores in `reasons`."""
    reasons: tuple[Alike, ...]


@dataclass(frozen=True, kw_only=True)
class _Traits:
    model: str
    family: str
    findings: Mapping[str, float]
    """Code -> sum of severities."""
    kinds: Mapping[str, int]
    """Kind of component -> how many."""
    profiles: Mapping[str, tuple[float, ...]]
    """Metric -> its mean per layer, the first layer first."""


def similar_runs(memory: Memory, run: str, limit: int = 5) -> tuple[Similar, ...]:
    """The analyses most like one, the most alike first.

    findings: cosine of the severities summed by code. structure: cosine of log(1 + count) by kind
    of component, times the ratio of the depths. profile: how the metrics both have measured run
    from the first layer to the last, as the mean over metrics of (1 + Pearson r) / 2; a metric that
    does not vary has no shape and is left out. Where no metric is left the score is 0.5, as of
    profiles that have nothing to do with each other.

    Args:
        memory: Where to look.
        run: As `Memory.get` takes it.
        limit: How many at most.

    Raises:
        UsageError: no analysis, or more than one, goes by that name.
    """
    with memory.reading() as db:
        base = memory.find(db, run)
        known = [row["id"] for row in db.execute("SELECT id FROM runs ORDER BY sequence DESC")]
        traits = {name: _traits(db, name) for name in known}
    compared = [
        Similar(
            run=name,
            model=traits[name].model,
            score=sum(alike.score for alike in reasons) / len(reasons),
            reasons=reasons,
        )
        for name in known
        if name != base
        for reasons in [_reasons(traits[base], traits[name])]
    ]
    return tuple(sorted(compared, key=lambda each: (-each.score, each.run))[:limit])


def _traits(db: sqlite3.Connection, run: str) -> _Traits:
    about = db.execute("SELECT model, family FROM runs WHERE id = ?", (run,)).fetchone()
    # Timed findings are left out: the same model on a busier machine is the same model.
    found = db.execute(
        "SELECT code, SUM(severity) AS severity FROM findings WHERE run = ? AND NOT timed "
        "GROUP BY code ORDER BY code",
        (run,),
    )
    kinds = db.execute(
        "SELECT kind, COUNT(*) AS count FROM components WHERE run = ? GROUP BY kind ORDER BY kind",
        (run,),
    )
    measured = db.execute(
        "SELECT m.name, c.layer, AVG(m.value) AS value FROM measurements AS m "
        "JOIN components AS c ON c.run = m.run AND c.id = m.component "
        "WHERE m.run = ? AND c.layer IS NOT NULL AND m.value IS NOT NULL AND m.name <> 'seconds' "
        "GROUP BY m.name, c.layer ORDER BY m.name, c.layer",
        (run,),
    )
    profiles: dict[str, list[float]] = {}
    for row in measured:
        profiles.setdefault(row["name"], []).append(row["value"])
    return _Traits(
        model=about["model"],
        family=about["family"],
        findings={row["code"]: row["severity"] for row in found},
        kinds={row["kind"]: row["count"] for row in kinds},
        profiles={name: tuple(values) for name, values in profiles.items()},
    )


def _reasons(base: _Traits, other: _Traits) -> tuple[Alike, ...]:
    return _by_findings(base, other), _by_structure(base, other), _by_profile(base, other)


def _by_profile(base: _Traits, other: _Traits) -> Alike:
    shapes = {
        name: r
        for name in sorted(base.profiles.keys() & other.profiles.keys())
        if (r := correlation(base.profiles[name], other.profiles[name])) is not None
    }
    if not shapes:
        why = "no metric of both runs along three or more layers"
        return Alike(by="profile", score=0.5, why=why)
    score = sum((1 + r) / 2 for r in shapes.values()) / len(shapes)
    best = sorted(shapes, key=lambda name: (-shapes[name], name))[:3]
    told = ", ".join(f"{name} (r {shapes[name]:.2f})" for name in best)
    why = f"{len(shapes)} metrics run along the layers of both; most alike: {told}"
    return Alike(by="profile", score=score, why=why)


def _by_findings(base: _Traits, other: _Traits) -> Alike:
    shared = sorted(base.findings.keys() & other.findings.keys())
    apart = len(base.findings.keys() ^ other.findings.keys())
    why = f"both have {', '.join(shared)}" if shared else "no finding in common"
    why += f"; {apart} kinds of finding stand on one side only" if apart else ""
    if not (base.findings or other.findings):
        return Alike(by="findings", score=1.0, why="neither has a finding")
    return Alike(by="findings", score=_cosine(base.findings, other.findings), why=why)


def _by_structure(base: _Traits, other: _Traits) -> Alike:
    def sizes(traits: _Traits) -> dict[str, float]:
        return {kind: math.log1p(count) for kind, count in traits.kinds.items()}

    depths = [max(1, traits.kinds.get("layer", 0)) for traits in (base, other)]
    score = _cosine(sizes(base), sizes(other)) * min(depths) / max(depths)
    same = base.family == other.family
    families = f"both {base.family}" if same else f"{base.family} and {other.family}"
    counts = [
        f"{base.kinds.get(kind, 0)} and {other.kinds.get(kind, 0)} of {kind}"
        for kind in ("layer", "head", "conv")
        if kind in base.kinds or kind in other.kinds
    ]
    return Alike(by="structure", score=score, why="; ".join([families, *counts]))


def _cosine(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    dot = sum(first[name] * second[name] for name in sorted(first.keys() & second.keys()))
    lengths = [math.sqrt(sum(v * v for _, v in sorted(m.items()))) for m in (first, second)]
    return min(1.0, dot / (lengths[0] * lengths[1])) if all(lengths) else 0.0


def correlation(first: tuple[float, ...], second: tuple[float, ...]) -> float | None:
    """Pearson r of two profiles, each read at the same places along its depth.

    None where one has fewer than three layers, or does not vary.
    """
    if min(len(first), len(second)) < _FEWEST:
        return None
    pairs = [_sampled(profile) for profile in (first, second)]
    centred = []
    for values in pairs:
        mean = sum(values) / len(values)
        away = [value - mean for value in values]
        length = math.sqrt(sum(value * value for value in away))
        if not length > 1e-12 * max(abs(value) for value in values):
            return None
        centred.append([value / length for value in away])
    r = sum(a * b for a, b in zip(*centred, strict=True))
    return max(-1.0, min(1.0, r))


def _sampled(profile: tuple[float, ...]) -> list[float]:
    """The profile at `_STEPS` even places from first to last layer, by linear interpolation."""
    values = []
    for step in range(_STEPS):
        place = step * (len(profile) - 1) / (_STEPS - 1)
        low = min(int(place), len(profile) - 2)
        values.append(profile[low] + (place - low) * (profile[low + 1] - profile[low]))
    return values
