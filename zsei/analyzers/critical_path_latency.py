"""The longest chain of calls in time: what cannot run side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed, number, percent
from zsei.graph.paths import longest_path
from zsei.records import Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class CriticalPathLatency:
    """The path from an input to the output that takes the longest.

    Measures: the least time a forward pass would take if everything else ran beside this path.

    Formula: the path with the largest sum of measured seconds per component, by dynamic
    programming; path_seconds_share = its seconds / the seconds of all components. Severity: 0, for
    a path is a description and no defect.

    Reading it: a share near 100 % means that the model is one chain and cannot be made faster by
    running parts side by side, only by making the parts on the path cheaper or fewer.

    Misleads when: calls overlap or are fused in production, or something else keeps the machine
    busy. It rests on a clock, so two runs differ.

    References: Kelley and Walker, "Critical-path planning and scheduling", 1959; Graham, "Bounds on
    multiprocessing timing anomalies", SIAM Journal on Applied Mathematics 17(2), 1969.
    """

    code: ClassVar[str] = "critical-path-latency"
    clock: ClassVar[bool] = True

    named: int = 3
    """How many of the slowest components on the path are named."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding."""
        seconds = {node: analysis.trace.seconds.get(node, 0.0) for node in analysis.flow.graph}
        path, longest = longest_path(analysis.flow, seconds)
        total = sum(seconds.values())
        if not path or total == 0:
            return
        slowest = sorted(path, key=lambda node: -seconds[node])[: self.named]
        yield Finding.make(
            code=self.code,
            components=path,
            severity=0.0,
            evidence=(
                Measurement(name="path_seconds", value=longest, unit="seconds per batch"),
                Measurement(name="path_seconds_share", value=longest / total, unit="share"),
                *(
                    Measurement(name="seconds", value=seconds[node], unit="seconds per batch",
                                note=node)
                    for node in slowest
                ),
            ),
            message=f"The longest chain of calls takes {number(longest)} s a batch, "
            f"{percent(longest / total)} of the time of all; slowest on it are {listed(slowest)}.",
        )  # fmt: skip
