"""The judge of speed-ups as plain if-statements over lists of numbers, with bounds by loops; the
order in which steps are kept, by trying all; and time by part, by counting.
"""

from collections.abc import Callable, Sequence

from oracles.bootstrap import bca_upper_bound


def outcome(
    *,
    same_shape: bool,
    nonfinite: int,
    difference: float,
    divergence: Sequence[float],
    disagreement: Sequence[float] | None,
    speed_up: tuple[float, float],
    exact: bool,
    bound: float,
    limits: tuple[float, float],
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[str, str]:
    """(outcome, deciding stage) of one way to run a model under fidelity."""

    def upper(values: Sequence[float]) -> float:
        return bca_upper_bound(
            lambda rows: sum(values[i] for i in rows) / len(rows), len(values), resamples,
            confidence, seed,
        )  # fmt: skip

    if not same_shape:
        return "failed", "shape"
    if nonfinite > 0:
        return "failed", "forward"
    few = len(divergence) < 8
    if exact:
        if difference > 1e-5:
            return "rejected", "tolerance"
    elif few:
        return "inconclusive", "tolerance"
    elif max(upper(divergence), sum(divergence) / len(divergence)) > bound:
        return "rejected", "tolerance"
    if few:
        return "inconclusive", "quality"
    if disagreement is not None and upper(disagreement) > limits[0]:
        return "rejected", "quality"
    if upper(divergence) > limits[1]:
        return "rejected", "quality"
    low, high = speed_up
    if low > 1:
        return "accepted", ""
    return ("rejected", "faster") if high < 1 else ("inconclusive", "faster")


def greedy(
    names: Sequence[str], seconds: Callable[[frozenset[str]], float | None]
) -> frozenset[str]:
    """Names kept one after another while they can stand together and cost no time."""
    kept = frozenset(names[:1])
    for name in names[1:]:
        before, after = seconds(kept), seconds(kept | {name})
        assert before is not None
        if after is not None and after <= before:
            kept |= {name}
    return kept
