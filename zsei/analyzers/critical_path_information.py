"""The ways through the model that carry most of what it adds up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed, percent
from zsei.graph.paths import strongest_paths
from zsei.records import Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class CriticalPathInformation:
    """The k paths from an input to the output with the largest product of shares.

    Measures: which way most of the values that reach the output came.

    Formula: path_share = Π share(u, v) along the path; at a residual join share is the proximity
    share of the summand, where nothing is added up it is 1 / (number of ways in). Exact, by dynamic
    programming. Severity: 0, for a path is a description and no defect.

    Reading it: in a residual model the strongest path is mostly the skip; the parts on the next
    paths are the ones that add most to it. Components are in the order of the flow. Each path is
    removed and compared with random paths through as many parts (check "random-paths"); where it
    is no more critical than they are, the finding says so.

    Misleads when: shares are taken for importance: a small summand can decide the output (compare
    criticality_share). In deep models every product is small, so only the order counts.

    References: Ferrando and Voita, "Information flow routes: automatically interpreting language
    models at scale", EMNLP 2024.
    """

    code: ClassVar[str] = "critical-path-information"
    clock: ClassVar[bool] = False

    paths: int = 3
    """How many paths are reported."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per path, strongest first."""
        first: tuple[str, ...] | None = None
        for rank, (path, share) in enumerate(strongest_paths(analysis.flow, self.paths), 1):
            new = [node for node in path if first is not None and node not in first]
            first = first or path
            ends = f"from {path[0]} to {path[-1]}"
            told = f", through {listed(new)}" if new else ""
            yield Finding.make(
                code=self.code,
                components=path,
                severity=0.0,
                evidence=(
                    Measurement(name="path_share", value=share, unit="share"),
                    Measurement(name="path_length", value=len(path), unit="count"),
                    Measurement(name="path_rank", value=rank, unit="count"),
                ),
                message=f"Path {rank} {ends} carries {percent(share)} of the flow over {len(path)} "
                f"nodes{told}.",
            )
