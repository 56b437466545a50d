"""How the analyses went, counted from their reports: what health and metrics say.

A number that nothing was measured for is None, never 0.
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from zsei.checkpoint.contracts import AnalysisReport, StructuralPruningDecision

BUCKETS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper ends of the classes of durations, in seconds."""
WINDOW = 500
"""Reports that the percentile, the peak and the rate look back on."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The counts at one moment."""

    answered: int
    """Requests that have a decision, over all runs and restarts."""
    completion_rate: float | None
    """Share of the last requests that ended with a result: an analysis or one of its fallbacks."""
    full_rate: float | None
    """Share of them whose analysis was whole."""
    ranking_accuracy: float | None
    """Kendall's tau of the last report that measured it."""
    peak_memory_bytes: int | None
    """Largest among the last reports."""
    duration_p95: float | None
    """Seconds; nearest rank among the last reports."""
    durations: tuple[int, ...]
    """All analyses by class (`BUCKETS`, and one above them)."""
    seconds: float
    """Of all analyses together."""
    outcomes: dict[str, int]
    """"approved", "rejected" or "observed" -> decisions."""
    depths: dict[str, int]
    """How far an analysis came -> decisions."""
    retries: int
    last: tuple[str, int] | None
    """Run and epoch that were answered last."""


@dataclass(eq=False, kw_only=True)
class Tally:
    """Counts as they come. Safe to use from several threads."""

    _recent: deque[tuple[bool, bool, float | None, int | None]] = field(
        default_factory=lambda: deque(maxlen=WINDOW), init=False
    )
    """Of each request: whether there was a result, a whole one; its seconds and bytes."""
    _durations: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1), init=False)
    _seconds: float = field(default=0.0, init=False)
    _outcomes: Counter[str] = field(default_factory=Counter, init=False)
    _depths: Counter[str] = field(default_factory=Counter, init=False)
    _accuracy: float | None = field(default=None, init=False)
    _retries: int = field(default=0, init=False)
    _last: tuple[str, int] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def count(self, decision: StructuralPruningDecision, report: AnalysisReport | None) -> None:
        """Count an answer, and how its analysis went (None: there was no analysis)."""
        with self._lock:
            self._last = decision.run, decision.epoch
            self._outcomes[outcome_of(decision)] += 1
            self._depths[decision.depth] += 1
            if report is None:
                self._recent.append((False, False, None, None))
                return
            self._recent.append(
                (
                    report.depth != "none",
                    report.depth == "full",
                    report.seconds,
                    report.peak_memory_bytes or None,
                )
            )
            self._durations[sum(report.seconds > end for end in BUCKETS)] += 1
            self._seconds += report.seconds
            self._retries += report.retries
            accuracy = report.ranking_accuracy
            if accuracy is not None and accuracy.value is not None:
                self._accuracy = accuracy.value

    def figures(self) -> Figures:
        """The counts now."""
        with self._lock:
            recent = list(self._recent)
            done, whole = [r[0] for r in recent], [r[1] for r in recent]
            return Figures(
                answered=self._outcomes.total(),
                completion_rate=_share(done),
                full_rate=_share(whole),
                ranking_accuracy=self._accuracy,
                peak_memory_bytes=max((r[3] for r in recent if r[3] is not None), default=None),
                duration_p95=nearest_rank([r[2] for r in recent if r[2] is not None], 0.95),
                durations=tuple(self._durations),
                seconds=self._seconds,
                outcomes=dict(self._outcomes),
                depths=dict(self._depths),
                retries=self._retries,
                last=self._last,
            )


def outcome_of(decision: StructuralPruningDecision) -> str:
    """What became of a checkpoint, in one word."""
    if decision.approved_for_application:
        return "approved"
    return "observed" if decision.mode == "observe" else "rejected"


def nearest_rank(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all values do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
