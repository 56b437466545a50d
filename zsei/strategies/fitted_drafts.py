"""Drafts of the proposals whose edits are fitted to calibration data."""

from collections import Counter
from collections.abc import Mapping

import networkx as nx
from pydantic import JsonValue

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Measurement, Proposal
from zsei.strategies import find_strategy
from zsei.strategies.factorise_linear import thin_linears
from zsei.strategies.merge_neurons import LEAST
from zsei.strategies.replace_layer import ReplaceParams, chosen_edits, errors_left
from zsei.strategies.strategy import Fitting, Scores
from zsei.subject.types import Subject
from zsei.surgery.merge import unit_reader

Duplicates = Mapping[tuple[str, str], tuple[tuple[int, int, float], ...]]
"""(component, site kind) -> (unit, unit, correlation) of units that repeat each other."""
FITTED = ("merge-neurons", "factorise-linear", "replace-layer")
LIKENESS = (0.9999, LEAST)
"""|correlation| from which units are merged: copies alone, then all that count as duplicates."""
ENERGY = 0.999
"""Share of a linear's output energy that its factors must keep."""


def fitted_drafts(
    strategy: str, subject: Subject, scores: Scores, duplicates: Duplicates, layers: int
) -> list[Proposal]:
    """Drafts of one of the strategies in `FITTED`, with the loss predicted where it can be.

    Args:
        strategy: Its name.
        subject: With its program.
        scores: Estimated divergence per unit.
        duplicates: Which units repeat each other.
        layers: How many layers to draft a replacement for, each alone.
    """
    if strategy == "merge-neurons":
        return [
            draft for least in LIKENESS for draft in _merges(subject, scores, duplicates, least)
        ]
    if strategy == "factorise-linear":
        return _factors(subject)
    return _maps(subject, scores, layers)


def _merges(
    subject: Subject, scores: Scores, duplicates: Duplicates, least: float
) -> list[Proposal]:
    """One draft with all groups of duplicates, of components whose reader allows it.

    Predicted: of each unit that goes the loss of holding it at its mean, times the share of its
    variance that no line in the unit that stays explains, 1 - r^2.
    """
    assert subject.program is not None
    groups: dict[str, JsonValue] = {}
    loss = 0.0
    for (component, kind), pairs in sorted(duplicates.items()):
        site = next(
            (s for s in subject.anatomy.sites if (s.component, s.kind) == (component, kind)), None
        )
        own = {(i, j): r for i, j, r in pairs if abs(r) >= least}
        known = scores.get((component, kind))
        if site is None or known is None or not own or component in groups:
            continue
        try:
            unit_reader(subject.program, site)
        except UsageError:
            continue
        partners = Counter(unit for pair in own for unit in pair)
        alike: nx.Graph[int] = nx.Graph()
        alike.add_edges_from(own)
        found: list[JsonValue] = []
        for members in sorted(sorted(group) for group in nx.connected_components(alike)):
            # The unit with most duplicates stays.
            stays = max(members, key=lambda unit: (partners[unit], -unit))
            gone = [unit for unit in members if unit != stays]
            found.append([stays, *gone])
            for unit in gone:
                r = own.get((min(unit, stays), max(unit, stays)), least)
                loss += known[unit] * (1 - min(abs(r), 1.0) ** 2)
        groups[component] = found
    if not groups:
        return []
    predicted = Measurement(
        name="predicted_loss", value=loss, unit="predicted divergence",
        note="what no line in the unit that stays explains",
    )  # fmt: skip
    return [
        Proposal.make(
            strategy="merge-neurons",
            components=tuple(groups),
            params={"groups": list(groups.values())},
            expected=(predicted,),
        )
    ]


def _factors(subject: Subject) -> list[Proposal]:
    """One draft for all linears whose weights are near a low rank; nobody predicts its loss."""
    names = thin_linears(subject, ENERGY)
    draft = Proposal.make(
        strategy="factorise-linear", components=names, params={"kept": ENERGY}
    )  # fmt: skip
    return _settled(subject, draft) if names else []


def _maps(subject: Subject, scores: Scores, layers: int) -> list[Proposal]:
    """The least important layers, each alone replaced by a map.

    Predicted: the loss of leaving the layer out, times the share of that squared error which the
    map leaves.
    """
    known = sorted(
        (scores[site.component, "layer"][0], site.component)
        for site in subject.anatomy.sites
        if site.kind == "layer"
        and (site.component, "layer") in scores
        and "#" not in site.component
    )
    drafts, edits = [], []
    for loss, name in known[:layers]:
        for draft in _settled(subject, Proposal.make(strategy="replace-layer", components=(name,))):
            params = ReplaceParams.model_validate(draft.params)
            if params.form is not None:
                drafts.append((loss, draft))
                edits += chosen_edits(draft.strategy, subject.anatomy, draft, None, params.form)
    # One pass over the data for all of them.
    found = []
    for (loss, draft), left in zip(drafts, errors_left(subject, edits), strict=True):
        if left is not None:
            predicted = Measurement(
                name="predicted_loss", value=loss * left, unit="predicted divergence",
                note="of leaving the layer out, by the share of the error that the map leaves",
            )  # fmt: skip
            found.append(draft.model_copy(update={"expected": (predicted,)}))
    return found


def _settled(subject: Subject, draft: Proposal) -> list[Proposal]:
    strategy = find_strategy(draft.strategy)
    assert isinstance(strategy, Fitting)
    try:
        return [strategy.settled(subject, {}, draft)]
    except (SurgeryRefused, UsageError, RuntimeError):  # torch: sums that cannot be solved
        return []
