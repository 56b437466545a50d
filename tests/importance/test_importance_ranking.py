"""The ranking: exact where few, validated where many, and honest where neither."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import FAMILIES
from oracles.ranking import spearman_rho
from prepared import SMALL, analysed, family, seeded, subject_of, traced
from zoo import WIDTH, Transformer

from zsei.importance import ranking
from zsei.importance.candidates import PARTS, RANKED, unit_id, units_of_kind
from zsei.importance.criteria import CRITERIA
from zsei.importance.ranking import TRUTH_SAMPLES, Importance, rank
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.types import Subject
from zsei.trace.ablation import Target, ablate
from zsei.trace.engine import engine_for
from zsei.trace.summary import Trace

SETTINGS = SMALL.model_copy(update={"ablation_sample": 24})
"""As many ablations as by default: fewer cannot tell criteria apart."""


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(5)
    model = Transformer(24, 24, 24).eval()
    objective = Objective(name="fidelity", output="values", reason="")
    return subject_of(model, [seeded(24, 6, WIDTH)], objective, batch_size=8)


@pytest.fixture(scope="module")
def measured(subject: Subject) -> tuple[Trace, Importance]:
    analysis = analysed(subject, SETTINGS)
    return analysis.trace, analysis.importance


def _exact(subject: Subject, trace: Trace, kind: str) -> dict[str, float]:
    """Every unit of a kind ablated, one call each."""
    engine = engine_for(subject)
    found = {}
    for unit in units_of_kind(trace, kind):
        [effect] = ablate(
            engine, subject.objective, subject.calibration,
            [Target(site=unit.site, units=(unit.index,))], means=trace.means,
        )  # fmt: skip
        found[unit.id] = float(effect.divergence.mean())
    return found


def test_a_few_units_are_ranked_by_exact_ablation(
    subject: Subject, measured: tuple[Trace, Importance]
) -> None:
    trace, importance = measured
    expected = _exact(subject, trace, "layer")
    [found] = [r for r in importance.rankings if r.kind == "layer"]
    assert found.criterion == "exact ablation"
    assert found.components == tuple(sorted(expected, key=lambda u: -expected[u]))
    assert found.scores == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-5)
    for layer, effect in expected.items():
        [measurement] = importance.measurements[layer]
        assert measurement.name == "ablation_effect"
        assert measurement.value == pytest.approx(effect, rel=1e-5)
        assert measurement.n == 24
        assert measurement.note == "identity ablation"


def test_many_units_are_ranked_by_a_criterion_that_ablation_validated(
    subject: Subject, measured: tuple[Trace, Importance]
) -> None:
    trace, importance = measured
    [found] = [r for r in importance.rankings if r.kind == "neuron"]
    assert found.criterion in CRITERIA
    assert len(found.components) == 72
    exact = _exact(subject, trace, "neuron")
    scored = dict(zip(found.components, found.scores, strict=True))
    names = list(exact)
    agreement = spearman_rho([exact[n] for n in names], [scored[n] for n in names])
    assert agreement > 0.8
    [check] = [
        c for c in importance.checks if c.kind == "neuron" and c.criterion == found.criterion
    ]
    assert check.status == "validated"
    assert check.n == SETTINGS.ablation_sample


def test_the_sample_of_parts_holds_the_most_sensitive_ones(
    subject: Subject, measured: tuple[Trace, Importance]
) -> None:
    trace, _ = measured
    few = SMALL.model_copy(update={"ablation_sample": 3})
    found = rank(subject, engine_for(subject), trace, few)
    heads = units_of_kind(trace, "head")
    scores = CRITERIA["output sensitivity"](trace, heads)
    assert scores is not None
    strongest = {heads[i].id for i in np.argsort(-scores)[:10]}
    assert strongest <= set(found.effects)
    [check] = [c for c in found.checks if (c.kind, c.criterion) == ("head", "output sensitivity")]
    assert 10 <= check.n <= 13
    assert {c.n for c in found.checks if c.kind == "neuron"} == {3}


def test_estimates_are_exact_where_they_were_measured(
    subject: Subject, measured: tuple[Trace, Importance]
) -> None:
    trace, importance = measured
    for (component, kind), scores in importance.scores.items():
        site = trace.units[component, kind].site
        assert len(scores) == site.units
        for index, score in enumerate(scores):
            known = importance.effects.get(unit_id(site, index))
            if known is not None and kind in ("head", "layer", "branch"):
                assert score == float(known.divergence.mean())
            else:
                assert score == float(trace.units[component, kind].sensitivity[index])


def test_baselines_stand_beside_the_criteria(measured: tuple[Trace, Importance]) -> None:
    _, importance = measured
    for kind in {found.kind for found in importance.rankings}:
        named = {check.criterion for check in importance.checks if check.kind == kind}
        assert "random (baseline)" in named
        assert "half of the samples (noise of the truth)" in named
        assert "taylor" not in named  # no labels: it would be zero everywhere
    parts = {check.criterion for check in importance.checks if check.kind == "component"}
    assert "norm (baseline)" in parts
    assert {check.criterion for check in importance.checks if check.kind == "neuron"} >= {
        "magnitude", "activation frequency", "diversity",
    }  # fmt: skip
    for check in importance.checks:
        for condition in ("relative L2", "mean ablation", "float32", "seed 0", "24 samples"):
            assert condition in check.note
    for found in importance.rankings:
        assert found.note == "relative L2, mean ablation, float32, seed 0, 24 samples"


def test_an_unvalidated_score_gives_way_to_exact_ablation(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(subject)
    trace = ranking_trace(subject)

    def backwards(trace: Trace, units: object) -> np.ndarray:
        del trace
        return np.random.default_rng(0).random(len(list(units)))

    monkeypatch.setattr(ranking, "CRITERIA", {"output sensitivity": backwards})
    found = rank(subject, engine, trace, SMALL)
    [neurons] = [r for r in found.rankings if r.kind == "neuron"]
    assert neurons.criterion == "exact ablation"
    assert len(neurons.components) == 72
    assert any(note.startswith("neuron: no cheap score is validated") for note in found.notes)
    monkeypatch.setattr(ranking, "EXACT_ALL", 5)
    few = rank(subject, engine, trace, SMALL)
    [neurons] = [r for r in few.rankings if r.kind == "neuron"]
    assert neurons.criterion == "exact ablation (sample only)"
    assert SMALL.ablation_sample <= len(neurons.components) <= SMALL.ablation_sample + 10


def ranking_trace(subject: Subject) -> Trace:
    from zsei.trace.run import trace

    return trace(subject, SMALL)


def test_ablation_uses_a_bounded_part_of_the_data() -> None:
    model = Transformer(8).eval()
    objective = Objective(name="fidelity", output="values", reason="")
    many = subject_of(model, [seeded(72, 3, WIDTH)], objective, batch_size=12)
    found = analysed(many, SMALL).importance
    assert sum(batch.size for batch in found.batches) == 36 >= TRUTH_SAMPLES
    assert all(len(effect.divergence) == 36 for effect in found.effects.values())
    fewer = analysed(many, SMALL.model_copy(update={"truth_samples": 5})).importance
    assert sum(batch.size for batch in fewer.batches) == 12
    assert all(len(effect.divergence) == 12 for effect in fewer.effects.values())


def test_another_replacement_gives_other_effects(subject: Subject) -> None:
    trace = ranking_trace(subject)
    found = {
        how: rank(subject, engine_for(subject), trace, Settings(replacement=how, ablation_sample=4))
        for how in ("mean", "zero", "resample")
    }
    effects = {
        how: float(i.effects["blocks.0/attention"].divergence.mean()) for how, i in found.items()
    }
    assert len(set(effects.values())) == 3
    for how, importance in found.items():
        [row] = importance.measurements["blocks.0/attention"]
        assert row.note == f"{how} ablation"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_unit_is_ranked_and_repeatable(name: str) -> None:
    subject, trace = family(name), traced(name)
    settings = SMALL.model_copy(update={"ablation_sample": 2})
    first, second = (rank(subject, engine_for(subject), trace, settings) for _ in range(2))
    kinds = [kind for kind in RANKED if units_of_kind(trace, kind)]
    parts = ["component"] if set(kinds) & set(PARTS) else []
    assert [r.kind for r in first.rankings] == [*kinds, *parts]
    assert kinds
    assert replace(first, effects={}, batches=()) == replace(second, effects={}, batches=())
    for found in first.rankings:
        assert list(found.scores) == sorted(found.scores, reverse=True)
        assert all(score >= 0 for score in found.scores)
