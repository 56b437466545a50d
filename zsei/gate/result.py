"""What came of all trials: which accepted set saves most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zsei.gate.sandbox import Trial
from zsei.records import Measurement, Proposal, Verdict
from zsei.surgery.weights import Weights

_COSTS = ("parameters", "flops")


@dataclass
class Outcome:
    """All proposals that were tried, in order, and what became of them."""

    proposals: list[Proposal] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    """Proposal id -> its trial."""
    joined: dict[str, Trial] = field(default_factory=dict)
    """Ids joined with "+" -> the trial of several accepted proposals at once."""
    combined: Trial | None = None
    """The accepted combination that saves most; where none was accepted, the last one tried."""
    fitted: dict[str, Weights] = field(default_factory=dict)
    """The values that proposals brought along which the gate accepted: by the proposal's id."""
    latency: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Latency ratio, with its interval, of what would be applied: by the id of its verdict."""

    def accepted(self) -> list[Proposal]:
        """Accepted proposals, in the order they were tried."""
        return [p for p in self.proposals if self.trials[p.id].verdict.outcome == "accepted"]

    def best(self) -> list[Proposal]:
        """The accepted set that saves most, of all that were measured; nothing when none was."""
        verdicts = [self.trials[proposal.id].verdict for proposal in self.proposals]
        found = offered(verdicts, self.combined.verdict if self.combined else None)
        names = found.proposal_id.split("+") if found else []
        return [proposal for proposal in self.proposals if proposal.id in names]

    def gain(self) -> float | None:
        """What the best set saves; None when nothing was accepted."""
        verdicts = [trial.verdict for trial in self.trials.values()]
        found = offered(verdicts, self.combined.verdict if self.combined else None)
        return None if found is None else saved(found)


def saved(verdict: Verdict) -> float:
    """Mean of the shares of parameters and of operations that an edit takes away, as measured.

    Formula: mean over both of 1 - after / before; one that the original has none of is left out. 0
    for an edit that was not measured.
    """
    shares = []
    for name in _COSTS:
        before, after = _value(verdict.before, name), _value(verdict.after, name)
        if before and after is not None:
            shares.append(1 - after / before)
    return sum(shares) / len(shares) if shares else 0.0


def offered(verdicts: Iterable[Verdict], combined: Verdict | None) -> Verdict | None:
    """The accepted verdict that saves most: what is applied unless somebody names proposals.

    At equal savings the combination stands before single proposals, and these in their order.
    """
    together = () if combined is None else (combined,)
    accepted = [v for v in (*together, *verdicts) if v.outcome == "accepted"]
    return max(accepted, key=saved, default=None)


def _value(measurements: Sequence[Measurement], name: str) -> float | None:
    found = [m.value for m in measurements if m.name == name]
    return found[0] if found else None
