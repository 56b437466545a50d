"""All writer-reader edges of MiniLM: what they cost alone, and what they add to an analysis.

Alone: a forward, a backward, and the scores of all edges on all tokens of 32 x 64. In an analysis
the pass keeps the values of a few samples; what is added is their keeping and their scores. Memory
is the growth of the process's peak over a bare forward.
"""

import resource
from dataclasses import dataclass, replace

from benchmarks.minilm import bare_forward, subject
from benchmarks.paired import Ratio, ratio
from zsei.measures.attention_to_mlp import AttentionToMlp
from zsei.measures.edge_attribution import EdgeAttribution
from zsei.measures.flow_routes import FlowRoutes
from zsei.settings import Settings
from zsei.trace.edge_plan import EdgePlan
from zsei.trace.edge_rows import carried_parts
from zsei.trace.edge_scores import ScoredBlock, score_edges, writer_means
from zsei.trace.edge_values import whole_run
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.taps import find_taps
from zsei.trace.view import View

ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    edges: int
    sum_error: float
    memory: float
    """MiB over a bare forward."""
    alone: Ratio
    kept: float
    """Forwards that keeping the values adds to the pass."""
    attribution: Ratio
    routes: Ratio
    to_mlp: Ratio


def measure(pairs: int = 5) -> Result:
    """Ratios to a bare forward."""
    model = subject()
    engine = engine_for(model)
    taps = find_taps(model, engine)
    plan, batch = taps.edges, model.calibration[0]

    def alone() -> tuple[float, list[ScoredBlock]]:
        whole = whole_run(engine, plan.taps, model.objective, batch)
        parts = carried_parts(plan.stream, whole, {r.place for r in plan.readers})
        error = max(part.error() for part in parts)
        means = writer_means(plan.stream, whole, {})
        return error, score_edges(plan.stream, plan.readers, whole, means)

    def evidence(plan: EdgePlan):
        return collect(
            engine, replace(taps, edges=plan), model.objective, model.calibration[:1], probes=1,
            seed=0, rows=ROWS,
        )  # fmt: skip

    forward = bare_forward(model)
    forward()
    before = _peak()
    error, blocks = alone()
    memory = _peak() - before
    view = View(
        subject=model, engine=engine, taps=taps, evidence=evidence(plan), measurements={},
        settings=Settings(),
    )  # fmt: skip
    with_edges = ratio(lambda: evidence(plan), forward, pairs)
    without = ratio(lambda: evidence(EdgePlan()), forward, pairs)
    return Result(
        edges=sum(block.scores.shape[2] * block.scores.shape[3] for block in blocks),
        sum_error=error,
        memory=memory,
        alone=ratio(alone, forward, pairs),
        kept=with_edges.median - without.median,
        attribution=ratio(lambda: EdgeAttribution().measure(view), forward, pairs),
        routes=ratio(lambda: FlowRoutes().measure(view), forward, pairs),
        to_mlp=ratio(lambda: AttentionToMlp().measure(view), forward, pairs),
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(measure())
