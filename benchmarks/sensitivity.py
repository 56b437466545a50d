"""All heads ranked by output sensitivity: what it costs and how well it orders them."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

from benchmarks.ablation import head_targets
from benchmarks.minilm import bare_forward, subject
from benchmarks.paired import Ratio, ratio
from zsei.trace.ablation import ablate
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.taps import Taps

PROBES = 4


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    cost: Ratio
    spearman: list[float]
    """With exact mean ablation of the same batch, one per probe seed."""
    kendall: list[float]


def measure(pairs: int = 5, seeds: int = 5) -> Result:
    """Ratio to a bare forward, and rank correlations with exact ablation of all heads."""
    model = subject()
    engine = engine_for(model)
    targets = head_targets(model)
    sites = tuple(dict.fromkeys(target.site for target in targets))
    taps = Taps(values={site.node: -1 for site in sites}, writers={}, sites=sites)
    batch = model.calibration[:1]

    def scores(seed: int = 0):
        return collect(engine, taps, model.objective, batch, probes=PROBES, seed=seed, rows=16)

    evidence = scores()
    exact = ablate(engine, model.objective, batch, targets, means=evidence.means)
    truth = np.array([float(effect.divergence.mean()) for effect in exact])
    spearman, kendall = [], []
    for seed in range(seeds):
        found = scores(seed).sites
        guess = [
            float(found[t.site.component, "head"].sensitivity.mean()[t.units[0]]) for t in targets
        ]
        spearman.append(float(spearmanr(guess, truth).statistic))
        kendall.append(float(kendalltau(guess, truth).statistic))
    return Result(
        cost=ratio(scores, bare_forward(model), pairs), spearman=spearman, kendall=kendall
    )


if __name__ == "__main__":
    print(measure())
