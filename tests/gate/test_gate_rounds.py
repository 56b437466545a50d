"""Proposals in a training run: each inside its phase's cap, and all of them together."""

from typing import Any

import pytest
from gate_subjects import (
    FIDELITY,
    LIVE_NEURONS,
    batches,
    settings_of,
    subject_of,
    train_classifier,
)

from zsei.gate.baseline import Baseline, measure_baseline
from zsei.gate.phases import Phase, TrainingRun
from zsei.gate.rounds import Outcome, try_all
from zsei.records import Proposal
from zsei.strategies.candidates import explicit
from zsei.subject.types import Subject

SETTINGS = settings_of(bootstrap=200)


@pytest.fixture(scope="module")
def case() -> tuple[Subject, Baseline]:
    subject = subject_of(
        train_classifier(), FIDELITY, batches(16, seed=3), batches(48, seed=4, groups=("all",))
    )
    return subject, measure_baseline(subject, SETTINGS)


def tried(case: tuple[Subject, Baseline], run: TrainingRun | None, **options: Any) -> Outcome:
    """Ten dead neurons of each of two layers: 3.3 % of the parameters each."""
    subject, baseline = case
    units = list(range(LIVE_NEURONS, LIVE_NEURONS + 10))
    proposals = [
        explicit(
            subject, {},
            Proposal.make(
                strategy="prune-neurons", components=(f"layers.{layer}/mlp",),
                params={"units": [units]},
            ),
        )
        for layer in (0, 2)
    ]  # fmt: skip
    return try_all(
        subject, baseline, proposals, {}, {}, options.pop("settings", SETTINGS),
        latency_pairs=0, out_of_time=lambda: False, progress=lambda _: None, run=run,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "combined"), [("conservative", "rejected"), ("moderate", "accepted")]
)
def test_what_fits_alone_must_fit_together(
    case: tuple[Subject, Baseline], phase: Phase, combined: str
) -> None:
    run = TrainingRun(phase=phase, parameters=case[1].cost.parameters)
    found = tried(case, run)
    assert [t.verdict.outcome for t in found.trials.values()] == ["accepted", "accepted"]
    assert found.combined is not None
    assert found.combined.verdict.outcome == combined, found.combined.verdict.reason
    if combined == "rejected":
        assert "at most 5% of the original parameters may be gone" in found.combined.verdict.reason


def test_a_limit_in_time_is_asked_of_each_and_of_all(case: tuple[Subject, Baseline]) -> None:
    found = tried(case, None, settings=settings_of(bootstrap=200, latency_limit=1e6))
    assert set(found.trials) <= set(found.latency)
    assert found.combined is not None
    assert found.combined.latency is not None
    for verdict in (*(t.verdict for t in found.trials.values()), found.combined.verdict):
        assert verdict.outcome == "accepted"
        assert verdict.stages[-1].stage == "latency"
