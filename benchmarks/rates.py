"""How many channels, heads and layers a second are scored and ranked from what a pass collected.

`python -m benchmarks.rates`: synthetic evidence of a wide network (no model runs), then everything
from there to scores, criteria and rankings. One thread, median of some repeats. Goals: 50 000
channels, 1 000 heads and 100 layers a second.
"""

import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from zsei.importance.candidates import units_of_kind
from zsei.importance.criteria import CRITERIA
from zsei.importance.ranking import ranking_of
from zsei.records import Measurement
from zsei.subject.objective import Objective
from zsei.subject.types import Site, Subject, UnitKind
from zsei.trace.evidence import Moments, SiteEvidence
from zsei.trace.summary import Trace, UnitScores, _unit_scores

GOALS: dict[UnitKind, int] = {"channel": 50_000, "head": 1_000, "layer": 100}
ROWS = 512
SAMPLES = 64


def evidence(kind: UnitKind, sites: int, units: int, size: int) -> list[tuple[Any, Any, Any]]:
    """(site, what was kept, rows) of `sites` sites with `units` units each."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(sites):
        name = f"block.{number}"
        ids = tuple(f"{name}/{kind}.{u}" for u in range(units))
        site = Site(component=name, kind=kind, node=name, axis=1, units=units, unit_ids=ids)
        moments = []
        for _ in range(3):
            kept = Moments()
            kept.add(torch.rand((SAMPLES, units), generator=generator))
            moments.append(kept)
        kept = SiteEvidence(
            sensitivity=moments[0], zeroing=moments[1], taylor=moments[2], attribution=moments[2],
            largest=torch.rand(units, generator=generator),
        )  # fmt: skip
        rows = torch.randn((ROWS, units * size), generator=generator)
        found.append((site, kept, rows))
    return found


def score(kind: UnitKind, collected: list[tuple[Any, Any, Any]]) -> int:
    """Scores of every unit, every criterion, and a ranking by each; returns how many units."""
    objective = Objective(name="classification", output="logits", reason="")
    subject = cast(Subject, SimpleNamespace(objective=objective))
    units: dict[tuple[str, str], UnitScores] = {}
    measurements: dict[str, dict[str, Measurement]] = {}
    similarity: dict[str, np.ndarray] = {}
    for site, kept, rows in collected:
        units[site.component, kind] = _unit_scores(subject, site, kept, rows, True)
        for unit in site.unit_ids if kind in ("head", "layer") else ():
            measurements[unit] = {
                "attention_entropy": Measurement(name="attention_entropy", value=0.5),
                "block_influence": Measurement(name="block_influence", value=0.5),
            }
        if kind == "head":
            similarity[site.component] = np.eye(site.units)
    trace = Trace(measurements=measurements, units=units, means={}, head_similarity=similarity)
    everything = units_of_kind(trace, kind)
    for name, criterion in CRITERIA.items():
        scores = criterion(trace, everything)
        if scores is not None:
            ranking_of(kind, name, everything, scores)
    return len(everything)


def rate(call: Callable[[], int], repeats: int = 5) -> float:
    """Units a second, median."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        count = call()
        found.append(count / (time.process_time() - begin))
    return median(found)


def main() -> None:
    """Print what was reached beside what is aimed at."""
    torch.set_num_threads(1)
    shapes: dict[UnitKind, tuple[int, int, int]] = {
        "channel": (100, 512, 1), "head": (48, 32, 64), "layer": (96, 1, 1024),
    }  # fmt: skip
    print(f"{'kind':10} {'units':>8} {'a second':>12} {'to reach':>10}")
    for kind, (sites, units, size) in shapes.items():
        collected = evidence(kind, sites, units, size)
        reached = rate(lambda kind=kind, collected=collected: score(kind, collected))
        print(f"{kind:10} {sites * units:8} {reached:12,.0f} {GOALS[kind]:10,}")


if __name__ == "__main__":
    main()
