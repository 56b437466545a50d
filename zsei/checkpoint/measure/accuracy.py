"""How well the cheap ranking of units agrees with exact ablation, on a sample.

Letters: x cheap score, y exact effect, i and j units.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from zsei.importance.agreement import kendall
from zsei.records import Measurement

NAME = "ranking_accuracy"


def ranking_accuracy(rows: Sequence[tuple[str, int, float, float]]) -> Measurement:
    """Kendall's τ-b between the cheap score and the effect of exact ablation.

    Formula: (C - D) / √((P - Tx)(P - Ty)) with C concordant, D discordant and P all pairs, Tx and
    Ty those tied in either. Units of different kinds (neurons, heads, layers) are not compared with
    one another: each kind has its own τ, and the value is their mean weighted by their pairs.

    Args:
        rows: (key, unit, cheap score, exact effect) of each ablated unit.

    Returns:
        From -1 to 1, with n the units compared; "could not tell" with fewer than two of a kind, or
        where all of a kind are alike.

    Misleads when: few units were ablated. With 24 the standard deviation of τ between rankings that
    have nothing in common is 0.15.
    References: Kendall, Biometrika 33, 1945.
    """
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, _, cheap, exact in rows:
        kinds[key.rpartition("|")[2]].append((cheap, exact))
    total, pairs, units = 0.0, 0, 0
    for _, both in sorted(kinds.items()):
        cheap, exact = np.array(both).T
        if len(both) < 2 or np.ptp(cheap) == 0 or np.ptp(exact) == 0:
            continue
        tau = kendall(cheap, exact)
        weight = len(both) * (len(both) - 1) // 2
        total, pairs, units = total + weight * (tau or 0.0), pairs + weight, units + len(both)
    if not pairs:
        why = "no two units of a kind with different scores were ablated"
        return Measurement(name=NAME, value=None, n=len(rows), state="could not tell", note=why)
    told = ", ".join(f"{len(both)} {kind}s" for kind, both in sorted(kinds.items()))
    return Measurement(name=NAME, value=total / pairs, n=units, note=f"Kendall's tau-b over {told}")
