"""Stages of a vision model that drop detail faster than they gain channels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, final

from zsei.analyzers.checks import inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number, percent
from zsei.measures.modality import image_input
from zsei.measures.resolution import coarser
from zsei.records import Check, Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class ResolutionBottleneck:
    """A stage after which far less room is left for what the image holds.

    Measures: the room, places times channels in use, before and after each stage.

    Formula: capacity_kept = spatial_capacity after / before, for neighbouring stages of which the
    latter still has places; found when places fall and capacity_kept < max_kept. Severity: 1 -
    capacity_kept. The check shows held-out images at the stage's own resolution: it agrees when
    their effect is at most max_effect of that of images of one colour, since detail that is
    dropped here cannot be missed; it disagrees when finer detail still moves the output.

    Reading it: what is finer than this stage is lost to all that follows. Early in the model it is
    usually a stride or a pool that comes before there are channels to hold what it drops: a
    smaller stride or more channels is the trial. If the task needs no detail, smaller images do.

    Misleads when: neighbouring places are alike (natural images: capacity then overstates what the
    input holds), or few rows hide the rank; the stage is then passed over.

    References: Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007; Zhang, "Making convolutional networks shift-invariant again", ICML 2019 (what
    strides drop).
    """

    code: ClassVar[str] = "resolution-bottleneck"
    clock: ClassVar[bool] = False

    max_kept: float = 0.2
    """Capacity after over capacity before, below which it is found."""
    max_effect: float = 0.25
    """Effect of the coarser images, over that of images of one colour, up to which it agrees."""
    samples: int = 8
    """Held-out images of the check."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Stages in order of the flow."""
        index = image_input(analysis.subject)
        if index is None:
            return
        rooms = [
            (component.id, named)
            for component in analysis.subject.anatomy.components
            if _value(named := analysis.trace.measurements.get(component.id, {}),
                      "spatial_capacity") is not None
        ]  # fmt: skip
        # The output's component is no stage; the input comes first wherever it is listed.
        rooms.sort(key=lambda room: not room[0].startswith("input."))
        for (before, entering), (after, leaving) in pairwise(rooms):
            given, left = _value(entering, "spatial_capacity"), _value(leaving, "spatial_capacity")
            places = [_value(named, "places") or 0.0 for named in (entering, leaving)]
            if not given or left is None or not 1 < places[1] < places[0]:
                continue
            kept = left / given
            if kept >= self.max_kept:
                continue
            finding = Finding.make(
                code=self.code,
                components=(after,),
                severity=1 - kept,
                evidence=(
                    Measurement(name="capacity_kept", value=kept, unit="share"),
                    leaving["places"], leaving["stage_rank"],
                    entering["places"], entering["stage_rank"],
                ),
                message=f"{after} leaves {number(places[1])} places with "
                f"{number(left / places[1])} dimensions each, where {before} gives it "
                f"{number(places[0])} with {number(given / places[0])}: "
                f"{percent(1 - kept)} of the room for detail is gone.",
            )  # fmt: skip
            yield with_checks(finding, self._check(analysis, index, places[1]))

    def _check(self, analysis: Analysis, index: int, places: float) -> Check:
        """Held-out images at (nearly) the stage's own resolution."""
        name = "coarser-images"
        subject = replace(analysis.subject, calibration=analysis.subject.held_out)
        sides, effects, _ = coarser(subject, index, self.samples)
        height, width = subject.calibration[0].inputs[index].shape[2:]
        own = (places / (height * width)) ** 0.5 * max(height, width)
        fine = [k for k, side in enumerate(sides[:-1]) if side >= 0.99 * own and side > 1]
        mean = effects.double().mean(0)
        if not fine or float(mean[0]) <= 0 or len(effects) < 4:
            return inconclusive(name, "It takes 4 images that are finer than the stage to tell.")
        k = fine[0]
        share = float(mean[k] / mean[0])
        agrees = share <= self.max_effect
        return Check(
            name=name,
            outcome="agrees" if agrees else "disagrees",
            evidence=(
                Measurement(name="downsampling_share", value=share, unit="share", n=len(effects),
                            note=f"{sides[k]} pixels along the longer side"),
            ),
            message=f"Images of {sides[k]} pixels a side change the output by {percent(share)} of "
            f"what images of one colour do, "
            + ("so the finer detail is lost." if agrees else "so finer detail still counts."),
        )  # fmt: skip


def _value(named: Mapping[str, Measurement], name: str) -> float | None:
    found = named.get(name)
    return None if found is None else found.value
