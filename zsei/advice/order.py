"""Orders candidates by what they promise: gain per loss, as the rules see it."""

from collections.abc import Iterable, Iterator, Sequence

from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.advice.rules import VOICE, written
from zsei.advice.wording import components, numbers
from zsei.records import AnalysisRecord, Interpretation, Measurement, Proposal

_SMALLEST_LOSS = 1e-9
"""Below this, predicted losses are the noise of arithmetic, and the gain decides."""


def untried(candidates: Iterable[Proposal], record: AnalysisRecord) -> tuple[Proposal, ...]:
    """The candidates the gate has not judged yet, each once."""
    judged = {verdict.proposal_id for verdict in record.verdicts}
    return tuple({c.id: c for c in candidates if c.id not in judged}.values())


def gain(candidate: Proposal, record: AnalysisRecord) -> float:
    """Predicted gain: the mean of the shares of FLOPs and of parameters that would go."""
    shares = []
    flops = _expected(candidate, "flops_removed_share")
    if flops is not None:
        shares.append(flops)
    parameters = _expected(candidate, "parameters_removed")
    if parameters is not None and record.provenance.parameters:
        shares.append(parameters / record.provenance.parameters)
    return sum(shares) / len(shares) if shares else 0.0


def by_gain_per_loss(
    candidates: Iterable[Proposal], record: AnalysisRecord
) -> tuple[Proposal, ...]:
    """Candidates with their priority, the largest predicted gain per predicted loss first.

    Those whose loss nobody predicted come last, the larger gain first; ties go by id.
    """

    def rank(candidate: Proposal) -> tuple[bool, float, float, str]:
        loss, promised = _expected(candidate, "predicted_loss"), gain(candidate, record)
        ratio = 0.0 if loss is None else promised / max(loss, _SMALLEST_LOSS)
        return (loss is None, -ratio, -promised, candidate.id)

    ordered = sorted(candidates, key=rank)
    return tuple(
        candidate.model_copy(update={"priority": position, "rationale": _rationale(candidate)})
        for position, candidate in enumerate(ordered)
    )


def explain_order(
    ordered: Sequence[Proposal], facts: Facts, reader: Reader
) -> Iterator[Interpretation]:
    """Why this order, in words."""
    if not ordered:
        return
    text = [
        "Rules ordered the candidates by predicted gain per predicted loss; the gate will measure "
        "each of them."
    ]
    text += [f"{p.id}: {p.rationale}" for p in ordered[:3]]
    ids = tuple(dict.fromkeys(name for p in ordered for name in p.finding_ids))
    grounded = ground("\n".join(text), facts, reader, findings=ids)
    yield written("priorities", grounded.text, grounded.claims, grounded.struck, ids, VOICE)


def _rationale(candidate: Proposal) -> str:
    told = [m for m in candidate.expected if m.value is not None]
    promise = f" promises {numbers(told)}" if told else " promises nothing that was predicted"
    return f"{candidate.strategy} at {components(candidate.components)}{promise}."


def _expected(candidate: Proposal, name: str) -> float | None:
    found: list[Measurement] = [m for m in candidate.expected if m.name == name]
    return found[0].value if found else None
