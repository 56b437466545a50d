"""Tests of a hot spot: does it hold when its parts go together, and on either half of the data?"""

from collections.abc import Mapping

from zsei.analyzers.checks import ablation_check, halves_check, inconclusive
from zsei.analyzers.context import Analysis
from zsei.analyzers.shares import criticality_shares, first_half, sampled_shares, summed_effect
from zsei.analyzers.words import number, percent
from zsei.records import Check


def pressure_checks(
    analysis: Analysis, parts: tuple[str, ...], cost: Mapping[str, float], pressure: float
) -> tuple[Check, ...]:
    """What exact ablation says of parts that cost `pressure` times what they bring.

    Args:
        analysis: What was measured.
        parts: The hot spot.
        cost: Part -> share of the cost.
        pressure: Least ratio of cost share to criticality share.

    Returns:
        "exact-ablation": all parts removed at once bring at most their share of the cost over the
        pressure; parts that back each other up bring more together than each alone. "half-samples":
        the pressure is reached on either half of the samples.
    """
    spent = sum(cost[part] for part in parts)
    limit = spent / pressure
    together = ablation_check(
        analysis,
        parts,
        at_most=limit * summed_effect(analysis),
        claim=f"{percent(spent)} of the cost brings at most {percent(limit)} of the effect",
    )
    return together, _halves(analysis, parts, limit, pressure)


def _halves(analysis: Analysis, parts: tuple[str, ...], limit: float, pressure: float) -> Check:
    known = sampled_shares(analysis)
    if any(part not in known for part in (*parts, *criticality_shares(analysis))):
        return inconclusive(
            "half-samples",
            "Two halves cannot be compared: it takes exact ablation of every working part.",
        )
    samples = len(known[parts[0]])
    groups = {group for batch in analysis.subject.calibration for group in batch.groups}
    first = first_half(samples, len(groups))
    shares = []
    for taken in (first, ~first):
        total = sum(float(values[taken].mean()) for values in known.values())
        brought = sum(float(known[part][taken].mean()) for part in parts)
        shares.append(brought / total if total > 0 else 0.0)
    return halves_check(
        "criticality_share",
        (shares[0], shares[1]),
        (shares[0] <= limit, shares[1] <= limit),
        samples=min(int(first.sum()), int((~first).sum())),
        what="share of the effect",
        unit="share",
        claim=f"a cost of at least {number(pressure)} times the effect",
    )
