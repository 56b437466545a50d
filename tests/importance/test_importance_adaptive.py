"""The adaptive ranking: exact in the end, cheap before, and honest about what it left open."""

import numpy as np
import pytest
import torch
from oracles.racing import effects_by_whole_runs, expected_agreement
from oracles.ranking import kendall_tau_b
from prepared import family, seeded, subject_of
from zoo import HEADS, WIDTH, Transformer

from zsei.importance.adaptive import (
    ExactRanking,
    estimates,
    exact_ranking,
    expected_kendall,
    half_width,
)
from zsei.importance.candidates import Units, units_at
from zsei.importance.screen import plan, predicted_effects, restart_costs
from zsei.subject.objective import Objective
from zsei.subject.types import Subject
from zsei.trace.ablation import Target
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect_means

Means = dict[tuple[str, str], torch.Tensor]


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(5)
    model = Transformer(24, 24, 24).eval()
    size = WIDTH // HEADS
    # Heads of a random model matter alike; these write 0.3 to 2 times what they did.
    factors = torch.linspace(0.3, 2, 12)[torch.randperm(12)].repeat_interleave(size)
    with torch.no_grad():
        for block, scale in zip(model.blocks, factors.view(3, WIDTH), strict=True):
            block.attention.output.weight *= scale
    objective = Objective(name="fidelity", output="values", reason="")
    return subject_of(model, [seeded(64, 6, WIDTH)], objective, batch_size=16)


@pytest.fixture(scope="module")
def heads(subject: Subject) -> tuple[Units, Means]:
    units = units_at(site for site in subject.anatomy.sites if site.kind == "head")
    return units, collect_means(engine_for(subject), units.sites, subject.calibration)


@pytest.fixture(scope="module")
def truth(subject: Subject, heads: tuple[Units, Means]) -> dict[str, float]:
    units, means = heads
    targets = [Target(site=unit.site, units=(unit.index,)) for unit in units]
    found = effects_by_whole_runs(subject, engine_for(subject), targets, means)
    return dict(zip([unit.id for unit in units], found, strict=True))


def _agreement(found: ExactRanking, truth: dict[str, float]) -> float:
    places = {unit: -place for place, unit in enumerate(found.order)}
    return kendall_tau_b([places[unit] for unit in truth], list(truth.values()))


def test_without_a_budget_it_ends_at_the_exact_effects(
    subject: Subject, heads: tuple[Units, Means], truth: dict[str, float]
) -> None:
    units, means = heads
    found = exact_ranking(subject, engine_for(subject), units, means, reach=1.0)
    assert sorted(found.order) == sorted(truth)
    assert list(found.effects) == sorted(found.effects, reverse=True)
    everywhere = [s == 64 for s in found.exact_samples]
    assert any(everywhere)
    for unit, effect, error, whole in zip(
        found.order, found.effects, found.errors, everywhere, strict=True
    ):
        if whole:
            assert effect == pytest.approx(truth[unit], rel=3 * error)
    assert _agreement(found, truth) > 0.9


def test_it_costs_what_it_says_and_stays_within_its_budget(
    subject: Subject, heads: tuple[Units, Means], truth: dict[str, float]
) -> None:
    units, means = heads
    agreements = []
    for budget in (4.0, 12.0, 30.0):
        found = exact_ranking(subject, engine_for(subject), units, means, budget=budget, reach=1.0)
        assert found.forwards <= budget
        assert found.screened in (16, 32, 48, 64)
        agreements.append(_agreement(found, truth))
    assert agreements[-1] > 0.75
    assert agreements[-1] >= agreements[0] - 0.05


def test_pairs_far_apart_are_settled_and_equal_ones_are_not(
    subject: Subject, heads: tuple[Units, Means]
) -> None:
    """A unit listed twice has a twin that no data can tell from it."""
    units, means = heads
    strongest = exact_ranking(subject, engine_for(subject), units, means).order
    ids = [unit.id for unit in units]
    three = units.take([ids.index(strongest[i]) for i in (0, 0, -1)])
    found = exact_ranking(subject, engine_for(subject), three, means, reach=1.0)
    assert found.undecided == ((strongest[0], strongest[0]),)
    assert found.exact_samples[:2] == (64, 64)
    assert found.exact_samples[2] <= found.exact_samples[0]


def test_it_stops_where_probes_are_enough(subject: Subject, heads: tuple[Units, Means]) -> None:
    units, means = heads
    found = exact_ranking(subject, engine_for(subject), units, means, reach=0.05)
    assert set(found.exact_samples) == {0}
    assert found.expected_kendall >= 0.05


def test_it_repeats_byte_for_byte(subject: Subject, heads: tuple[Units, Means]) -> None:
    units, means = heads
    first, second = (
        exact_ranking(subject, engine_for(subject), units, means, budget=15.0) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "mlp"])
def test_any_kind_of_unit_in_any_family(name: str) -> None:
    subject = family(name)
    engine = engine_for(subject)
    units = units_at(subject.anatomy.sites)
    units = units.take(np.linspace(0, len(units) - 1, 12).round().astype(int))
    means = collect_means(engine, units.sites, subject.calibration)
    found = exact_ranking(subject, engine, units, means, budget=20.0)
    assert len(found.order) == 12
    assert all(np.isfinite(found.effects))
    assert found.forwards <= 20.0


def test_predictions_are_those_of_the_pass(subject: Subject, heads: tuple[Units, Means]) -> None:
    from zsei.trace.evidence import collect
    from zsei.trace.taps import Taps

    units, means = heads
    taps = Taps(values={s.node: -1 for s in units.sites}, writers={}, sites=units.sites)
    batch = subject.calibration[0]
    kept = collect(
        engine_for(subject), taps, subject.objective, [batch], probes=3, seed=4, rows=16,
        means=means,
    )  # fmt: skip
    found = predicted_effects(
        engine_for(subject), subject.objective, batch, units, means, draws=3, zero=False,
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    squares = torch.cat([kept.sites[s.component, "head"].sensitivity.mean() for s in units.sites])
    assert torch.allclose(found.square().mean(1), squares, rtol=1e-4)


def test_a_later_site_costs_less(subject: Subject, heads: tuple[Units, Means]) -> None:
    units, _ = heads
    costs = restart_costs(subject.program, units)
    assert costs == sorted(costs, reverse=True)
    assert 0 < costs[-1] < costs[0] < 1
    assert restart_costs(None, units) == [1.0] * len(units)


def test_a_plan_spends_more_where_there_is_more() -> None:
    plans = [plan(b, 4, 32, 40.0, spread=0.5, bias=0.01) for b in (3.0, 13.0, 60.0)]
    assert plans[0] == (1, 1)
    assert plans[1] == (4, 2)
    for (batches, draws), budget in zip(plans, (3.0, 13.0, 60.0), strict=True):
        assert batches * (1 + 1.1 * draws) <= budget


def test_estimates_go_from_the_calibrated_prediction_to_the_exact_mean() -> None:
    generator = np.random.default_rng(3)
    effects = np.exp(generator.normal(size=30))
    predicted = 2 * effects[:, None] * generator.exponential(size=(30, 200))
    exact = [[effects[i] * generator.exponential(size=1000)] for i in range(15)] + [[]] * 15
    level, variance = estimates(predicted, exact)
    for i in range(15):
        assert level[i] == pytest.approx(np.log(exact[i][0].mean()), abs=0.05)
    # Half of the predictions is learnt from those that were ablated.
    assert np.allclose(level[15:], np.log(predicted[15:].mean(1) / 2), atol=0.06)
    assert variance[:15].max() < variance[15:].min()


def test_expected_agreement_is_that_of_the_definition() -> None:
    generator = np.random.default_rng(1)
    level, variance = generator.normal(size=9), generator.random(9) + 0.1
    found = expected_kendall(level, variance)
    assert found == pytest.approx(expected_agreement(level.tolist(), variance.tolist()))
    assert expected_kendall(np.array([5.0, 1.0]), np.array([1e-9, 1e-9])) == pytest.approx(1)


def test_a_confidence_sequence_holds_at_every_look() -> None:
    """Looked at again and again, a true mean of 0 is left out in fewer than alpha of the runs."""
    generator, missed = np.random.default_rng(0), 0
    for _ in range(200):
        values = generator.normal(size=150)
        missed += any(
            abs(values[:n].mean()) > half_width(values[:n], 0.1) for n in range(8, 151, 3)
        )
    assert missed / 200 < 0.1
    assert half_width(np.ones(20) + generator.normal(size=20), 0.1) > 1.645 / 20**0.5
