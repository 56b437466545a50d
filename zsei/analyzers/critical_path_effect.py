"""The way through the model whose parts matter most to the output."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.path_parts import part_effects, removable_parts
from zsei.analyzers.words import listed, percent
from zsei.graph.routes import heaviest_routes
from zsei.records import Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class CriticalPathEffect:
    """The shortest path from an input to the output that holds half of the summed effect.

    Measures: which way through the model the output hangs on most, part by part.

    Formula: for each number k of parts, argmax over the paths that cross k parts of Σ e(part), by
    dynamic programming; e is the additive effect of removing a head, MLP or other branch by itself,
    exact where it was ablated and predicted by output sensitivity elsewhere. Parts that every path
    crosses are left out; an attention is counted through its head. path_effect_share = the sum on
    the path / the sum of all parts; the path of least k that reaches min_share is taken, or the
    one with the largest sum where none does. Severity: 0, for a path is a description and no
    defect.

    Reading it: the fewer parts, the more the output hangs on a single chain of them. The parts are
    then removed together, and so are those of random paths through as many parts: the check says
    whether this path is more critical than they are.

    Misleads when: parts back each other up, so that each alone looks idle; then the sum of single
    effects misses what removing both would do. Large parts (MLPs) beside small ones (heads) make
    a path critical by size alone.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    Wang, Variengien, Conmy, Shlegeris and Steinhardt, "Interpretability in the wild: a circuit for
    indirect object identification in GPT-2 small", ICLR 2023.
    """

    code: ClassVar[str] = "critical-path-effect"
    clock: ClassVar[bool] = False

    min_share: float = 0.5
    """Share of the summed effect of all parts that the path should hold, 0 to 1."""
    named: int = 3
    """How many of the parts with the largest effects are named."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding; none where every path crosses the same parts."""
        effects = part_effects(analysis, removable_parts(analysis))
        total = sum(effects.values())
        routes = heaviest_routes(analysis.flow, effects)
        largest = max((weight for _, weight in routes.values()), default=0.0)
        if total <= 0 or largest <= 0:
            return
        wanted = min(self.min_share * total, largest)
        path, weight = next(found for found in routes.values() if found[1] >= wanted)
        share = weight / total
        crossed = sorted((n for n in path if n in effects), key=lambda n: (-effects[n], n))
        parts = "1 part" if len(crossed) == 1 else f"{len(crossed)} parts"
        yield Finding.make(
            code=self.code,
            components=path,
            severity=0.0,
            evidence=(
                Measurement(name="path_effect_share", value=share, unit="share"),
                Measurement(name="path_parts", value=len(crossed), unit="count"),
                Measurement(name="path_length", value=len(path), unit="count"),
            ),
            message=f"A path through {parts} holds {percent(share)} of the summed effect of all "
            f"{len(effects)}: {listed(crossed, self.named)}.",
        )
