"""Layers whose input could stand for their output."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import bounds
from zsei.analyzers.words import number
from zsei.records import Finding, Measurement
from zsei.settings import LIMITS
from zsei.trace.ablation import Effect


@final
@dataclass(frozen=True, kw_only=True)
class RedundantLayers:
    """Layers that can be bypassed within the limit that the safety level sets for layers.

    Measures: block influence, and what the output does when a layer's input is handed on in place
    of its output.

    Formula: block_influence = 1 - cos(input, output) over rows; bypass_effect = mean divergence of
    the output under the bypass. Found when the upper 95 % bound of bypass_effect lies within the
    divergence limit for layers (0.12, 0.15 or 0.20 for conservative, moderate and aggressive).
    Severity: 1 - bypass_effect / limit.

    Reading it: a low block influence with a low bypass effect is a layer that hardly does anything.
    A low influence with a high effect (it is then not found) writes little that matters much.

    Misleads when: several layers are found: each was bypassed alone, and two together cost more
    than the sum.

    References: Men et al., "ShortGPT: layers in large language models are more redundant than you
    expect", 2024; Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively
    shallow networks", NeurIPS 2016.
    """

    code: ClassVar[str] = "redundant-layers"
    clock: ClassVar[bool] = False

    most: int = 5
    """Layers that are reported, least effect first."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per layer, least effect first."""
        limit = LIMITS["layers"][analysis.settings.safety][1]
        measured: list[tuple[float, str, Effect]] = []
        for name, effect in analysis.importance.effects.items():
            if effect.target.site.kind == "layer":
                measured.append((float(effect.divergence.double().mean()), name, effect))
        if len(measured) < 2:
            return
        within = [m for m in measured if bounds(m[2].divergence.double())[1] <= limit]
        for value, layer, effect in sorted(within, key=lambda m: m[:2])[: self.most]:
            yield self._report(analysis, layer, value, effect, limit)

    def _report(
        self, analysis: Analysis, layer: str, value: float, effect: Effect, limit: float
    ) -> Finding:
        metric = analysis.subject.objective.metric
        seen = effect.divergence.double()
        bypass = Measurement(
            name="bypass_effect",
            value=value,
            unit=metric,
            std=float(seen.std()) if len(seen) > 1 else None,
            n=len(seen),
        )
        influence = analysis.trace.measurements[layer].get("block_influence")
        turned = None if influence is None else influence.value
        said = "" if turned is None else f", which turns the stream by {number(turned)},"
        return Finding.make(
            code=self.code,
            components=(layer,),
            severity=1 - value / limit,
            evidence=(
                bypass,
                *((influence,) if influence is not None else ()),
                Measurement(name="effect_limit", value=limit, unit=metric,
                            note=f"layers, {analysis.settings.safety}"),
            ),
            message=f"Bypassing {layer}{said} moves the output by {number(value)} in {metric}, "
            f"within the limit of {number(limit)}.",
        )  # fmt: skip
