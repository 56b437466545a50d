"""What an analysis must remember of a run besides its numbers: where it stands, and what was cut.

All functions are pure: they give the next ledger and leave the old one alone.
"""

from typing import Literal

from pydantic import Field

from zsei.checkpoint.contracts import ApplicationReport, StructuralPruningDecision
from zsei.errors import UsageError
from zsei.records import Record

CutState = Literal["waiting", "applied", "refused", "expired", "rolled back"]
_OLD = 100
"""Cuts that do not stand any more and are still remembered."""


class ApprovedCut(Record):
    """A decision that was approved, and what became of it."""

    epoch: int
    """Of the decision."""
    state: CutState = "waiting"
    stood: bool = False
    """Whether it was counted as a success: it was carried out and still stood a decision later."""


class Ledger(Record):
    """Where a run stands."""

    version: Literal[1] = 1
    run: str
    original: int | None = None
    """Parameters before the first cut; None before the first checkpoint."""
    epoch: int = 0
    """Last checkpoint that was answered."""
    asked: int = 0
    """Last epoch at which a cut was put before the gate; 0: never."""
    put_back: int = 0
    """Last epoch at which a cut was rolled back; 0: never."""
    delay: int = Field(default=0, ge=0)
    """Epochs that the schedule lies behind, because of what was rolled back."""
    careful: bool = False
    """Whether the next cut is a small one, since the last was rolled back."""
    cuts: dict[str, ApprovedCut] = Field(default_factory=dict)
    """Decision id -> what became of it, oldest first."""
    observed: dict[str, int] = Field(default_factory=dict)
    """Parameter with its shape -> checkpoints at which it was followed in the sketch."""
    outlined: str = ""
    """The architecture (digest of its cuts) that `layers` is about."""
    layers: tuple[int, ...] = ()
    record_id: str = ""
    """Of the last analysis that was kept: what stands in for one that cannot be made."""
    finding_ids: tuple[str, ...] = ()

    def position(self, epoch: int) -> int:
        """Where the schedule stands at an epoch, in epochs from 1.

        After a rollback it goes on from where it stood when the cut was decided that did not hold.
        """
        return max(1, epoch - self.delay)


def check_order(ledger: Ledger, epoch: int) -> None:
    """Refuse an epoch that is not later than the last.

    Raises:
        UsageError: With what came before.
    """
    if epoch <= ledger.epoch:
        raise UsageError(
            "The checkpoints of a run are analysed in order, each epoch later than the last; epoch "
            f"{epoch} of `{ledger.run}` comes after epoch {ledger.epoch}. To go on from an older "
            "checkpoint, give the run a name and a folder of its own; to ask again for an answer, "
            "send the same idempotency key."
        )


def next_due(ledger: Ledger, epoch: int, every: int) -> int:
    """The first epoch, this one or a later, at which a cut may be put before the gate.

    Epochs that are whole multiples of `every`, or the first after one that was missed; after a
    rollback not before as many epochs are over.
    """
    first = epoch if epoch // every > ledger.asked // every else (epoch // every + 1) * every
    return max(first, ledger.put_back + every) if ledger.put_back else first


def waiting_cut(ledger: Ledger, epoch: int, expire_after: int) -> str:
    """The approved decision that the run may still carry out; "" when there is none.

    Another one beside it would be made for a model that is no more once the first is carried out.
    """
    names = (
        name
        for name, cut in ledger.cuts.items()
        if cut.state == "waiting" and epoch - cut.epoch <= expire_after
    )
    return next(names, "")


def with_standing(ledger: Ledger, applied: tuple[str, ...]) -> Ledger:
    """What a request says of the cuts that stand: the run knows best what it carried out."""
    cuts = {
        name: cut.model_copy(update={"state": "applied"})
        if name in applied and cut.state == "waiting"
        else cut
        for name, cut in ledger.cuts.items()
    }
    return ledger.model_copy(update={"cuts": cuts})


def successes(ledger: Ledger, applied: tuple[str, ...]) -> tuple[Ledger, int]:
    """Cuts that have stood until the next decision and were not counted yet, and how many."""
    new = {n for n, c in ledger.cuts.items() if n in applied and c.state == "applied"}
    new = {name for name in new if not ledger.cuts[name].stood}
    cuts = {
        name: cut.model_copy(update={"stood": True}) if name in new else cut
        for name, cut in ledger.cuts.items()
    }
    careful = ledger.careful and not new
    return ledger.model_copy(update={"cuts": cuts, "careful": careful}), len(new)


def with_decision(ledger: Ledger, decision: StructuralPruningDecision, *, asked: bool) -> Ledger:
    """After a decision: its epoch is the last, and an approved cut waits to be carried out."""
    cuts = dict(ledger.cuts)
    if decision.approved_for_application:
        cuts[decision.decision_id] = ApprovedCut(epoch=decision.epoch)
    over = [name for name, cut in cuts.items() if cut.state not in ("applied", "waiting")]
    for name in over[: max(0, len(over) - _OLD)]:
        del cuts[name]
    last = decision.epoch if asked else ledger.asked
    return ledger.model_copy(update={"epoch": decision.epoch, "asked": last, "cuts": cuts})


def with_report(ledger: Ledger, report: ApplicationReport) -> tuple[Ledger, bool]:
    """After the run said what it did, and whether a cut had to be put back just now.

    Told twice, nothing changes the second time.

    Raises:
        UsageError: The decision is none that was approved for this run.
    """
    known = ledger.cuts.get(report.decision_id)
    if known is None:
        approved = ", ".join(list(ledger.cuts)[-3:]) or "none"
        raise UsageError(
            f"A run reports on a decision that was approved for it; {report.decision_id} is not "
            f"known to `{ledger.run}` (approved last: {approved}). Send the id of the decision "
            "that was carried out."
        )
    if known.state == report.outcome or known.state == "rolled back":
        return ledger, False
    cuts = {**ledger.cuts, report.decision_id: known.model_copy(update={"state": report.outcome})}
    if report.outcome != "rolled back":
        return ledger.model_copy(update={"cuts": cuts}), False
    behind = max(0, report.epoch - known.epoch)
    changes = {"cuts": cuts, "delay": ledger.delay + behind, "put_back": report.epoch}
    return ledger.model_copy(update={**changes, "careful": True}), True
