"""How far two orders agree, and how far they could."""

import math
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from zsei.records import CriterionCheck

VALIDATED = 0.7
"""Spearman with exact ablation from which a ranking counts as validated."""
FEWEST = 6
"""Below this many compared units no agreement is claimed."""
SURE = 0.9
"""Spearman that a perfect criterion should be able to reach against a noisy truth."""


def check(
    kind: str, criterion: str, scores: np.ndarray, truth: np.ndarray, *,
    halves: float | None = None, samples: int = 0, conditions: str = "",
) -> CriterionCheck:  # fmt: skip
    """Kendall τ, Spearman and top-k hits of scores against exact effects on the same units.

    k is a quarter of the units, at least 3. A score that falls short of the limit is "not
    validated" only where the truth could have shown it: with halves of the truth's samples that
    agree at r, all samples have reliability R = 2r / (1 + r) (Spearman and Brown), and a perfect
    score reaches √R. Where score / √R would do, the truth is too noisy: "could not tell", and the
    note says how many samples would be enough.

    Args:
        kind: What is ranked.
        criterion: Whose scores.
        scores: [U].
        truth: Mean exact effects, [U].
        halves: Spearman between the truth on one half of its samples and on the other.
        samples: Samples the truth rests on.
        conditions: Metric, replacement and the like, for the note.
    """
    n = len(truth)
    if n < FEWEST or np.ptp(truth) == 0 or np.ptp(scores) == 0:
        why = "too few units" if n < FEWEST else "all scores or all effects are equal"
        return CriterionCheck(
            kind=kind, criterion=criterion, kendall=None, spearman=None, top_hits=None, n=n,
            status="could not tell", note=_joined(why, conditions),
        )  # fmt: skip
    tau, rho = kendall(scores, truth), spearman(scores, truth)
    noisy = "" if halves is None or rho is None else _noisy(rho, halves, samples)
    good = rho is not None and rho >= VALIDATED
    return CriterionCheck(
        kind=kind,
        criterion=criterion,
        kendall=tau,
        spearman=rho,
        top_hits=top_hits(scores, truth),
        n=n,
        status="validated" if good else "could not tell" if noisy else "not validated",
        note=_joined("" if good else noisy, conditions),
    )


def top_hits(scores: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true top k (a quarter, at least 3) among the top k of the scores."""
    k = max(3, len(truth) // 4)
    first, second = (set(np.argsort(-v, kind="stable")[:k].tolist()) for v in (scores, truth))
    return len(first & second) / k


def reliability(halves: float) -> float:
    """Squared correlation of a mean with its noiseless truth, from that of its two halves."""
    return max(0.0, 2 * halves / (1 + halves)) if halves > -1 else 0.0


def enough_samples(halves: float, samples: int) -> int | None:
    """Samples with which a perfect score would reach `SURE`; None where halves do not agree.

    Formula: k times the samples have reliability kR / (1 + (k - 1) R); solved for `SURE`².
    """
    found, wanted = reliability(halves), SURE**2
    if found <= 0:
        return None
    return math.ceil(samples * max(1.0, wanted * (1 - found) / (found * (1 - wanted))))


def _noisy(rho: float, halves: float, samples: int) -> str:
    """Why a low agreement says nothing, or "" where it does."""
    possible = reliability(halves) ** 0.5
    if possible >= SURE or rho < VALIDATED * possible:
        return ""
    enough = enough_samples(halves, samples)
    needed = f"about {enough} samples" if enough is not None else "many more samples"
    return (
        f"exact ablation on {samples} samples agrees with itself at {halves:.2f} between halves, "
        f"so that a perfect score could reach {possible:.2f}; it would take {needed}"
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def kendall(first: np.ndarray, second: np.ndarray) -> float | None:
    """Kendall τ-b; None where it is not defined."""
    return _finite(kendalltau(first, second))


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation; None where it is not defined."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return _finite(spearmanr(first, second))


def _finite(result: Any) -> float | None:
    value = float(result[0])
    return value if math.isfinite(value) else None
