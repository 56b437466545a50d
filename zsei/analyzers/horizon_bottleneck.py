"""Forecasters that do not use the past they are given, or forecast farther than they know."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from zsei.analyzers.checks import inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number, percent
from zsei.measures.horizon import step_errors
from zsei.measures.look_back import shortened
from zsei.measures.modality import series_input
from zsei.measures.reach import reach
from zsei.records import Check, Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class HorizonBottleneck:
    """Past that changes no forecast, and steps no better than the last value.

    Measures: the look-back window that a forecast rests on, and the horizon up to which it knows
    more than the last value.

    Formula: effective_look_back and useful_horizon as in the measures look-back and horizon. Found
    when the upper end of the former's 90 % interval is at most max_share of the window (severity 1
    - effective / given), and when the latter is at most max_share of the horizon (severity 1 -
    useful / given). The checks repeat either on held-out samples.

    Reading it: an unused past can be left out of the input, or is what a model that should see a
    longer season fails to read. Steps behind the useful horizon cost and say nothing.

    Misleads when: the data hold no long season, or overlapping samples make few look like many.

    References: Zeng, Chen, Zhang and Xu, "Are transformers effective for time series forecasting?",
    AAAI 2023; Hyndman and Koehler, "Another look at measures of forecast accuracy", International
    Journal of Forecasting, 2006.
    """

    code: ClassVar[str] = "horizon-bottleneck"
    clock: ClassVar[bool] = False

    max_share: float = 0.5
    """Used over given, up to which a window or a horizon counts as unused, 0 to 1."""
    samples: int = 32
    """Held-out samples of the checks."""
    fewest: int = 4
    """Held-out samples below which a check cannot tell."""
    enough: float = 0.05
    """Share of the largest effect that counts as nothing, in the check."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """The look-back first, then the horizon; both on the input."""
        for component, named in analysis.trace.measurements.items():
            yield from self._look_back(analysis, component, named)
            yield from self._horizon(analysis, component, named)

    def _look_back(
        self, analysis: Analysis, component: str, named: Mapping[str, Measurement]
    ) -> Iterator[Finding]:
        values = [
            named.get(name)
            for name in ("effective_look_back", "effective_look_back_high", "look_back_given")
        ]
        known = [m for m in values if m is not None and m.value is not None]
        if len(known) < 3:
            return
        length, high, given = (m.value or 0.0 for m in known)
        if high > self.max_share * given:
            return
        finding = Finding.make(
            code=self.code,
            components=(component,),
            severity=1 - length / given,
            evidence=tuple(known),
            message=f"Of {number(given)} steps of the past the forecast rests on the last "
            f"{number(length)}: the older {percent(1 - length / given)} changes nothing.",
        )
        yield with_checks(finding, self._again(analysis, high))

    def _again(self, analysis: Analysis, high: float) -> Check:
        """The same window on held-out samples."""
        subject = replace(analysis.subject, calibration=analysis.subject.held_out)
        series = series_input(subject)
        if series is None or sum(b.size for b in subject.calibration) < self.fewest:
            return inconclusive("held-out", f"It takes {self.fewest} held-out samples to tell.")
        lengths, effects, _ = shortened(subject, series, self.samples)
        again = reach(effects, lengths, enough=self.enough, seed=analysis.settings.seed)
        agrees = again.length <= high
        return Check(
            name="held-out",
            outcome="agrees" if agrees else "disagrees",
            evidence=(
                Measurement(name="effective_look_back", value=again.length, unit="steps",
                            n=len(effects), note="held-out samples"),
            ),
            message=f"On {len(effects)} held-out samples the forecast rests on the last "
            f"{again.length} steps, which " + ("agrees." if agrees else "is more than was found."),
        )  # fmt: skip

    def _horizon(
        self, analysis: Analysis, component: str, named: Mapping[str, Measurement]
    ) -> Iterator[Finding]:
        useful, given = named.get("useful_horizon"), named.get("horizon_given")
        if useful is None or given is None or useful.value is None or not given.value:
            return
        if useful.value > self.max_share * given.value:
            return
        finding = Finding.make(
            code=self.code,
            components=(component,),
            severity=1 - useful.value / given.value,
            evidence=(useful, given),
            message=f"Of {number(given.value)} forecast steps the first {number(useful.value)} are "
            f"surely better than repeating the last value; those behind are not.",
        )
        yield with_checks(finding, self._beyond(analysis, int(useful.value)))

    def _beyond(self, analysis: Analysis, useful: int) -> Check:
        """Whether the steps behind the useful horizon gain anything on held-out samples."""
        subject = replace(analysis.subject, calibration=analysis.subject.held_out)
        series = series_input(subject)
        found = step_errors(subject, series, self.samples) if series is not None else None
        if found is None or len(found[0]) < self.fewest:
            return inconclusive("held-out", f"It takes {self.fewest} held-out samples to tell.")
        model, naive = (errors[:, useful:].mean(1) for errors in found)
        gain = naive - model
        n = len(gain)
        low = float(gain.mean() - 1.645 * gain.std() / n**0.5)
        agrees = low <= 0
        skill = 1 - float(model.sum() / naive.sum().clamp_min(1e-30))
        return Check(
            name="held-out",
            outcome="agrees" if agrees else "disagrees",
            evidence=(
                Measurement(name="skill", value=skill, unit="share of the naive error", n=n,
                            note=f"steps behind {useful}, held-out samples"),
            ),
            message=f"On {n} held-out samples the later steps together "
            + ("are not surely better either." if agrees else "are better all the same."),
        )  # fmt: skip
