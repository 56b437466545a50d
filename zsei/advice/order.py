"""Orders candidates by what they promise: gain per loss, as the rules see it."""

from collections.abc import Iterable, Iterator, Sequence

from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.advice.rules import VOICE, named, titled, written
from zsei.cards import Cards
from zsei.records import AnalysisRecord, Interpretation, Measurement, Proposal

_SMALLEST_LOSS = 1e-9
"""Below this, predicted losses are the noise of arithmetic, and the gain decides."""
_EXPLAINED = 3
"""Proposals whose place is explained."""


def untried(candidates: Iterable[Proposal], record: AnalysisRecord) -> tuple[Proposal, ...]:
    """The candidates the gate has not judged yet, each once."""
    judged = {verdict.proposal_id for verdict in record.verdicts}
    return tuple({c.id: c for c in candidates if c.id not in judged}.values())


def gain(candidate: Proposal, record: AnalysisRecord) -> float:
    """Predicted gain: the mean of the shares of FLOPs and of parameters that would go."""
    shares = []
    flops = expected(candidate, "flops_removed_share")
    if flops is not None:
        shares.append(flops)
    parameters = expected(candidate, "parameters_removed")
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
        loss, promised = expected(candidate, "predicted_loss"), gain(candidate, record)
        ratio = 0.0 if loss is None else promised / max(loss, _SMALLEST_LOSS)
        return (loss is None, -ratio, -promised, candidate.id)

    return renumbered(sorted(candidates, key=rank))


def renumbered(proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """Proposals with their place as priority."""
    return tuple(p.model_copy(update={"priority": place}) for place, p in enumerate(proposals))


def with_rationale(
    ordered: Iterable[Proposal], facts: Facts, reader: Reader, cards: Cards
) -> Iterator[Proposal]:
    """Proposals with what each promises, in words."""
    for proposal in ordered:
        said = ground(_promise(proposal, facts, cards), facts, reader)
        yield proposal.model_copy(update={"rationale": said.text})


def explain_order(
    ordered: Sequence[Proposal], facts: Facts, reader: Reader, cards: Cards
) -> Iterator[Interpretation]:
    """Why this order, in words."""
    if not ordered:
        return
    text = [
        "Rules ordered the candidates by predicted gain per predicted loss; the gate will measure "
        "each of them."
    ]
    text += [f"{p.id}: {_promise(p, facts, cards)}" for p in ordered[:_EXPLAINED]]
    ids = tuple(dict.fromkeys(name for p in ordered for name in p.finding_ids))
    grounded = ground("\n".join(text), facts, reader)
    yield written("priorities", grounded.text, grounded.claims, grounded.struck, ids, VOICE)


def expected(candidate: Proposal, name: str) -> float | None:
    """What a proposal is expected to bring, None where nobody said."""
    found: list[Measurement] = [m for m in candidate.expected if m.name == name]
    return found[0].value if found else None


def _promise(candidate: Proposal, facts: Facts, cards: Cards) -> str:
    where = f"{candidate.strategy} at {named(candidate.components)}"
    count = len(candidate.expected)
    told = [
        fact for fact in [*facts.named(candidate.id).values()][:count] if fact.value is not None
    ]
    if not told:
        return f"{where}: nothing was predicted."
    return f"{where}: {titled(candidate.id, told, cards)}."
