"""The page of a profile: one self-contained HTML file.

As the report of an analysis: it loads nothing, its content security policy forbids every connection
and every script, and every text is cleaned, clipped and escaped.
"""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from zsei.profiling.record import OUTSIDE, Growth, ProfileRecord
from zsei.records import AnalysisRecord
from zsei.report import html, profile_text
from zsei.report.curves_svg import Chart, Curve, curves_svg
from zsei.report.profile_svg import KINDS, colour_of, memory_svg, roofline_svg

STYLES = ("prune.css", "run.css", "profile.css")
"""What a profile's drawings need beside the report's own style."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the report of an analysis shows of a profile."""

    record: ProfileRecord
    whole: str
    roofline: Markup
    timeline: Markup
    kinds: tuple[tuple[str, str], ...]
    grown: tuple[str, ...]


def section(analysis: AnalysisRecord) -> Section | None:
    """The profile that an analysis holds; None where none was asked for."""
    if analysis.timings.profile is None:
        return None
    record = ProfileRecord.model_validate(analysis.timings.profile)
    return Section(
        record=record,
        whole=profile_text.whole(record),
        roofline=roofline_svg(record),
        timeline=memory_svg(record),
        kinds=legend(record),
        grown=tuple(profile_text.grown(fit) for fit in record.growth),
    )


def write(record: ProfileRecord, path: Path) -> Path:
    """Write the page of a profile to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return html.write_page(render(record), path)


def render(record: ProfileRecord) -> str:
    """The page."""
    charts = [chart for chart in map(growth_chart, record.growth) if chart]
    return html.page("profile.html.j2", ("report.css", *STYLES), {
        "record": record,
        "whole": profile_text.whole(record),
        "memory": profile_text.memory(record),
        "grown": [profile_text.grown(fit) for fit in record.growth],
        "roofline": roofline_svg(record),
        "timeline": memory_svg(record),
        "kinds": legend(record),
        "charts": [(chart, curves_svg(chart)) for chart in charts],
        "calls": sorted(record.calls, key=lambda call: (-call.seconds.median, call.name)),
    })  # fmt: skip


def legend(record: ProfileRecord) -> tuple[tuple[str, str], ...]:
    """(kind, class of its colour) of the kinds that are drawn; those without a colour are one."""
    kinds = [
        part.kind for part in record.parts if part.intensity and part.name != OUTSIDE and part.kind
    ]
    own = [(kind, colour_of(kind)) for kind in KINDS if kind in kinds]
    rest = sorted({kind for kind in kinds if kind not in KINDS})
    return (*own, (", ".join(rest), colour_of(""))) if rest else tuple(own)


def growth_chart(fit: Growth) -> Chart | None:
    """What was measured at each size, beside the fitted line; None where there is no fit.

    The line goes through the mean of the logarithms, as the least-squares line does.
    """
    if fit.exponent is None or len(fit.sizes) < 2:
        return None
    slope = fit.exponent.median
    across = _geometric_mean(fit.sizes)
    level = _geometric_mean(fit.values)
    scale, unit = (1e3, "milliseconds") if fit.measure == "seconds" else (2.0**-20, "MiB")
    points = tuple(
        (float(size), scale * value) for size, value in zip(fit.sizes, fit.values, strict=True)
    )
    line = tuple((float(size), scale * level * (size / across) ** slope) for size in fit.sizes)
    what = "Time" if fit.measure == "seconds" else "Memory"
    return Chart(
        title=f"{what} over {fit.over}: exponent {slope:.2f}",
        unit=unit,
        across="samples" if fit.over == "batch" else "positions",
        curves=(
            Curve(name="measured", points=points),
            Curve(name=f"exponent {slope:.2f}", points=line),
        ),
    )


def _geometric_mean(values: tuple[float, ...] | tuple[int, ...]) -> float:
    product = 1.0
    for value in values:
        product *= float(value) ** (1 / len(values))
    return product


def fragment(record: ProfileRecord) -> str:
    """What a notebook shows: the sentence of the whole and the hottest components."""
    rows = "".join(
        f"<tr><td>{escape(part.name)}</td><td>{part.seconds.median * 1e3:.3g} ms</td>"
        f"<td>{part.share:.1%}</td><td>{escape(part.band)}</td></tr>"
        for part in record.parts[: profile_text.TOP]
    )
    return (
        f"<p>{escape(profile_text.whole(record))}</p><table><thead><tr><th>component</th>"
        f"<th>time</th><th>share</th><th>worth it</th></tr></thead><tbody>{rows}</tbody></table>"
    )
