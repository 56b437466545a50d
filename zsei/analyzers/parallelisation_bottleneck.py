"""What has to be done step by step, however many hands there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number, percent
from zsei.graph.span import Recurrence, recurrences, span
from zsei.records import Check, Finding, Measurement
from zsei.subject.cost import total_flops


@final
@dataclass(frozen=True, kw_only=True)
class ParallelisationBottleneck:
    """Loops over time: one weight read again and again, each time on what came of the last time.

    Measures: chains of products with one and the same weight in which each waits for the one before
    it, unrolled in the program or inside a recurrent call; how much of the model's arithmetic waits
    in them; and work over span of the whole program.

    Formula: sequential_steps = products on the longest such chain (layers x time steps in a
    recurrent call). sequential_share = f = operations of the products that wait for an earlier one
    / operations of the model. speedup_bound = 1 / f: by Amdahl's law no number of workers makes the
    model more than that many times as fast, as long as a step is not made faster. Found when
    sequential_steps >= min_steps, f >= min_share and a step handles at most max_rows rows a sample.
    parallelism = work / span, work the operations of all calls (one per entry made besides),
    span those of the heaviest chain of calls that need one another; both exact, from the graph.
    Severity: f (1 - 1 / sequential_steps).

    Reading it: such a loop leaves a machine with many cores idle however few operations it does,
    since a step is small and the next must wait. Work that does not wait (the projection of all
    inputs at once) can be taken out of the loop.

    Misleads when: the batch is large, so that one step keeps the machine busy; or the model is
    served one step at a time anyway, as a stream. Depth is no loop: a stack of different layers
    also waits, and its parallelism says how much.

    References: Amdahl, "Validity of the single processor approach to achieving large scale
    computing capabilities", AFIPS 1967; Brent, "The parallel evaluation of general arithmetic
    expressions", Journal of the ACM 21(2), 1974; Vaswani et al., "Attention is all you need",
    NeurIPS 2017 (sequential operations by kind of layer).
    """

    code: ClassVar[str] = "parallelisation-bottleneck"
    clock: ClassVar[bool] = False

    min_steps: int = 8
    """Fewest steps that wait for one another."""
    min_share: float = 0.1
    """Share of the model's operations that must wait in the loop."""
    max_rows: int = 4
    """Rows per sample of one step above which it keeps a parallel machine busy."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per loop, longest first; weights of one loop are joined."""
        program = analysis.subject.program
        if program is None:
            return
        total = total_flops(program)
        loops = [
            r for r in recurrences(analysis.subject, self.min_steps) if r.rows <= self.max_rows
        ]
        owners = _owners(analysis)
        joined: dict[tuple[str, ...], list[Recurrence]] = {}
        for loop in loops:
            parts = tuple(dict.fromkeys(owners[n] for n in loop.nodes if n in owners))
            joined.setdefault(parts, []).append(loop)
        for parts, together in joined.items():
            share = sum(loop.operations for loop in together) / max(total, 1)
            if parts and share >= self.min_share:
                yield self._report(analysis, parts, together, share)

    def _report(
        self, analysis: Analysis, parts: tuple[str, ...], loops: list[Recurrence], share: float
    ) -> Finding:
        assert analysis.subject.program is not None
        whole = span(analysis.subject.program)
        steps = max(loop.steps for loop in loops)
        where = parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"
        found = Finding.make(
            code=self.code,
            components=parts,
            severity=share * (1 - 1 / steps),
            evidence=(
                Measurement(name="sequential_steps", value=steps, unit="count"),
                Measurement(name="sequential_share", value=share, unit="share"),
                Measurement(name="speedup_bound", value=1 / share, unit="ratio"),
                Measurement(name="parallelism", value=whole.parallelism, unit="ratio",
                            note="work over span of the whole program"),
            ),
            message=f"{where} runs {steps} steps one after the other, each on what the last one "
            f"gave; {percent(share)} of the operations wait in that loop, so no number of workers "
            f"makes the model more than {number(1 / share)} times as fast.",
        )  # fmt: skip
        return found.model_copy(update={"checks": (_check(analysis, loops),)})


def _owners(analysis: Analysis) -> dict[str, str]:
    """Node -> the innermost component that owns it, heads and layers left out."""
    return {
        node: component.id
        for component in analysis.subject.anatomy.components
        if component.kind not in ("head", "layer", "output", "residual")
        for node in analysis.subject.anatomy.nodes[component.id]
    }


def _check(analysis: Analysis, loops: list[Recurrence]) -> Check:
    """Whether the last step really moves when the first one does: a run with one changed value."""
    chain = max(loops, key=lambda loop: len(loop.nodes)).nodes
    if len(chain) < 2:
        return Check(
            name="step-by-step",
            outcome="agrees",
            message="The recurrent call is defined step by step: no run is needed to tell.",
        )
    batch = analysis.subject.calibration[0]
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        for watch in ({}, {chain[0]: lambda value: value + value.abs().mean().clamp_min(1e-3)}):
            analysis.engine.run(batch, {**watch, chain[-1]: lambda v: seen.append(v.clone())})
    moved = float((seen[1] - seen[0]).norm() / seen[0].norm().clamp_min(1e-12))
    reached = Measurement(name="moved_last_step", value=moved, unit="relative L2", n=batch.size)
    return Check(
        name="step-by-step",
        outcome="agrees" if moved > 0 else "disagrees",
        evidence=(reached,),
        message=f"Shifting what the first step gives moves what the last one gives by "
        f"{number(moved)} in relative L2"
        + ("." if moved > 0 else ": on this data the steps do not need one another."),
    )
