"""How far two orders agree."""

import math
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from zsei.records import CriterionCheck

VALIDATED = 0.7
"""Spearman with exact ablation from which a ranking counts as validated."""
FEWEST = 6
"""Below this many compared units no agreement is claimed."""


def check(kind: str, criterion: str, scores: np.ndarray, truth: np.ndarray) -> CriterionCheck:
    """Kendall τ, Spearman and top-k hits of scores against exact effects on the same units.

    k is a quarter of the units, at least 3. Misleads when the truth itself is noise: compare with
    the entry "half of the samples".
    """
    n = len(truth)
    flat = n < FEWEST or np.ptp(truth) == 0 or np.ptp(scores) == 0
    if flat:
        why = "too few units" if n < FEWEST else "all scores or all effects are equal"
        return CriterionCheck(
            kind=kind, criterion=criterion, kendall=None, spearman=None, top_hits=None, n=n,
            status="could not tell", note=why,
        )  # fmt: skip
    tau = _finite(kendalltau(scores, truth)[0])
    rho = _finite(spearmanr(scores, truth)[0])
    k = max(3, n // 4)
    hits = (
        len(
            set(np.argsort(-scores, kind="stable")[:k]) & set(np.argsort(-truth, kind="stable")[:k])
        )
        / k
    )
    return CriterionCheck(
        kind=kind,
        criterion=criterion,
        kendall=tau,
        spearman=rho,
        top_hits=hits,
        n=n,
        status="validated" if rho is not None and rho >= VALIDATED else "not validated",
    )


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
