"""A flow graph with forward and gradient evidence, against a bare forward of the same batch.

Forward evidence: size and shares of every value. Gradient evidence: output sensitivity and
attributions from one probe. The result is the networkx graph with both on its edges. The second
figure adds what the analyses need once per model: effective ranks, similar heads, near duplicate
neurons.
"""

from dataclasses import dataclass

from benchmarks.minilm import bare_forward, subject
from benchmarks.paired import Ratio, ratio
from zsei.graph.build import build_graph
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.run import evidence_to_trace
from zsei.trace.taps import find_taps


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    graph: Ratio
    with_structure: Ratio


def measure(pairs: int = 5) -> Result:
    """Ratios to a bare forward."""
    model = subject()
    engine = engine_for(model)
    taps = find_taps(model, engine)

    def graph(*, structure: bool = False) -> object:
        evidence = collect(
            engine, taps, model.objective, model.calibration[:1], probes=1, seed=0, rows=256
        )
        return build_graph(model, evidence_to_trace(model, taps, evidence, structure=structure))

    forward = bare_forward(model)
    return Result(
        graph=ratio(graph, forward, pairs),
        with_structure=ratio(lambda: graph(structure=True), forward, pairs),
    )


if __name__ == "__main__":
    print(measure())
