"""The widening trial: give back what a narrow place lost, and see whether the objective gains.

Beside a narrow node a linear path is added, from the directions of what enters that cannot be read
off what leaves, to the first wide value behind. It is fitted on half of the calibration samples,
step by step down the gradient of the objective, and judged on the other half. Where the loss falls
there, the place withholds what the task could use: the bottleneck is artificial. Where it does not,
the task needs no more than passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from zsei.analyzers.checks import inconclusive
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import bounds
from zsei.analyzers.shares import first_half
from zsei.analyzers.words import number, percent
from zsei.records import Check, Measurement
from zsei.subject.objective import loss, readout
from zsei.subject.types import Batch
from zsei.trace.taps import find_taps

ROUNDS = 8
"""Steps down the gradient."""
STEPS = (2.0, 1.0, 0.5, 0.25, 0.125, 0.03)
"""Lengths tried in each, times the length at which the slope alone would end the loss."""
MOST_SAMPLES = 128
"""Samples the trial takes at most."""
MOST_DIRECTIONS = 32
"""Lost directions given back at most, largest first."""
ROWS_PER_DIRECTION = 4
"""Fewest fitted rows for each direction."""
NOTHING = 1e-6
"""Share of the variance of what enters below which none of it counts as lost; and a loss at which
nothing is left to gain."""
MIN_GAIN = 0.05
"""Relative fall of the loss from which the lost directions are missed."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The three values of a trial: node names and channel axes, and the batches."""

    nodes: tuple[str, str, str]
    """What enters, what leaves the narrow node, the wide value behind."""
    axes: tuple[int, int, int]
    batches: tuple[Batch, ...]


def widening_trial(analysis: Analysis, before: str, narrow: str, behind: str) -> Check:
    """Whether giving back what `narrow` loses lowers the loss on samples it was not fitted to.

    Args:
        analysis: What was measured, and the engine.
        before: Component that writes what enters.
        narrow: Component that lets few directions through.
        behind: First wide component behind it; what is given back is added to what it writes.

    Returns:
        Check "widening": "agrees" where the loss falls by at least MIN_GAIN (artificial),
        "disagrees" where it surely does not (necessary), else "inconclusive" and why.
    """
    place, why = _place(analysis, (before, narrow, behind))
    if place is None:
        return inconclusive("widening", f"Not widened: {why}.")
    lost = _lost(analysis, place)
    if lost is None:
        return Check(
            name="widening",
            outcome="disagrees",
            message=f"Nothing linear is lost: all that enters {narrow} can be read off what leaves "
            f"it.",
        )
    path = _fit(analysis, place, lost)
    plain = _losses(analysis, place, lost, torch.zeros_like(path), fitted=False)
    widened = _losses(analysis, place, lost, path, fitted=False)
    return _judge(plain, widened, narrow, lost[0].shape[-1])


def _place(analysis: Analysis, components: tuple[str, ...]) -> tuple[_Place | None, str]:
    subject = analysis.subject
    if not subject.objective.supervised:
        return None, (
            f"the objective is {subject.objective.name}, and no output is nearer to the model's "
            f"than its own; it takes labels"
        )
    taps = find_taps(subject, analysis.engine).values
    names = [subject.anatomy.outputs[c] for c in components]
    if any(name not in taps for name in names):
        return None, "one of the values is not watched"
    step, taken = subject.calibration[0].size, max(1, MOST_SAMPLES // subject.calibration[0].size)
    place = _Place(
        nodes=(names[0], names[1], names[2]),
        axes=(taps[names[0]], taps[names[1]], taps[names[2]]),
        batches=subject.calibration[:taken],
    )
    seen = _values(analysis, place, subject.calibration[0])
    if len({tuple(v.shape[:-1]) for v in seen}) > 1 or seen[0].shape[0] != step:
        return None, "what enters, what leaves and what lies behind have different positions"
    return place, ""


def _values(analysis: Analysis, place: _Place, batch: Batch) -> list[Tensor]:
    """What enters, leaves and lies behind, channels last."""
    seen: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            seen[name] = value.detach()

        return see

    with torch.no_grad():
        analysis.engine.run(batch, {name: keeping(name) for name in place.nodes})
    return [
        seen[name].movedim(axis, -1)
        for name, axis in zip(place.nodes, place.axes, strict=True)
        if name in seen
    ]


def _fitted(place: _Place, number: int) -> Tensor:
    """Which samples of a batch the path is fitted to, bool [n]."""
    start = sum(batch.size for batch in place.batches[:number])
    batch = place.batches[number]
    return first_half(start + batch.size, len(set(batch.groups)))[start:]


def _lost(analysis: Analysis, place: _Place) -> list[Tensor] | None:
    """Per batch [n, ..., k]: what enters and cannot be read off what leaves, at unit variance.

    Formula: the residual of the least squares fit of what enters by what leaves, on its first k
    principal axes; all fitted on the first half.
    """
    entering, leaving = [], []
    for batch in place.batches:
        x, v, _ = _values(analysis, place, batch)
        entering.append(x)
        leaving.append(torch.cat([v, torch.ones(*v.shape[:-1], 1)], -1))
    chosen = [_fitted(place, i) for i in range(len(place.batches))]
    x = torch.cat([e[c].flatten(0, -2) for e, c in zip(entering, chosen, strict=True)])
    v = torch.cat([e[c].flatten(0, -2) for e, c in zip(leaving, chosen, strict=True)])
    read = torch.linalg.lstsq(v.double(), x.double(), driver="gelsd").solution.float()
    rest = x - v @ read
    spread = (x - x.mean(0)).square().sum()
    if rest.square().sum() <= NOTHING * spread:
        return None
    _, sizes, axes = torch.linalg.svd(rest, full_matrices=False)
    kept = int((sizes.square() > NOTHING * spread).sum())
    kept = max(1, min(kept, MOST_DIRECTIONS, len(rest) // ROWS_PER_DIRECTION))
    scale = sizes[:kept] / len(rest) ** 0.5
    basis = axes[:kept].T / scale
    return [(e - w @ read) @ basis for e, w in zip(entering, leaving, strict=True)]


def _adding(place: _Place, added: Tensor, tape: list[Tensor]) -> Mapping[str, Callable]:
    def see(value: Tensor) -> Tensor:
        widened = value.detach() + added.movedim(-1, place.axes[2])
        if torch.is_grad_enabled():
            widened.requires_grad_()
        tape.append(widened)
        return widened

    return {place.nodes[2]: see}


def _losses(
    analysis: Analysis, place: _Place, lost: list[Tensor], path: Tensor, *, fitted: bool
) -> Tensor:
    """Loss per sample of one half with the path added."""
    objective, found = analysis.subject.objective, []
    with torch.no_grad():
        for i, batch in enumerate(place.batches):
            output = analysis.engine.run(batch, _adding(place, lost[i] @ path, []))
            half = _fitted(place, i) if fitted else ~_fitted(place, i)
            found.append(loss(objective, readout(objective, output, batch), batch)[half])
    return torch.cat(found).double()


def _fit(analysis: Analysis, place: _Place, lost: list[Tensor]) -> Tensor:
    """The path [k, c] from lost directions to the wide value, by steepest descent."""
    width = _values(analysis, place, place.batches[0])[2].shape[-1]
    path = torch.zeros(lost[0].shape[-1], width)
    best = float(_losses(analysis, place, lost, path, fitted=True).mean())
    for _ in range(ROUNDS):
        slope = _slope(analysis, place, lost, path)
        size = float(slope.square().sum())
        if size <= 0 or best <= 0:
            break
        tried = [path - step * best / size * slope for step in STEPS]
        means = [float(_losses(analysis, place, lost, p, fitted=True).mean()) for p in tried]
        if min(means) >= best:
            break
        best = min(means)
        path = tried[means.index(best)]
    return path


def _slope(analysis: Analysis, place: _Place, lost: list[Tensor], path: Tensor) -> Tensor:
    """Gradient of the first half's mean loss with respect to the path."""
    objective = analysis.subject.objective
    total, count = torch.zeros_like(path), 0
    for i, batch in enumerate(place.batches):
        half, tape = _fitted(place, i), []
        with torch.enable_grad():
            output = analysis.engine.run(batch, _adding(place, lost[i] @ path, tape))
            losses = loss(objective, readout(objective, output, batch), batch)[half]
            (gradient,) = torch.autograd.grad(losses.sum(), tape)
        gradient = gradient.movedim(place.axes[2], -1).flatten(0, -2)
        total += lost[i].flatten(0, -2).T @ gradient
        count += int(half.sum())
    return total / max(count, 1)


def _judge(plain: Tensor, widened: Tensor, narrow: str, directions: int) -> Check:
    base = float(plain.mean())
    if base <= NOTHING:
        return Check(
            name="widening", outcome="disagrees",
            message=f"There is nothing to gain: the loss is {number(base)} as it is.",
        )  # fmt: skip
    gains = (plain - widened) / base
    mean = float(gains.mean())
    low, high = bounds(gains)
    evidence = (
        Measurement(name="widening_gain", value=mean, unit="share of the loss",
                    std=float(gains.std()) if len(gains) > 1 else None, n=len(gains)),
        Measurement(name="restored_directions", value=directions, unit="count", note=narrow),
    )  # fmt: skip
    what = f"giving back {directions} lost directions by a linear path"
    if low > 0 and mean >= MIN_GAIN:
        return Check(
            name="widening", outcome="agrees", evidence=evidence,
            message=f"Artificial: {what} lowers the loss by {percent(mean)} on {len(gains)} "
            f"samples it was not fitted to.",
        )  # fmt: skip
    if high < MIN_GAIN and len(gains) > 1:
        return Check(
            name="widening", outcome="disagrees", evidence=evidence,
            message=f"Necessary as far as a linear path can tell: {what} changes the loss by "
            f"{percent(-mean)} on {len(gains)} samples it was not fitted to, surely less than the "
            f"{percent(MIN_GAIN)} that would count.",
        )  # fmt: skip
    error = 1.645 * float(gains.std()) if len(gains) > 1 else 1.0
    gap = max(abs(mean - MIN_GAIN), MIN_GAIN / 2)
    needed = max(len(gains) + 1, ceil((error / gap) ** 2))
    return Check(
        name="widening", outcome="inconclusive", evidence=evidence,
        message=f"Could not tell: {what} changes the loss by {percent(-mean)} "
        f"({number(100 * -high)} to {number(100 * -low)} %) on {len(gains)} samples; it takes "
        f"about {2 * needed} calibration samples.",
    )  # fmt: skip
