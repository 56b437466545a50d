"""Metrics for Prometheus: the counts of this service, in a registry of its own.

What was not measured has no sample: a rate of nothing is not 0.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from zsei.gate.breaker import Breaker
from zsei.service.health import Objective
from zsei.service.tally import BUCKETS, Figures


class Counts:
    """Reads everything anew each time somebody asks (a collector of prometheus_client)."""

    def __init__(
        self,
        figures: Callable[[], Figures],
        waiting: Callable[[], int],
        breaker: Callable[[], Breaker],
        objectives: Callable[[], Iterable[Objective]],
    ) -> None:
        """Take where the numbers come from."""
        self._figures, self._waiting = figures, waiting
        self._breaker, self._objectives = breaker, objectives

    def collect(self) -> Iterable[Metric]:
        """All metrics now."""
        figures = self._figures()
        yield from _of_the_design(figures)
        yield _histogram(figures)
        yield _counter("zsei_decisions", "Decisions, by outcome.", "outcome", figures.outcomes)
        # "full" is no fallback.
        fallbacks = {name: n for name, n in figures.depths.items() if name != "full"}
        yield _counter("zsei_fallbacks", "Analyses that something stood in for.", "kind", fallbacks)
        retried = CounterMetricFamily("zsei_retries", "Tasks that were tried again.")
        retried.add_metric([], figures.retries)
        yield retried
        yield _gauge("zsei_requests_waiting", "Requests without a decision.", self._waiting())
        breaker = self._breaker()
        yield _gauge("zsei_breaker_open", "1: the circuit breaker is open.", float(breaker.open))
        yield _gauge("zsei_breaker_failures", "Failures in a row.", breaker.failures)
        held = GaugeMetricFamily(
            "zsei_objective_held", "1: the figure is held; absent: not measured.", labels=["name"]
        )
        for objective in self._objectives():
            if objective.held is not None:
                held.add_metric([objective.name], float(objective.held))
        yield held


def registry_of(counts: Counts) -> CollectorRegistry:
    """A registry that holds these metrics and nothing of the process's own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(counts)
    return registry


def _of_the_design(figures: Figures) -> Iterable[Metric]:
    yield _gauge(
        "structured_analysis_completion_rate",
        "Share of the last 500 requests that ended with an analysis or one of its fallbacks.",
        figures.completion_rate,
    )
    yield _gauge(
        "structured_analysis_full_rate",
        "Share of the last 500 requests whose analysis was whole.",
        figures.full_rate,
    )
    yield _gauge(
        "multi_level_accuracy",
        "Kendall's tau of the cheap ranking against exact ablation on a sample, as last measured.",
        figures.ranking_accuracy,
    )
    yield _gauge(
        "peak_memory_usage",
        "Largest resident memory of a worker in the last 500 analyses, in bytes.",
        figures.peak_memory_bytes,
    )
    yield _gauge(
        "analysis_duration_p95",
        "Seconds that 95 of 100 among the last 500 analyses did not exceed.",
        figures.duration_p95,
    )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    metric = GaugeMetricFamily(name, text)
    if value is not None:
        metric.add_metric([], value)
    return metric


def _counter(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        metric.add_metric([value], count)
    return metric


def _histogram(figures: Figures) -> Metric:
    metric = HistogramMetricFamily("analysis_duration_seconds", "Seconds of all analyses.")
    total, buckets = 0, []
    for end, count in zip((*map(str, BUCKETS), "+Inf"), figures.durations, strict=True):
        total += count
        buckets.append((end, total))
    metric.add_metric([], buckets, sum_value=figures.seconds)
    return metric
