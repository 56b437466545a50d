"""Phases 2 to 4 without exact ablation: forward flow, gradient flow, integration.

Everything `analyze` measures before it ablates anything, against a bare forward of the same batch,
and each measure of the shelf by itself.
"""

from dataclasses import dataclass, replace

from benchmarks.memory import peak_megabytes
from benchmarks.minilm import bare_forward, subject
from benchmarks.paired import Ratio, ratio
from zsei.graph.build import build_graph
from zsei.measures import MEASURES
from zsei.settings import Settings
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.measuring import run_measures
from zsei.trace.run import evidence_to_trace
from zsei.trace.taps import find_taps
from zsei.trace.view import View


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    everything: Ratio
    one_pass: Ratio
    """The pass over the data and the graph alone."""
    measures: dict[str, Ratio]
    extra_megabytes: float | None
    """Peak resident memory above that of a bare forward."""


def measure(pairs: int = 3) -> Result:
    """Ratios to a bare forward."""
    model, settings = subject(), Settings(probes=1)
    model_one = replace(model, calibration=model.calibration[:1])
    engine = engine_for(model_one)
    taps = find_taps(model_one, engine)

    def one_pass() -> tuple[object, View]:
        evidence = collect(
            engine,
            taps,
            model_one.objective,
            model_one.calibration,
            probes=1,
            seed=0,
            rows=settings.rows,
        )
        trace = evidence_to_trace(model_one, taps, evidence)
        view = View(
            subject=model_one, engine=engine, taps=taps, evidence=evidence,
            measurements=trace.measurements, settings=settings,
        )  # fmt: skip
        return trace, view

    def everything() -> object:
        trace, view = one_pass()
        trace = run_measures(trace, view, MEASURES)
        if trace.failures:
            raise RuntimeError(f"a measure stopped: {trace.failures}")
        return build_graph(model_one, trace)

    forward = bare_forward(model_one)
    _, view = one_pass()
    single = {m.name: ratio(lambda m=m: m.measure(view), forward, 1) for m in MEASURES}
    forward()
    plain = peak_megabytes(forward)
    whole = peak_megabytes(everything)
    return Result(
        everything=ratio(everything, forward, pairs),
        one_pass=ratio(one_pass, forward, pairs),
        measures=single,
        extra_megabytes=None if plain is None or whole is None else whole - plain,
    )


def main() -> None:
    """Print the table."""
    result = measure()
    print(f"{'everything before exact ablation':40} {result.everything.median:6.2f}   (8)")
    print(f"{'  one pass over the data':40} {result.one_pass.median:6.2f}")
    for name, found in sorted(result.measures.items(), key=lambda item: -item[1].median):
        print(f"{'  ' + name:40} {found.median:6.2f}")
    print(f"{'extra peak memory, MB':40} {result.extra_megabytes or float('nan'):6.0f}   (350)")


if __name__ == "__main__":
    main()
