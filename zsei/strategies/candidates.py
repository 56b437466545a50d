"""Lists the edits worth trying on a model, with what each is expected to save and to cost.

Sizes follow the gate: for each kind the least important units are taken until their predicted
losses together reach a share of the limit. Whoever chooses (rules or a language model) chooses
among these; the gate measures what is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Measurement, Proposal
from zsei.settings import LIMITS, Settings
from zsei.strategies import STRATEGIES, find_strategy
from zsei.strategies.fitted_drafts import FITTED, Duplicates, fitted_drafts
from zsei.strategies.strategy import Fitting, Scores
from zsei.subject.streamed import too_large_to_copy
from zsei.subject.types import Site, Subject, UnitKind
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.program_form import plan_edits

SHARES_OF_LIMIT = (1e-9, 0.0002, 0.002, 0.02, 0.2)
"""Predicted losses aimed at, as shares of the limit on the divergence; the first is: nothing."""
LAYERS = 3
"""Layers proposed for removal, each alone, least important first."""
NO_MINIMA = Settings.model_construct(min_heads=1, min_channels=1, max_layer_share=1.0)
"""For reading what a proposal means; whether so much may go is asked where it is tried.
Constructed, so that neither a file nor the environment is read for it."""
UNITS: dict[str, UnitKind] = {
    "prune-heads": "head", "prune-neurons": "neuron", "prune-channels": "channel",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Atom:
    """Units of a site that can only go together, and their predicted loss."""

    site: Site
    units: tuple[int, ...]
    loss: float


def candidates(
    subject: Subject, scores: Scores, settings: Settings, duplicates: Duplicates | None = None
) -> tuple[Proposal, ...]:
    """Proposals the program can execute, each planned in full; those that cannot are left out.

    Args:
        subject: The model with its program and anatomy; without a program there are none.
        scores: Estimated divergence per unit.
        settings: Minima and the safety level, whose limits set the sizes.
        duplicates: Units that repeat each other, as the trace saw them; None: none are merged.
    """
    if subject.program is None:
        return ()
    found: dict[str, Proposal] = {}
    for strategy in STRATEGIES:
        limit = LIMITS[strategy.edit_kind][settings.safety][1]
        if strategy.name in FITTED:
            # A fit reads all weights, and a model of that size is never tried.
            large = too_large_to_copy(subject.model)
            given = (subject, scores, duplicates or {}, LAYERS)
            drafts = [] if large else fitted_drafts(strategy.name, *given)
        elif strategy.name == "remove-layer":
            drafts = _layers(subject, scores)
        else:
            atoms = _atoms(subject, UNITS[strategy.name], scores, settings)
            sizes = [_within(atoms, share * limit, settings) for share in SHARES_OF_LIMIT]
            drafts = [_proposal(strategy.name, size) for size in sizes if size]
        for draft in drafts:
            planned = _planned(subject, scores, draft, settings)
            if planned is not None:
                found[planned.id] = planned
    return tuple(found.values())


def explicit(subject: Subject, scores: Scores, proposal: Proposal) -> Proposal:
    """A proposal that names its units: a fraction is settled by the scores there are now, and what
    rests on the calibration data (ranks, groups of duplicates) by that.

    A record can then be applied without the scores. What cannot be settled stays as it is, and its
    strategy will say why.
    """
    strategy = find_strategy(proposal.strategy)
    if isinstance(strategy, Fitting):
        try:
            return strategy.settled(subject, scores, proposal)
        except (SurgeryRefused, UsageError, RuntimeError):  # torch: sums that cannot be solved
            return proposal
    if proposal.params.get("fraction") is None or proposal.strategy not in UNITS:
        return proposal
    try:
        edits = strategy.edits(subject.anatomy, scores, proposal, NO_MINIMA)
    except (SurgeryRefused, UsageError):
        return proposal
    units: JsonValue = [list(edit.units) for edit in edits if isinstance(edit, RemoveUnits)]
    named = Proposal.make(
        strategy=proposal.strategy, components=proposal.components, params={"units": units}
    )
    return proposal.model_copy(update={"id": named.id, "params": named.params})


def shrink(subject: Subject, scores: Scores, proposal: Proposal) -> Proposal | None:
    """The less important half of a rejected proposal; None when it cannot be halved."""
    kind = UNITS.get(proposal.strategy)
    if kind is None or subject.program is None:
        return None
    strategy = find_strategy(proposal.strategy)
    try:
        edits = strategy.edits(subject.anatomy, scores, proposal, NO_MINIMA)
    except (SurgeryRefused, UsageError):
        return None
    atoms = [
        atom
        for edit in edits
        if isinstance(edit, RemoveUnits)
        for atom in _site_atoms(subject, edit.site, scores)
        if set(atom.units) <= set(edit.units)
    ]
    atoms.sort(key=lambda atom: (atom.loss, atom.site.component, atom.units))
    half = atoms[: len(atoms) // 2]
    if not half:
        return None
    smaller = _proposal(proposal.strategy, half)
    return smaller.model_copy(
        update={
            "rationale": f"The less important half of {proposal.id}, which was rejected.",
            "finding_ids": proposal.finding_ids,
            "priority": proposal.priority,
            "expected": (_predicted(half),),
        }
    )


def _atoms(subject: Subject, kind: UnitKind, scores: Scores, settings: Settings) -> list[Atom]:
    """All atoms of a kind, least important first."""
    smallest = settings.min_heads if kind == "head" else settings.min_channels
    found = [
        atom
        for site in subject.anatomy.sites
        if site.kind == kind and site.units > smallest
        for atom in _site_atoms(subject, site, scores)
    ]
    return sorted(found, key=lambda atom: (atom.loss, atom.site.component, atom.units))


def _site_atoms(subject: Subject, site: Site, scores: Scores) -> list[Atom]:
    """Units one by one, or in the groups that share keys and values; none where it is refused."""
    known = scores.get((site.component, site.kind))
    assert subject.program is not None
    if known is None:
        return []
    sizes = [g for g in range(1, site.units) if site.units % g == 0]
    for size in sizes if site.kind == "head" else sizes[:1]:
        try:
            plan_edits(subject.program, [RemoveUnits(site=site, units=tuple(range(size)))])
        except SurgeryRefused:
            continue
        groups = [tuple(range(start, start + size)) for start in range(0, site.units, size)]
        return [Atom(site=site, units=g, loss=sum(known[u] for u in g)) for g in groups]
    return []


def _within(atoms: Sequence[Atom], budget: float, settings: Settings) -> list[Atom]:
    """The least important atoms whose losses together stay in the budget; minima are kept."""
    taken: list[Atom] = []
    left: dict[tuple[str, str], int] = {}
    spent = 0.0
    for atom in atoms:
        if spent + atom.loss > budget:
            break
        key = (atom.site.component, atom.site.kind)
        smallest = settings.min_heads if atom.site.kind == "head" else settings.min_channels
        remaining = left.get(key, atom.site.units) - len(atom.units)
        if remaining >= smallest:
            taken.append(atom)
            left[key] = remaining
            spent += atom.loss
    return taken


def _proposal(strategy: str, atoms: Sequence[Atom]) -> Proposal:
    """The proposal that removes these atoms."""
    units: dict[str, list[int]] = {}
    sites = {atom.site.component: atom.site for atom in atoms}
    for atom in atoms:
        units.setdefault(atom.site.component, []).extend(atom.units)
    ordered = sorted(units)
    expected = (_predicted(atoms),)
    if strategy == "prune-heads":
        heads = tuple(
            sites[name].unit_ids[unit] for name in ordered for unit in sorted(units[name])
        )
        return Proposal.make(strategy=strategy, components=heads, expected=expected)
    named: JsonValue = [list[JsonValue](sorted(units[name])) for name in ordered]
    return Proposal.make(
        strategy=strategy,
        components=tuple(ordered),
        params={"units": named},
        expected=expected,
    )


def _predicted(atoms: Sequence[Atom]) -> Measurement:
    return Measurement(
        name="predicted_loss",
        value=sum(atom.loss for atom in atoms),
        unit="predicted divergence",
        note="sum over the units; they may cost more together",
    )


def _layers(subject: Subject, scores: Scores) -> list[Proposal]:
    """The least important layers, each alone."""
    layers = [
        (scores[site.component, "layer"][0], site.component)
        for site in subject.anatomy.sites
        if site.kind == "layer" and (site.component, "layer") in scores
    ]
    return [
        Proposal.make(
            strategy="remove-layer",
            components=(name,),
            expected=(Measurement(name="predicted_loss", value=loss, unit="predicted divergence"),),
        )
        for loss, name in sorted(layers)[:LAYERS]
    ]


def _planned(
    subject: Subject, scores: Scores, proposal: Proposal, settings: Settings
) -> Proposal | None:
    """The proposal with what it would save, or None when it cannot be carried out."""
    assert subject.program is not None
    try:
        edits: tuple[Edit, ...] = find_strategy(proposal.strategy).edits(
            subject.anatomy, scores, proposal, settings
        )
        plan = plan_edits(subject.program, edits)
    except (SurgeryRefused, UsageError):
        return None
    saved = (
        Measurement(name="parameters_removed", value=plan.parameters_removed, unit="count"),
        Measurement(name="flops_removed_share", value=plan.flops_removed_share, unit="share"),
    )
    return proposal.model_copy(update={"expected": (*saved, *proposal.expected)})
