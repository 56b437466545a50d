"""Did strategies do what was predicted of them? What the gate measured is held against it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from zsei.analyzers.checks import inconclusive
from zsei.analyzers.words import number
from zsei.records import Check, Measurement, Proposal, Verdict

NAME = "predicted-and-measured"
FACTOR = 3.0
"""Ratio of measured to predicted loss, or its inverse, up to which a prediction holds."""
EXACT = 0.01
"""Share by which parameters removed may differ from what was predicted: they are counted."""
NOTHING = 1e-6
"""Divergence below which prediction and measurement both say: nothing."""
FEWEST = 3
"""Proposals of one strategy below which nothing is said about its predictions."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over predicted; 1 where both are nothing."""
        if max(self.predicted, self.measured) < NOTHING:
            return 1.0
        return max(self.measured, NOTHING) / max(self.predicted, NOTHING)


def strategy_checks(
    proposals: Sequence[Proposal], verdicts: Sequence[Verdict]
) -> tuple[Check, ...]:
    """For each strategy: its predicted loss, and its predicted saving, against the gate's numbers.

    Formula: prediction_ratio = median over its proposals of measured mean divergence (held-out
    data) over predicted_loss (calibration data); it agrees within a factor of 3. Parameters are
    counted, so saved ones must agree within 1 %. Rejected proposals count like accepted ones: only
    what was not measured at all is left out.
    """
    by_id = {verdict.proposal_id: verdict for verdict in verdicts}
    tried: dict[str, list[tuple[Proposal, Verdict]]] = {}
    for proposal in proposals:
        if proposal.id in by_id:
            tried.setdefault(proposal.strategy, []).append((proposal, by_id[proposal.id]))
    found: list[Check] = []
    for strategy, members in sorted(tried.items()):
        found.append(_losses(strategy, [*_loss_pairs(members)]))
        found += _savings(strategy, [*_saving_pairs(members)])
    return tuple(found)


def _named(measurements: Sequence[Measurement]) -> Mapping[str, float]:
    return {m.name: m.value for m in measurements if m.value is not None}


def _loss_pairs(members: Sequence[tuple[Proposal, Verdict]]) -> Iterator[_Pair]:
    for proposal, verdict in members:
        predicted, measured = _named(proposal.expected), _named(verdict.after)
        if "predicted_loss" in predicted and "divergence" in measured:
            yield _Pair(predicted=predicted["predicted_loss"], measured=measured["divergence"])


def _saving_pairs(members: Sequence[tuple[Proposal, Verdict]]) -> Iterator[_Pair]:
    for proposal, verdict in members:
        predicted = _named(proposal.expected)
        before, after = _named(verdict.before), _named(verdict.after)
        if "parameters_removed" in predicted and "parameters" in before.keys() & after.keys():
            saved = before["parameters"] - after["parameters"]
            yield _Pair(predicted=predicted["parameters_removed"], measured=saved)


def _losses(strategy: str, pairs: Sequence[_Pair]) -> Check:
    about = f"strategy {strategy}"
    if len(pairs) < FEWEST:
        why = (
            f"The gate measured the loss of {len(pairs)} proposals of {strategy}; it takes "
            f"{FEWEST} to say how good its predictions are."
        )
        return inconclusive(NAME, why, about=about)
    ratios = [pair.ratio for pair in pairs]
    middle = median(ratios)
    agrees = 1 / FACTOR <= middle <= FACTOR
    return Check(
        name=NAME,
        about=about,
        outcome="agrees" if agrees else "disagrees",
        evidence=(
            Measurement(name="prediction_ratio", value=middle, unit="measured / predicted",
                        n=len(pairs), note="n counts proposals"),
            Measurement(name="prediction_ratio_low", value=min(ratios), n=len(pairs),
                        unit="measured / predicted"),
            Measurement(name="prediction_ratio_high", value=max(ratios), n=len(pairs),
                        unit="measured / predicted"),
        ),
        message=f"The gate measured {number(middle)} times the predicted loss at the median of "
        f"{len(pairs)} proposals ({number(min(ratios))} to {number(max(ratios))}); within a factor "
        f"of {number(FACTOR)} is asked.",
    )  # fmt: skip


def _savings(strategy: str, pairs: Sequence[_Pair]) -> Iterator[Check]:
    """Whether as many parameters went as were promised; nothing where none were measured."""
    if not pairs:
        return
    worst = max(abs(p.measured - p.predicted) / max(abs(p.predicted), 1.0) for p in pairs)
    yield Check(
        name="promised-savings",
        about=f"strategy {strategy}",
        outcome="agrees" if worst <= EXACT else "disagrees",
        evidence=(
            Measurement(name="saving_error", value=worst, unit="share", n=len(pairs),
                        note="n counts proposals; the worst of them"),
        ),
        message=f"Parameters removed differ from those promised by a share of {number(worst)} at "
        f"most, over {len(pairs)} proposals.",
    )  # fmt: skip
