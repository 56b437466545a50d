"""All speed benchmarks, one table: `make bench`, or `python -m benchmarks.run`.

Ratios are of CPU time on one thread to a bare no-grad forward of the same batch (MiniLM, 32
sentences of 64 tokens), interleaved, medians. The whole process runs first, on all cores.
"""

from statistics import median

from benchmarks import ablation, flow_graph, sensitivity, whole_process
from benchmarks.paired import Ratio


def main() -> None:
    """Measure everything and print what was reached beside what is aimed at."""
    whole = whole_process.measure()
    graph = flow_graph.measure()
    heads = ablation.measure()
    cheap = sensitivity.measure()
    rows = [
        ("graph with forward and gradient evidence", shown(graph.graph), "2.8"),
        ("  with ranks, similar heads, duplicate neurons", shown(graph.with_structure), "-"),
        (f"exact ablation of {heads.heads} heads", shown(heads.fast), "41"),
        ("  naive loop over heads", shown(heads.naive), "-"),
        ("  largest difference to the naive loop", f"{heads.difference:.1e}", "1e-06"),
        ("all heads by output sensitivity", shown(cheap.cost), "5.5"),
        (f"  Spearman with exact, median of {len(cheap.spearman)} seeds",
         f"{median(cheap.spearman):.3f} ({min(cheap.spearman):.3f} at least)", "0.95"),
        ("zsei analyze demo:minilm, seconds", f"{whole.seconds:.1f}", "60"),
        ("  resident memory, MB", f"{whole.resident_megabytes:.0f}", "1500"),
    ]  # fmt: skip
    print(f"{'what':48}  {'measured':28}  to reach")
    for what, measured, goal in rows:
        print(f"{what:48}  {measured:28}  {goal}")


def shown(ratio: Ratio) -> str:
    """A ratio with its range."""
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


if __name__ == "__main__":
    main()
