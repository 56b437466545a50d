"""Which part of a model gives what to which other part: edges, checked by exchanging them.

MiniLM, offline: the largest edges of an analysis, and what some of them really do.
"""

# %% Trace MiniLM; edge attribution is one of the measures.
from zsei.measures.edge_attribution import EdgeAttribution
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.trace.edge_check import check_edges
from zsei.trace.engine import engine_for
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.run import trace
from zsei.trace.taps import find_taps

settings = Settings(samples=16, batch_size=8, length=32, probes=2)
subject = prepare("demo:minilm", settings=settings)
engine = engine_for(subject)
traced = trace(subject, settings, engine=engine, measures=(EdgeAttribution(),))

# %% The writers of the residual stream sum to what is read, so the edges are those of the model.
error = traced.measurements["output"]["writers_sum_error"]
print(f"writers sum to what is read within {error.value:.1e}")
for edge in traced.edges[:8]:
    what = f"{edge.writer} -> {edge.reader} ({edge.port})"
    print(f"  {what:64} {edge.attribution:.4f}  route share {edge.route_share:.2f}")

# %% Are the scores right? Exchange a sample of edges, each in its reader's input alone.
assert isinstance(engine, ProgramEngine)
check = check_edges(
    engine, find_taps(subject, engine).edges, subject.objective, subject.calibration[:1],
    traced.edges, means=traced.means,
)  # fmt: skip
print(f"{check.outcome}: {check.message}")
