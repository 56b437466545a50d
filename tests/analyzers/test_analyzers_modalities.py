"""Bottlenecks of texts, images and forecasts: what is said, and how held-out data judges it."""

from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
import zoo
from prepared import seeded
from trained import TRAINED

from zsei.analyzers import (
    ContextBottleneck,
    HorizonBottleneck,
    ResolutionBottleneck,
    VocabularyBottleneck,
)
from zsei.analyzers.context import Analysis, Analyzer
from zsei.measures import ContextLength, Horizon, LookBack, Resolution, Vocabulary
from zsei.records import Finding
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.trace.run import trace

SETTINGS = Settings(samples=32, batch_size=16, probes=1)
MEASURES = (ContextLength(), Vocabulary(), Resolution(), LookBack(), Horizon())


def looked_at(model: torch.nn.Module, data: Any, objective: str = "auto") -> Analysis:
    """As much of an analysis as these analyzers read."""
    subject = prepare(model, data, objective, SETTINGS)
    missing = cast(Any, None)
    return Analysis(
        subject=subject, engine=missing, trace=trace(subject, SETTINGS, measures=MEASURES),
        flow=missing, importance=missing, settings=SETTINGS,
    )  # fmt: skip


@cache
def planted(name: str) -> Analysis:
    made = getattr(zoo, name)(True)
    return looked_at(made.model, made.data, "fidelity")


def only(analyzer: Analyzer, analysis: Analysis) -> Finding:
    [finding] = list(analyzer.find(analysis))
    return finding


def evidence(finding: Finding) -> dict[str, float | None]:
    return {m.name: m.value for m in finding.evidence}


@pytest.mark.parametrize(
    ("name", "analyzer", "evident"),
    [
        ("short_sighted", ContextBottleneck(), {"effective_context": 4, "context_given": 32}),
        ("crowded_head", VocabularyBottleneck(), {"head_width": 32, "vocabulary": 96}),
        ("early_pool", ResolutionBottleneck(), {"places": 256}),
        ("forgetful_forecaster", HorizonBottleneck(), {"effective_look_back": 8}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_held_out_data_agrees_with_what_was_planted(
    name: str, analyzer: Analyzer, evident: dict[str, float]
) -> None:
    finding = only(analyzer, planted(name))
    assert evident.items() <= evidence(finding).items()
    assert [check.outcome for check in finding.checks] == ["agrees"]
    assert 0 < finding.severity <= 1


def test_an_early_pool_keeps_a_sixteenth_of_the_room() -> None:
    kept = evidence(only(ResolutionBottleneck(), planted("early_pool")))["capacity_kept"]
    assert kept == pytest.approx(1 / 16, rel=0.05)


def test_other_held_out_texts_disagree() -> None:
    """Calibrated on a decoder that sees four tokens, judged on one that sees all."""
    short = planted("short_sighted")
    far = zoo.short_sighted(False)
    other = prepare(far.model, far.data, "fidelity", SETTINGS)
    swapped = replace(short, subject=other)
    finding = only(ContextBottleneck(), swapped)
    assert [check.outcome for check in finding.checks] == ["disagrees"]
    assert "more than was found" in finding.checks[0].message


def test_a_forecaster_of_noise_knows_no_horizon() -> None:
    model = zoo.forgetful_forecaster(False).model
    past = seeded(48, 32, 2, seed=5)
    # What comes is the last value and noise: nothing can be known beyond it.
    future = past[:, -1:] + 0.1 * seeded(48, 8, 2, seed=6)
    finding = only(HorizonBottleneck(), looked_at(model, {"series": past, "y": future}))
    assert evidence(finding) == {"useful_horizon": 0, "horizon_given": 8}
    assert [check.outcome for check in finding.checks] == ["agrees"]


def test_a_trained_forecaster_is_not_accused() -> None:
    model, data = TRAINED["patchtst"]()
    assert list(HorizonBottleneck().find(looked_at(model, data))) == []


def test_a_trained_classifier_of_digits_is_not_accused() -> None:
    model, data = TRAINED["cnn"]()
    assert list(ResolutionBottleneck().find(looked_at(model, data))) == []
