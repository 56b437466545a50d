"""Units that do nothing on any of the data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.expert_use import expert_use
from zsei.analyzers.words import listed
from zsei.records import Finding, Measurement
from zsei.subject.types import Site
from zsei.trace.summary import UnitScores


@dataclass
class _Range:
    """Lowest and highest value of every entry along the units' axis."""

    low: Tensor = field(default_factory=lambda: torch.tensor(torch.inf))
    high: Tensor = field(default_factory=lambda: torch.tensor(-torch.inf))


@final
@dataclass(frozen=True, kw_only=True)
class DeadUnits:
    """Heads, neurons, channels and experts that are always zero, the same, or never read.

    Measures: over all calibration data, how many units of a layer do nothing.

    Formula: zero: max |a| = 0. Constant: max a = min a, so that a bias can stand in for it.
    Unread: the gradient of every random probe of the output with respect to the unit is exactly 0,
    so that nothing hangs on it to first order. Experts: never among the router's choice. Severity:
    share of the layer's units that is dead.

    Reading it: removing them changes nothing on this data (constant ones once their value is added
    to the bias behind them).

    Misleads when: other data wakes them up. A unit that is zero on a few hundred samples may stand
    for something rare.

    References: Hu, Peng, Tai and Tang, "Network trimming: a data-driven neuron pruning approach
    towards efficient deep architectures", 2016; Lu, Shin, Su and Karniadakis, "Dying ReLU and
    initialization", 2019.
    """

    code: ClassVar[str] = "dead-units"
    clock: ClassVar[bool] = False

    suspicious: float = 1e-5
    """Share of its layer's mean effect below which a unit is looked at for being constant."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per layer that has dead units, in program order."""
        scored = [
            s for s in analysis.trace.units.values() if s.site.kind in ("head", "neuron", "channel")
        ]
        constant = self._constant(analysis, scored)
        for scores in scored:
            never = np.zeros(scores.site.units, dtype=bool)
            zero = scores.largest == 0 if scores.largest is not None else never
            still = constant.get(scores.site.node, never) & ~zero
            unread = (scores.sensitivity == 0) & ~zero & ~still
            if (zero | still | unread).any():
                yield self._report(analysis, scores.site, zero, still, unread)
        for component, use in expert_use(analysis).items():
            if bool((use == 0).any()):
                yield self._experts(analysis, component, use)

    def _constant(self, analysis: Analysis, scored: list[UnitScores]) -> dict[str, np.ndarray]:
        """Node -> which units never move, for the sites where one looks as if it did not."""
        sites = [
            s.site
            for s in scored
            if (s.sensitivity <= self.suspicious * s.sensitivity.mean()).any()
        ]
        ranges = {site.node: _Range() for site in sites}

        def watching(site: Site) -> Callable[[Tensor], None]:
            def see(value: Tensor) -> None:
                others = tuple(a for a in range(value.ndim) if a != site.axis)
                kept = ranges[site.node]
                kept.low = torch.minimum(kept.low, value.amin(others))
                kept.high = torch.maximum(kept.high, value.amax(others))

            return see

        if sites:
            watch = {site.node: watching(site) for site in sites if site.axis is not None}
            with torch.no_grad():
                for batch in analysis.subject.calibration:
                    analysis.engine.run(batch, watch)
        return {
            site.node: (ranges[site.node].low == ranges[site.node].high)
            .reshape(site.units, -1)
            .all(1)
            .numpy()
            for site in sites
        }

    def _experts(self, analysis: Analysis, component: str, use: Tensor) -> Finding:
        dead = (use == 0).nonzero().flatten().tolist()
        samples = sum(batch.size for batch in analysis.subject.calibration)
        return Finding.make(
            code=self.code,
            components=(component,),
            severity=len(dead) / len(use),
            evidence=(
                Measurement(name="dead_units", value=len(dead), unit="count", n=samples,
                            note=f"experts {' '.join(str(i) for i in dead)}"),
                Measurement(name="units", value=len(use), unit="count"),
            ),
            message=f"{len(dead)} of the {len(use)} experts of {component} "
            f"{'is' if len(dead) == 1 else 'are'} never picked by the router on {samples} samples "
            f"({int(use.sum())} positions routed).",
        )  # fmt: skip

    def _report(
        self, analysis: Analysis, site: Site, zero: np.ndarray, still: np.ndarray,
        unread: np.ndarray,
    ) -> Finding:  # fmt: skip
        dead = np.flatnonzero(zero | still | unread)
        heads = site.kind == "head"
        components = tuple(site.unit_ids[i] for i in dead) if heads else (site.component,)
        samples = sum(batch.size for batch in analysis.subject.calibration)
        counts = {"always zero": zero, "constant": still, "never read": unread}
        said = [f"{int(which.sum())} {word}" for word, which in counts.items() if which.any()]
        return Finding.make(
            code=self.code,
            components=components,
            severity=len(dead) / site.units,
            evidence=(
                Measurement(name="dead_units", value=len(dead), unit="count", n=samples,
                            note=f"{site.kind}s {' '.join(str(i) for i in dead)}"),
                Measurement(name="units", value=site.units, unit="count"),
                *(
                    Measurement(name=f"{word.replace(' ', '_')}_units", value=int(which.sum()),
                                unit="count", n=samples)
                    for word, which in counts.items()
                ),
            ),
            message=f"{len(dead)} of the {site.units} {site.kind}s of {site.component} "
            f"{'does' if len(dead) == 1 else 'do'} nothing on {samples} samples ({listed(said)}).",
        )  # fmt: skip
