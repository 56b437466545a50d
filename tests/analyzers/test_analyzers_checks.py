"""What the analysis tests of itself, each test with data that must agree and data that must not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from factories import FAMILIES
from oracles.paths import percentile_interval
from prepared import SMALL, analysed, family, measured_only, seeded, subject_of
from torch import Tensor, nn
from zoo import WIDTH, Branches, Transformer, idle_head

from zsei.analyzers import Analysis, run_analyzers
from zsei.analyzers.check_claims import claim_checks, fresh_samples
from zsei.analyzers.check_halves import _outcome as outcome_of
from zsei.analyzers.check_halves import finding_checks, flow_check, ranking_checks
from zsei.analyzers.check_instrumentation import instrumentation_checks, overhead_remark
from zsei.analyzers.check_strategies import strategy_checks
from zsei.analyzers.checks import (
    FEWEST,
    ablation_check,
    halves_check,
    halves_of,
    interval,
    judged,
    sample_halves_check,
    sampled_check,
    samples_needed,
    target_of,
    targets_of,
    with_checks,
)
from zsei.analyzers.dead_units import DeadUnits
from zsei.analyzers.halves import half_analyses, too_few
from zsei.analyzers.low_effect import LowEffect
from zsei.analyzers.validate import validate
from zsei.records import Check, Finding, Measurement, Proposal, Verdict
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.types import Batch, Watch
from zsei.trace.ablation import Target, ablate_together
from zsei.trace.engine import Engine
from zsei.trace.interpreter import ProgramEngine

VALUES = Objective(name="fidelity", output="values", reason="")
ENOUGH = Settings(samples=32, batch_size=8, ablation_sample=24, probes=2, random_paths=30)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    torch.manual_seed(7)
    return analysed(subject_of(Transformer(32, 32).eval(), [seeded(32, 6, WIDTH)], VALUES), ENOUGH)


def finding(*components: str, code: str = "planted", severity: float = 0.8) -> Finding:
    return Finding.make(
        code=code,
        components=components,
        severity=severity,
        evidence=(Measurement(name="units", value=1, unit="count"),),
        message="It is so.",
    )


# Intervals and outcomes


def test_the_interval_is_the_percentile_bootstrap() -> None:
    values = seeded(40).square()
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)
    low, high = interval(values, seed=3, resamples=4000)
    expected = percentile_interval(values.tolist(), 0.95)
    assert (low, high) == pytest.approx(expected, rel=0.05)
    assert interval(torch.full((9,), 2.0), seed=0) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("bounds", "limits", "outcome"),
    [
        ((1, 2), {"at_least": 0.5}, "agrees"),
        ((1, 2), {"at_least": 1.5}, "inconclusive"),
        ((1, 2), {"at_least": 2.5}, "disagrees"),
        ((1, 2), {"at_most": 2.5}, "agrees"),
        ((1, 2), {"at_most": 1.5}, "inconclusive"),
        ((1, 2), {"at_most": 0.5}, "disagrees"),
        ((1, 2), {"at_least": 0.5, "at_most": 3}, "agrees"),
        ((1, 2), {"at_least": 0.5, "at_most": 0.7}, "disagrees"),
    ],
)
def test_only_an_interval_wholly_on_one_side_decides(
    bounds: tuple[float, float], limits: dict[str, float], outcome: str
) -> None:
    assert judged(bounds, **limits) == outcome


def test_samples_needed_shrink_the_interval_to_the_limit() -> None:
    values = seeded(32) + 1
    low, high = interval(values, seed=0)
    mean = float(values.double().mean())
    limit = mean + 0.1 * (high - low)
    needed = samples_needed(values, limit, seed=0)
    assert (high - low) / 2 * (32 / needed) ** 0.5 <= limit - mean
    assert (high - low) / 2 * (32 / (needed - 2)) ** 0.5 > limit - mean


# Ablation


def test_components_are_ablated_where_they_live(analysis: Analysis) -> None:
    head = target_of(analysis, "blocks.1/head.2")
    assert head is not None
    assert (head.site.component, head.site.kind, head.units) == ("blocks.1/attention", "head", (2,))
    layer = target_of(analysis, "blocks.1")
    assert layer is not None
    assert layer.site.kind == "layer"
    assert target_of(analysis, "blocks.1/residual") is None
    assert target_of(analysis, "nothing") is None
    heads = ("blocks.1/head.2", "blocks.1/head.0", "blocks.0/head.1")
    merged = [(t.site.component, t.units) for t in targets_of(analysis, heads)]
    assert merged == [("blocks.1/attention", (0, 2)), ("blocks.0/attention", (1,))]
    whole = targets_of(analysis, ("blocks.1/head.2", "blocks.1/attention"))
    assert [t.site.kind for t in whole] == ["branch"]


def test_an_ablation_check_states_the_joint_effect(analysis: Analysis) -> None:
    heads = ("blocks.0/head.1", "blocks.1/head.2")
    check = ablation_check(analysis, heads, at_most=1e9, claim="little is lost")
    assert check.outcome == "agrees"
    moved = ablate_together(
        analysis.engine, VALUES, analysis.importance.batches, targets_of(analysis, heads),
        means=analysis.trace.means,
    )  # fmt: skip
    squared = moved.double().square()
    numbers = {m.name: m.value for m in check.evidence}
    assert numbers["joint_effect"] == pytest.approx(float(squared.mean()))
    assert (numbers["interval_low"], numbers["interval_high"]) == interval(
        squared, seed=ENOUGH.seed
    )
    wrong = ablation_check(analysis, heads, at_least=1e9, claim="all is lost")
    assert wrong.outcome == "disagrees"
    assert "it is not so that all is lost" in wrong.message
    astride = ablation_check(analysis, heads, at_most=float(squared.mean()) * 1.01, claim="x")
    assert astride.outcome == "inconclusive"
    assert "samples would tell" in astride.message


def test_nothing_to_ablate_and_too_few_samples_cannot_tell(analysis: Analysis) -> None:
    check = ablation_check(analysis, ("blocks.0/residual",), at_most=1, claim="x")
    assert (check.outcome, "Nothing of" in check.message) == ("inconclusive", True)
    told = Measurement(name="joint_effect", value=1)
    few = sampled_check(
        "x", told, torch.ones(FEWEST - 1), claim="x", done="Removing it", seed=0, at_most=9
    )
    assert few.outcome == "inconclusive"
    assert f"at least {FEWEST}" in few.message


# Halves


def test_halves_hold_even_and_odd_samples() -> None:
    even, odd = halves_of(torch.tensor([0, 0, 1, 2, 3, 3]))
    assert even.tolist() == [True, True, False, True, False, False]
    assert torch.equal(odd, ~even)


@pytest.mark.parametrize(
    ("holds", "samples", "outcome"),
    [
        ((True, True), 8, "agrees"),
        ((True, False), 8, "disagrees"),
        ((False, False), 8, "disagrees"),
        ((True, True), 7, "inconclusive"),
    ],
)
def test_both_halves_must_say_so(holds: tuple[bool, bool], samples: int, outcome: str) -> None:
    check = halves_check("units", (1.0, 2.0), holds, samples=samples, what="units")
    assert check.outcome == outcome
    assert [m.value for m in check.evidence] == ([] if outcome == "inconclusive" else [1.0, 2.0])
    if outcome == "inconclusive":
        assert "16 samples" in check.message


def test_means_of_even_and_odd_samples_are_compared() -> None:
    values = torch.tensor([1.0, 3.0] * 10)
    check = sample_halves_check("units", values, what="units", at_least=0.5)
    assert [m.value for m in check.evidence] == [1.0, 3.0]
    assert check.outcome == "agrees"
    assert sample_halves_check("units", values, what="units", at_least=2).outcome == "disagrees"
    assert sample_halves_check("units", values[:1], what="units").outcome == "inconclusive"


def test_half_analyses_rest_on_samples_of_their_own(analysis: Analysis) -> None:
    assert too_few(analysis) == ""
    halves = half_analyses(analysis, ())
    batches = analysis.subject.calibration
    for parity, half in enumerate(halves):
        assert half.subject.calibration == batches[parity::2]
        own = torch.cat([torch.full((b.size,), i % 2 == parity) for i, b in enumerate(batches)])
        for unit, effect in analysis.importance.effects.items():
            assert torch.equal(half.importance.effects[unit].divergence, effect.divergence[own])
        scores = half.importance.scores["blocks.0/attention", "head"]
        effects = [half.importance.effects[f"blocks.0/head.{i}"].divergence for i in range(4)]
        assert scores == pytest.approx([float(e.double().mean()) for e in effects])
    first, second, whole = (
        a.trace.measurements["blocks.0/mlp"]["rms"].value or 0.0 for a in (*halves, analysis)
    )
    assert first != second
    assert (first + second) / 2 == pytest.approx(whole, rel=0.02)
    assert too_few(analysed(family("mlp"))).endswith("both say the same.")


@dataclass(frozen=True)
class Sees:
    """Finds what it is told for the analyses it knows, by their number of samples and parity."""

    code: ClassVar[str] = "planted"
    clock: ClassVar[bool] = False
    told: tuple[tuple[str, ...], ...] = ()

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        first = float(analysis.subject.calibration[0].inputs[0].flatten()[0])
        number = 0 if first == FIRST else 1
        yield finding(*self.told[number])


FIRST = float(seeded(32, 6, WIDTH).flatten()[0])


@pytest.mark.parametrize(
    ("told", "outcome", "where"),
    [
        ((("a", "b"), ("a", "b")), "agrees", "on both"),
        ((("a", "b"), ("a", "b", "c")), "agrees", "on both"),
        ((("a", "b"), ("c",)), "disagrees", "on one only"),
        ((("c",), ("c", "a", "d")), "disagrees", "on neither"),
    ],
)
def test_a_finding_is_looked_for_again(
    analysis: Analysis, told: tuple[tuple[str, ...], ...], outcome: str, where: str
) -> None:
    halves = half_analyses(analysis, ())
    whole = finding("a", "b")
    check = finding_checks(halves, [whole], [Sees(told=told)])[whole.id]
    assert (check.outcome, where in check.message) == (outcome, True)
    expected = [len({"a", "b"} & set(t)) / len({"a", "b"} | set(t)) for t in told]
    assert [m.value for m in check.evidence] == pytest.approx(expected)


def test_rankings_that_hold_and_rankings_of_noise(analysis: Analysis) -> None:
    checks = {c.about: c for c in ranking_checks(analysis)}
    heads = checks["ranking of heads"]
    names = [f"blocks.{b}/head.{h}" for b in range(2) for h in range(4)]
    effects = [analysis.importance.effects[n].divergence.double().numpy() for n in names]
    ranks = [np.argsort(np.argsort([e[half::2].mean() for e in effects])) for half in (0, 1)]
    assert heads.evidence[0].value == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1])
    assert checks["ranking of branches"].outcome == "inconclusive"  # too few of them
    assert outcome_of(Measurement(name="x", value=0.7, n=9)) == "agrees"
    assert outcome_of(Measurement(name="x", value=0.6, n=9)) == "inconclusive"
    assert outcome_of(Measurement(name="x", value=0.6, n=900)) == "disagrees"
    noise = np.random.default_rng(0).random((8, 32))
    made = {
        name: replace(analysis.importance.effects[name], divergence=torch.tensor(row))
        for name, row in zip(names, noise, strict=True)
    }
    order = {
        name: replace(analysis.importance.effects[name], divergence=torch.tensor(row / 9 + i))
        for i, (name, row) in enumerate(zip(names, noise, strict=True))
    }
    for known, outcome in ((made, "disagrees"), (order, "agrees")):
        importance = replace(analysis.importance, effects=known)
        [check] = ranking_checks(replace(analysis, importance=importance))
        assert check.outcome == outcome


def test_the_flow_graph_of_two_halves_is_compared_edge_by_edge(analysis: Analysis) -> None:
    halves = half_analyses(analysis, ())
    same = flow_check((halves[0], halves[0]))
    assert same.outcome == "agrees"
    assert [m.value for m in same.evidence] == pytest.approx([1.0, 1.0])
    turned = halves[1].flow.graph.copy()
    for _, _, attributes in turned.edges(data=True):
        attributes["share"] = 1 - attributes["share"]
    flow = replace(halves[1].flow, graph=turned)
    assert flow_check((halves[1], replace(halves[1], flow=flow))).outcome == "disagrees"


# Instrumentation


@pytest.mark.parametrize("name", FAMILIES)
def test_instrumentation_is_harmless_on_every_family(name: str) -> None:
    checks = instrumentation_checks(measured_only(name))
    assert [c.about for c in checks] == ["instrumentation"] * 3
    assert [c.outcome for c in checks[:2]] == ["agrees", "agrees"]
    assert checks[2].outcome == ("inconclusive" if name in ("mlp", "lstm") else "agrees")


def test_harm_is_seen(analysis: Analysis) -> None:
    far = replace(analysis, trace=replace(analysis.trace, output_difference=0.01))
    assert instrumentation_checks(far)[0].outcome == "disagrees"
    other = replace(analysis, subject=replace(analysis.subject, model_hash="0"))
    assert instrumentation_checks(other)[1].outcome == "disagrees"

    assert overhead_remark(None) == ()
    assert "1.5 times" in overhead_remark(1.5)[0]


# Strategies


def tried(number: int, predicted: float, measured: float, saved: int = 10) -> tuple:
    proposal = Proposal.make(
        strategy="prune-heads",
        components=(f"head.{number}",),
        expected=(
            Measurement(name="predicted_loss", value=predicted),
            Measurement(name="parameters_removed", value=10),
        ),
    )
    verdict = Verdict(
        proposal_id=proposal.id,
        outcome="rejected",
        before=(Measurement(name="parameters", value=100),),
        after=(
            Measurement(name="parameters", value=100 - saved),
            Measurement(name="divergence", value=measured),
        ),
        reason="",
    )
    return proposal, verdict


@pytest.mark.parametrize(
    ("pairs", "outcomes"),
    [
        ([(0.1, 0.1), (0.1, 0.2), (0.1, 0.05)], ["agrees", "agrees"]),
        ([(0.1, 0.4), (0.1, 0.5), (0.1, 0.1)], ["disagrees", "agrees"]),
        ([(0.1, 0.01), (0.1, 0.02), (0.1, 0.1)], ["disagrees", "agrees"]),
        ([(0.0, 1e-9), (0.0, 0.0), (1e-8, 0.0)], ["agrees", "agrees"]),
        ([(0.1, 0.1), (0.1, 0.1)], ["inconclusive", "agrees"]),
    ],
)
def test_predictions_are_held_against_the_gate(
    pairs: list[tuple[float, float]], outcomes: list[str]
) -> None:
    proposals, verdicts = zip(*(tried(i, *pair) for i, pair in enumerate(pairs)), strict=True)
    checks = strategy_checks(proposals, verdicts)
    assert [c.outcome for c in checks] == outcomes
    assert {c.about for c in checks} == {"strategy prune-heads"}
    if len(pairs) >= 3 and pairs[0][0] > 1e-6:
        ratio = {m.name: m.value for m in checks[0].evidence}["prediction_ratio"]
        assert ratio == pytest.approx(sorted(m / p for p, m in pairs)[1])


def test_a_promise_of_parameters_that_was_not_kept_is_seen() -> None:
    proposal, verdict = tried(0, 0.1, 0.1, saved=7)
    [_, saving] = strategy_checks([proposal], [verdict])
    assert saving.outcome == "disagrees"
    assert saving.evidence[0].value == pytest.approx(0.3)
    assert strategy_checks([proposal], []) == ()


# Claims and the whole


def test_dead_units_are_confirmed_and_living_ones_are_not() -> None:
    made = idle_head()
    subject = subject_of(made.model, [made.data], VALUES)
    analysis = analysed(subject, ENOUGH)
    [dead] = DeadUnits().find(analysis)
    assert claim_checks(analysis, (dead,))[dead.id].outcome == "agrees"
    alive = Finding.make(
        code="dead-units", components=("blocks.1/head.2",), severity=1, evidence=dead.evidence,
        message="A lie.",
    )  # fmt: skip
    assert claim_checks(analysis, (alive,))[alive.id].outcome == "disagrees"
    neurons = Measurement(name="dead_units", value=2, unit="count", note="neurons 3 7")
    lie = Finding.make(
        code="dead-units", components=("blocks.1/mlp",), severity=1, evidence=(neurons,),
        message="A lie.",
    )  # fmt: skip
    check = claim_checks(analysis, (lie,))[lie.id]
    site = subject.anatomy.site("blocks.1/mlp", "neuron")
    assert site is not None
    moved = ablate_together(
        analysis.engine, VALUES, analysis.importance.batches,
        [Target(site=site, units=(3, 7))], means=analysis.trace.means,
    )  # fmt: skip
    assert check.outcome == "disagrees"
    assert check.evidence[0].value == pytest.approx(float(moved.double().square().mean()))


def test_units_of_little_effect_are_removed_together_again(analysis: Analysis) -> None:
    whole = LowEffect(max_share=0.2)
    for kind in ("head", "neuron"):
        assert whole.sets(analysis, kind)
    found = [f for f in whole.find(analysis)]
    checks = claim_checks(analysis, tuple(found))
    for low in found:
        kind = low.evidence[0].note.removesuffix("s")
        fresh = fresh_samples(analysis)
        assert kind in ("head", "neuron")
        targets = [Target(site=s.site, units=s.units) for s in LowEffect().sets(analysis, kind)]
        if not targets:
            assert checks[low.id].outcome == "inconclusive"
            continue
        moved = ablate_together(
            fresh.engine, VALUES, fresh.importance.batches, targets, means=fresh.trace.means
        )
        first = checks[low.id].evidence[0]
        assert first.value == pytest.approx(float(moved.double().square().mean()))
        assert first.n == sum(b.size for b in fresh.importance.batches)


def test_claims_are_tried_on_samples_that_no_ablation_has_seen(analysis: Analysis) -> None:
    seen = analysis.importance.batches
    known = analysis.subject.calibration
    few = replace(analysis, importance=replace(analysis.importance, batches=known[:2]))
    fresh = fresh_samples(few)
    assert fresh.importance.batches == known[2:4]
    assert fresh.importance.effects == {}
    assert seen == known
    assert fresh_samples(analysis) is analysis


def test_a_disputed_finding_says_so_and_counts_half(analysis: Analysis) -> None:
    against = Check(name="planted-test", outcome="disagrees", message="It is not so.")
    disputed, plain = with_checks(finding("a"), against), finding("b")
    settings = ENOUGH.model_copy(update={"halves": False, "random_paths": 0})
    found = validate(replace(analysis, settings=settings), [disputed, plain], analyzers=())
    first, second = found.findings
    assert first.message == "It is so. This is in doubt. Tested by planted test: It is not so."
    assert first.severity == pytest.approx(0.4)
    assert first.evidence == disputed.evidence
    assert first.checks[0] == against
    assert (second.message, second.severity) == (plain.message, plain.severity)
    assert second.id == plain.id != first.id
    assert all(f.checks[-1].outcome == "inconclusive" for f in (first, second))
    assert "halves is off" in second.checks[-1].message


def test_every_finding_is_tested_and_the_same_twice(analysis: Analysis) -> None:
    from zsei.analyzers import ANALYZERS

    findings, _, _ = run_analyzers(analysis)
    once = validate(analysis, findings, analyzers=ANALYZERS)
    assert once.failures == ()
    assert len(once.findings) == len(findings)
    for before, after in zip(findings, once.findings, strict=True):
        assert after.checks[: len(before.checks)] == before.checks
        assert "half-samples" in {c.name for c in after.checks}
    assert {c.about for c in once.checks} >= {"instrumentation", "flow graph", "ranking of heads"}
    assert once == validate(analysis, findings, analyzers=ANALYZERS)


def test_what_the_budget_leaves_out_is_inconclusive(analysis: Analysis) -> None:
    found = validate(analysis, [finding("a")], analyzers=(), out_of_time=lambda: True)
    [check] = found.findings[0].checks
    assert (check.outcome, "budget" in check.message) == ("inconclusive", True)


def test_a_test_that_breaks_costs_itself_only(analysis: Analysis) -> None:
    broken = replace(analysis, trace=replace(analysis.trace, output_difference=float("nan")))
    layer = finding("blocks.0", code="redundant-layers")
    found = validate(broken, [layer], analyzers=())
    assert found.findings[0].checks
    assert [f.stage for f in found.failures] == ["validate"]


def test_the_module_fallback_is_tested_too() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.last(hidden / 2 if hidden.mean() > 1e6 else hidden)

    from zsei.subject.prepare import prepare

    subject = prepare(Branching().eval(), seeded(48, 6), "fidelity", Settings(batch_size=8))
    analysis = analysed(subject, SMALL)
    findings, _, _ = run_analyzers(analysis)
    found = validate(analysis, findings, analyzers=())
    assert found.failures == ()
    assert [c.outcome for c in found.checks[:2]] == ["agrees", "agrees"]


def test_a_join_that_does_not_add_up_is_seen() -> None:
    """The same graph, but the engine is told that one branch is the stream itself."""
    subject = subject_of(Branches(3).eval(), [seeded(16, 16)], VALUES)
    analysis = analysed(subject, SMALL)
    assert instrumentation_checks(analysis)[2].outcome == "agrees"
    engine = Doubling(analysis.engine, subject.anatomy.outputs["blocks.1.2"])
    bent = instrumentation_checks(replace(analysis, engine=engine))[2]
    assert bent.outcome == "disagrees"


class Doubling(ProgramEngine):
    """Shows twice the value of one node, and computes with the value itself."""

    def __init__(self, engine: Engine, node: str):
        self.__dict__ |= vars(engine)
        self.node = node

    def run(self, batch: Batch, watch: Watch | None = None) -> Tensor:
        shown = dict(watch or {})
        if self.node in shown:
            see = shown[self.node]
            shown[self.node] = lambda value: see(2 * value)
        return super().run(batch, shown)
