"""Exact ablation of a few units of a group, to check the cheap ranking against."""

import hashlib
from collections.abc import Mapping, Sequence

from zsei.checkpoint.measure.group import Group
from zsei.importance.effects import few, mean_effect
from zsei.records import Record
from zsei.settings import Settings
from zsei.subject.types import Site
from zsei.trace.ablation import Target, ablate
from zsei.trace.engine import Engine
from zsei.trace.evidence import collect_means


class Ablated(Record):
    """Units with their cheap score and their exact effect."""

    rows: tuple[tuple[str, int, float, float], ...]
    """(key, unit, cheap score, exact effect)."""


def exact_rows(
    group: Group, engine: Engine, scores: Mapping[str, Sequence[float | None]], wanted: int,
    settings: Settings,
) -> Ablated:  # fmt: skip
    """Units of the group with their predicted and their exact effect on the output.

    The effect is the mean divergence over `truth_samples` samples when the unit is replaced
    (`settings.replacement`; layers are bypassed), the cheap score its output sensitivity.

    Args:
        group: Where the units are.
        engine: Runs the model.
        scores: Key of a place -> output sensitivity of its units.
        wanted: How many units, as many of each kind as there are.
        settings: `seed`, `replacement` and `truth_samples`.
    """
    known = [site for site in group.sites if any(s is not None for s in scores[_key(site)])]
    chosen = chosen_units(known, wanted, settings.seed)
    if not chosen:
        return Ablated(rows=())
    batches = few(group.subject.calibration, settings.truth_samples)
    sites = list({site: None for site, _ in chosen})
    effects = ablate(
        engine, group.subject.objective, batches,
        [Target(site=site, units=(unit,)) for site, unit in chosen],
        means=collect_means(engine, sites, batches), replacement=settings.replacement,
        seed=settings.seed,
    )  # fmt: skip
    found = []
    for (site, unit), effect in zip(chosen, effects, strict=True):
        cheap = scores[_key(site)][unit]
        if cheap is not None:
            found.append((_key(site), unit, cheap, mean_effect(effect)))
    return Ablated(rows=tuple(found))


def _key(site: Site) -> str:
    return f"{site.component}|{site.kind}"


def chosen_units(sites: Sequence[Site], wanted: int, seed: int) -> list[tuple[Site, int]]:
    """Units drawn by a hash of seed and name: the same ones at every checkpoint, kind by kind in
    turn, since of a hundred units drawn from all none would be a layer.
    """
    kinds: dict[str, list[tuple[Site, int]]] = {}
    for site in sites:
        for unit in range(site.units):
            kinds.setdefault(site.kind, []).append((site, unit))
    drawn = [
        sorted(units, key=lambda u: _draw(seed, u[0], u[1])) for _, units in sorted(kinds.items())
    ]
    found: list[tuple[Site, int]] = []
    for turn in range(max((len(units) for units in drawn), default=0)):
        found += [units[turn] for units in drawn if turn < len(units)]
        if len(found) >= wanted:
            break
    return found[:wanted]


def _draw(seed: int, site: Site, unit: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{site.component}|{site.kind}:{unit}".encode()).digest()
