"""Carries an action out on a reopened analysis; every number in what comes back was measured."""

from collections.abc import Callable

import torch
from torch import Tensor

from zsei.analyzers.checks import target_of, targets_of
from zsei.analyzers.effects import measurement
from zsei.analyzers.shares import additive
from zsei.chat.records import Action, Ran, Row
from zsei.chat.reopen import Reopened
from zsei.chat.similarity import similarities
from zsei.errors import UsageError
from zsei.gate.rounds import try_proposal
from zsei.importance.effects import effect_measurements
from zsei.records import Measurement, Proposal
from zsei.strategies.candidates import UNITS, explicit
from zsei.subject.objective import Objective
from zsei.surgery.weights import Weights
from zsei.trace.ablation import Target, ablate, ablate_together


def carry_out(
    action: Action, reopened: Reopened, progress: Callable[[float], None] = lambda _: None
) -> tuple[Ran, Weights]:
    """Run an action.

    Args:
        action: What to run; its components are those of the record.
        reopened: The model and data of its analysis.
        progress: Called with the share done.

    Returns:
        What was run and measured, and the fitted values of a proposal that the gate accepted.

    Raises:
        UsageError: It cannot be run on these components.
        ZseiError: The model or the data does not allow it.
    """
    if action.kind == "gate":
        assert action.proposal is not None, "what is gated is a proposal"
        return _gated(action, action.proposal, reopened)
    rows = _ablated(action, reopened, progress)
    if action.kind == "compare":
        rows = [*similarities(action.components, reopened.analysis), *rows]
    return Ran(action=action, conditions=_conditions(action, reopened), rows=tuple(rows)), {}


def _ablated(action: Action, reopened: Reopened, progress: Callable[[float], None]) -> list[Row]:
    """The effect of each component by itself and, of several, of all at once."""
    analysis = reopened.analysis
    single = [_target(action, name, reopened) for name in action.components]
    means, batches = analysis.trace.means, analysis.importance.batches
    seed, objective = analysis.settings.seed, analysis.subject.objective
    effects = ablate(
        analysis.engine, objective, batches, single, means=means, replacement=action.replacement,
        seed=seed, progress=progress,
    )  # fmt: skip
    by_name = dict(zip(action.components, effects, strict=True))
    measured = effect_measurements(by_name, objective.metric, action.replacement)
    rows = [Row(components=(n,), measurement=m) for n, found in measured.items() for m in found]
    together = targets_of(analysis, action.components)
    if len(single) < 2:
        return rows
    moved = ablate_together(
        analysis.engine, objective, batches, together, means=means,
        replacement=action.replacement, seed=seed,
    )  # fmt: skip
    rows.append(Row(components=action.components, measurement=_effect(action, moved, reopened)))
    alone = torch.stack([_additive(effect.divergence, objective) for effect in effects]).sum(0)
    note = f"effect of all at once less the sum of each, {_how(action, reopened)} ablation"
    interaction = measurement(analysis, "interaction", _additive(moved, objective) - alone, note)
    rows.append(Row(components=action.components, measurement=interaction))
    return rows


def _additive(divergence: Tensor, objective: Objective) -> Tensor:
    """Effects per sample on the scale on which those of independent parts add up."""
    return torch.as_tensor(additive(objective, divergence.double()))


def _target(action: Action, name: str, reopened: Reopened) -> Target:
    target = target_of(reopened.analysis, name)
    if target is None:
        raise UsageError(
            f"What is ablated must be a head, a branch of the stream or a layer, but {name} is "
            f"a {reopened.record.component(name).kind}; name what it stands in."
        )
    return target


def _effect(action: Action, values: Tensor, reopened: Reopened) -> Measurement:
    """The joint effect, on the scale of the single ones."""
    values = values.double()
    return Measurement(
        name="ablation_effect",
        value=float(values.mean()),
        unit=reopened.analysis.subject.objective.metric,
        std=float(values.std()) if len(values) > 1 else None,
        n=len(values),
        note=f"{_how(action, reopened)} ablation of all at once",
    )


def _how(action: Action, reopened: Reopened) -> str:
    """What stands in for the components; layers are bypassed."""
    kinds = {reopened.record.component(name).kind == "layer" for name in action.components}
    if kinds == {True}:
        return "identity"
    return action.replacement + (" (identity for layers)" if True in kinds else "")


def _gated(action: Action, proposal: Proposal, reopened: Reopened) -> tuple[Ran, Weights]:
    bench = reopened.bench
    possible = _with_heads(_where_it_can(proposal, reopened), reopened)
    settled = explicit(bench.subject, bench.scores, possible)
    if bench.closed or bench.subject.program is None:
        raise UsageError(
            "The gate tries a change on a copy of the exported program, but "
            f"{bench.closed or 'this model could not be exported'}."
        )
    trial, brought = try_proposal(bench, settled)
    judged = {verdict.proposal_id for verdict in reopened.record.verdicts}
    ran = Ran(
        action=action.model_copy(update={"proposal": settled}),
        conditions=_conditions(action, reopened),
        verdict=trial.verdict,
        repeats=settled.id in judged,
    )
    return ran, brought if trial.verdict.outcome == "accepted" else {}


def _where_it_can(proposal: Proposal, reopened: Reopened) -> Proposal:
    """A share of a layer's units without its parts that have none to take; all of them, if none
    has, so that the strategy says why.

    Only the anatomy knows: a convolution that adds to a residual stream has channels, too.
    """
    kind = UNITS.get(proposal.strategy)
    if kind is None or "fraction" not in proposal.params:
        return proposal
    anatomy = reopened.bench.subject.anatomy
    left = tuple(name for name in proposal.components if anatomy.site(name, kind) is not None)
    if not left or left == proposal.components:
        return proposal
    return Proposal.make(
        strategy=proposal.strategy, components=left, params=proposal.params,
        source=proposal.source, rationale=proposal.rationale, finding_ids=proposal.finding_ids,
    )  # fmt: skip


def _with_heads(proposal: Proposal, reopened: Reopened) -> Proposal:
    """A share of an attention's heads as the heads that score least there."""
    share = proposal.params.get("fraction")
    if proposal.strategy != "prune-heads" or not isinstance(share, float):
        return proposal
    bench, heads = reopened.bench, []
    for name in proposal.components:
        site = bench.subject.anatomy.site(name, "head")
        scores = bench.scores.get((name, "head"))
        if site is None or scores is None:
            raise UsageError(f"prune-heads takes an attention with heads, but {name} has none.")
        order = sorted(range(site.units), key=lambda unit, s=scores: (s[unit], unit))
        heads += [site.unit_ids[u] for u in sorted(order[: max(1, int(share * site.units))])]
    return Proposal.make(
        strategy=proposal.strategy, components=tuple(heads), source=proposal.source,
        rationale=proposal.rationale, finding_ids=proposal.finding_ids,
    )  # fmt: skip


def _conditions(action: Action, reopened: Reopened) -> dict[str, str | int]:
    """What the numbers hold for."""
    analysis, record = reopened.analysis, reopened.record
    gated = action.kind == "gate"
    batches = analysis.subject.held_out if gated else analysis.importance.batches
    said: dict[str, str | int] = {
        "analysis": record.id,
        "model": record.provenance.model,
        "metric": analysis.subject.objective.metric,
        "samples": sum(batch.size for batch in batches),
        "data": "held-out" if gated else "calibration",
        "seed": analysis.settings.seed,
        "dtype": record.provenance.dtype,
    }
    if gated:
        return said | {"safety": analysis.settings.safety}
    return said | {"replacement": _how(action, reopened)}
