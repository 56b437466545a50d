"""What measuring one claim found, and the verdict that its numbers give."""

from dataclasses import dataclass, replace
from typing import Any

from zsei.claims.claim import SMALLER, Claim
from zsei.claims.record import ClaimVerdict
from zsei.records import Failure, Measurement
from zsei.speedups.speedup import Step
from zsei.timing.decision import Decided
from zsei.timing.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Found:
    """One claim, measured; `Outcome` adds machine, command and seconds."""

    verdict: ClaimVerdict
    reason: str
    value: float | None = None
    interval: Interval | None = None
    more_than_claimed: bool = False
    steps: tuple[Step, ...] = ()
    left_out: tuple[Failure, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def with_(self, **changes: Any) -> "Found":
        """The same with some fields changed."""
        return replace(self, **changes)


def not_measurable(why: str) -> Found:
    """It cannot be measured on this machine, and why."""
    return Found(verdict="not measurable here", reason=why)


def by_clock(claim: Claim, decided: Decided) -> Found:
    """The verdict of a measured interval.

    Its own limits decide (`Claim.limits`); the other end of a range says whether it is more than
    was claimed.
    """
    interval, unit = decided.interval, claim.measured_in
    held = decided.decision == "held"
    verdict: ClaimVerdict = decided.decision
    percent = f"{100 * interval.confidence:.3g} %"
    reason = (
        f"{number(interval.median)} {unit} ({percent}: {number(interval.low)} to "
        f"{number(interval.high)}, {interval.n} rounds)"
    )
    if verdict == "not decided":
        reason += f"; {decided.reason}"
    return Found(
        verdict=verdict, reason=reason, value=interval.median, interval=interval,
        more_than_claimed=held and beyond(claim, interval.low, interval.high),
    )  # fmt: skip


def by_number(claim: Claim, value: float) -> Found:
    """The verdict of a number that no clock moves: counted memory, differences of outputs."""
    least, most = claim.limits
    held = (least is None or value >= least) and (most is None or value <= most)
    return Found(
        verdict="held" if held else "not held",
        reason=f"{number(value)} {claim.measured_in}".removesuffix(" 1").removesuffix(" share"),
        value=value,
        more_than_claimed=held and beyond(claim, value, value),
    )


def beyond(claim: Claim, low: float, high: float) -> bool:
    """Whether all of what was measured lies beyond the far end of the range that was claimed."""
    if claim.at_least is None or claim.at_most is None:
        return False
    return high < claim.at_least if claim.kind in SMALLER else low > claim.at_most


def number(value: float) -> str:
    """Four digits, without noise: `3.142`, `71,000`, `2.1e-07`."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
