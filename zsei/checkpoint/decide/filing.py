"""Files every decision in the audit log with its reason, and keeps the circuit breaker's count.

In a training run the breaker counts what became of cuts: one that had to be put back is a failure,
one that still stands when the next is decided is a success. That the gate accepts a cut is neither,
or three cuts that were each accepted and each put back would never open it.
"""

from pathlib import Path

from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.errors import MemoryDamaged, OutputError
from zsei.gate.audit import audited
from zsei.gate.breaker import note_failure, read_breaker
from zsei.gate.judge import refused
from zsei.records import Verdict


def filed(home: Path, decision: StructuralPruningDecision) -> StructuralPruningDecision:
    """The decision as the audit log has it: what was filed first under its key stands.

    Nothing is approved that is not in the log: where it cannot be written or read, the decision is
    not approved, and says so.
    """
    key, made = decision.idempotency_key, []

    def verdict() -> Verdict:
        made.append(_verdict(decision))
        return made[0]

    try:
        first = audited(home / "audit.jsonl", key, verdict, note_of(decision))
        if made and first is made[0] and first.outcome == "failed":
            note_failure(home, f"deciding at epoch {decision.epoch}: {first.reason}")
    except (OutputError, MemoryDamaged, OSError) as error:
        return not_approved(decision, f"it could not be filed: {error}")
    safety = decision.safety.model_copy(update={"breaker": read_breaker(home).text()})
    if decision.safety.verdict is not None:
        safety = safety.model_copy(update={"verdict": first})
    decision = decision.model_copy(update={"safety": safety})
    if decision.approved_for_application and first.outcome != "accepted":
        return not_approved(decision, f"it was judged before: {first.reason}")
    return decision


def not_approved(decision: StructuralPruningDecision, reason: str) -> StructuralPruningDecision:
    """The decision with a reason against it; one that it has already is kept."""
    known = decision.rejection_reason
    told = f"{known}; {reason}" if known and reason not in known else reason
    return decision.model_copy(update={"approved_for_application": False, "rejection_reason": told})


def note_of(decision: StructuralPruningDecision) -> str:
    """Why a decision is what it is, in one line."""
    numbers = ""
    if decision.statistics is not None:
        has = decision.statistics
        numbers = (
            f", {has.sparsity_before:.2%} of the parameters gone, {has.sparsity_after:.2%} "
            f"afterwards, {has.sparsity_wanted:.2%} wanted"
        )
    verdict = decision.safety.verdict
    why = verdict.reason if verdict is not None and verdict.outcome == "accepted" else ""
    said = "approved" if decision.approved_for_application else "not approved"
    reasons = "; ".join(part for part in (decision.rejection_reason, why) if part)
    fallbacks = f"; fallbacks: {'; '.join(decision.fallbacks)}" if decision.fallbacks else ""
    return (
        f"run {decision.run}, epoch {decision.epoch}, request {decision.request_id}, phase "
        f"{decision.safety.phase}, mode {decision.mode}, depth {decision.depth}{numbers}: {said}: "
        f"{reasons}{fallbacks}"
    )


def _verdict(decision: StructuralPruningDecision) -> Verdict:
    """The gate's, or one that says why the gate was not asked."""
    found = decision.safety.verdict
    if found is not None:
        return found
    return refused("inapplicable", decision.decision_id, decision.rejection_reason)
