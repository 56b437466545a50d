"""Is the instrumentation harmless, and is what it reads what the model computes?"""

from collections.abc import Callable

import torch
from torch import Tensor

from zsei.analyzers.checks import inconclusive
from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number
from zsei.records import Check, Measurement
from zsei.subject.program import model_hash
from zsei.subject.streamed import mapped_weights
from zsei.trace.taps import Join, find_taps

ABOUT = "instrumentation"
TOLERANCE = 1e-5
"""Largest difference, as a share of the largest output, that rounding may explain."""


def instrumentation_checks(analysis: Analysis) -> tuple[Check, ...]:
    """Outputs equal to the plain model's, parameters untouched, residual joins that add up."""
    return (_outputs(analysis), _parameters(analysis), _joins(analysis))


def overhead_remark(overhead: float | None) -> tuple[str, ...]:
    """What the instrumentation costs, by the clock: for the timings, which no test rests on."""
    if overhead is None:
        return ()
    return (f"The instrumented forward took {number(overhead)} times the plain one.",)


def _outputs(analysis: Analysis) -> Check:
    batch, difference = analysis.subject.calibration[0], analysis.trace.output_difference
    with torch.no_grad():
        size = float(analysis.engine.run(batch).abs().max())
    relative = difference / size if size > 0 else difference
    equal = relative <= TOLERANCE
    said = (
        "equal to the bit" if difference == 0 else f"{number(relative)} of the largest output apart"
    )
    return Check(
        name="plain-outputs",
        about=ABOUT,
        outcome="agrees" if equal else "disagrees",
        evidence=(
            Measurement(name="output_difference", value=difference, n=batch.size,
                        unit="largest |instrumented - plain|"),
        ),
        message=f"The instrumented and the plain model's outputs on one batch are {said}; at most "
        f"{number(TOLERANCE)} is rounding.",
    )  # fmt: skip


def _parameters(analysis: Analysis) -> Check:
    name, subject = "parameter-hash", analysis.subject
    if mapped_weights(subject.model) is not None:
        why = (
            "The weights stay in a file that is opened for reading only, and were not hashed again."
        )
        return inconclusive(name, why, about=ABOUT)
    same = model_hash(subject.model) == subject.model_hash
    said = "the same as" if same else "other than"
    return Check(
        name=name,
        about=ABOUT,
        outcome="agrees" if same else "disagrees",
        message=f"After all measurements the parameters' hash is {said} before.",
    )


def _joins(analysis: Analysis) -> Check:
    """Whether every residual join is the sum of what the graph says it adds."""
    name = "sums-of-writers"
    joins = find_taps(analysis.subject, analysis.engine).joins
    if not joins:
        return inconclusive(
            name, "The model has no residual join that could be checked.", about=ABOUT
        )
    seen: dict[str, Tensor] = {}
    errors: dict[str, float] = {}

    def reading(node: str, ending: list[Join]) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            seen[node] = value
            for join in ending:
                error = (seen[join.skip] + seen[join.branch] - value).abs().max()
                errors[join.component] = float(error / value.abs().max().clamp_min(1e-30))

        return see

    nodes = {
        n: [j for j in joins if j.node == n] for j in joins for n in (j.skip, j.branch, j.node)
    }
    batch = analysis.subject.calibration[0]
    with torch.no_grad():
        analysis.engine.run(batch, {node: reading(node, here) for node, here in nodes.items()})
    worst = max(errors.values())
    return Check(
        name=name,
        about=ABOUT,
        outcome="agrees" if worst <= TOLERANCE else "disagrees",
        evidence=(
            Measurement(name="join_error", value=worst, unit="share of the largest entry",
                        n=batch.size),
        ),
        message=f"What is written into {len(errors)} residual joins adds up to what they hold, but "
        f"for {number(worst)} of the largest entry.",
    )  # fmt: skip
