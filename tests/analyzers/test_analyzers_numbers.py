"""The numbers findings rest on, each against a second way to get it."""

import math
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from factories import FAMILIES
from prepared import SMALL, analysed, family, seeded, subject_of
from torch import Tensor, nn
from zoo import WIDTH, Chain, Transformer, busy_idler

from zsei.analyzers import Analysis, run_analyzers
from zsei.analyzers.computational_bottleneck import ComputationalBottleneck
from zsei.analyzers.critical_path_information import CriticalPathInformation
from zsei.analyzers.critical_path_latency import CriticalPathLatency
from zsei.analyzers.effects import bounds, effect_scores
from zsei.analyzers.gradient_flow import GradientFlow
from zsei.analyzers.information_bottleneck import InformationBottleneck
from zsei.analyzers.low_effect import LowEffect
from zsei.analyzers.memory_bottleneck import MemoryBottleneck
from zsei.analyzers.redundant_heads import RedundantHeads
from zsei.analyzers.redundant_layers import RedundantLayers
from zsei.analyzers.shares import additive, criticality_shares, hot_spots, working_parts
from zsei.analyzers.words import listed, number, percent
from zsei.graph.flow import FlowGraph
from zsei.records import Finding
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare

VALUES = Objective(name="fidelity", output="values", reason="")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    torch.manual_seed(7)
    model = Transformer(32, 32, 32).eval()
    return analysed(subject_of(model, [seeded(24, 6, WIDTH)], VALUES), SMALL)


def _evidence(finding: Finding) -> dict[str, float | None]:
    return {measurement.name: measurement.value for measurement in finding.evidence}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_analyzer_breaks_on_any_family_and_findings_stay_few(name: str) -> None:
    found, timed, failures = run_analyzers(analysed(family(name)))
    assert failures == ()
    assert 2 <= len(found) + len(timed) <= 20
    known = {c.id for c in family(name).anatomy.components}
    for finding in (*found, *timed):
        assert set(finding.components) <= known
        assert "nan" not in finding.message


def test_no_analyzer_breaks_where_only_modules_are_seen() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.last(hidden / 2 if hidden.mean() > 1e6 else hidden)

    subject = prepare(Branching().eval(), seeded(24, 6), "fidelity", Settings(batch_size=8))
    assert subject.fidelity == "modules"
    found, timed, failures = run_analyzers(analysed(subject))
    assert failures == ()
    assert {f.code for f in found} >= {"critical-path-information"}
    assert {f.code for f in timed} >= {"critical-path-latency"}


def test_criticality_shares_are_effects_over_their_sum(analysis: Analysis) -> None:
    found = criticality_shares(analysis)
    parts = {p.id for p in working_parts(analysis)}
    assert parts == {f"blocks.{i}/{k}" for i in range(3) for k in ("attention", "mlp")} | {"head"}
    assert set(found) == parts - {"head"}  # the head alone makes the output
    squares = {part: float(analysis.importance.scores[part, "branch"][0]) ** 2 for part in found}
    assert found == pytest.approx({p: s / sum(squares.values()) for p, s in squares.items()})
    assert sum(found.values()) == pytest.approx(1)


def test_effects_add_up_on_the_additive_scale() -> None:
    """Unrelated changes: squared lengths add for relative L2, divergences for KL and 1 - cos."""
    along, across = torch.tensor([3.0, 0]), torch.tensor([0.0, 4])
    lengths = [float(v.norm()) for v in (along, across, along + across)]
    squares = [additive(VALUES, length) for length in lengths]
    assert squares[0] + squares[1] == pytest.approx(squares[2])
    assert additive(replace(VALUES, output="logits"), 0.3) == 0.3


def test_hot_spots_are_grouped_by_band_and_compared_with_what_they_bring() -> None:
    cost = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.12, "e": 0.06, "f": 0.04, "g": 0.3}
    brought = {"a": 0.1, "b": 0.2, "c": 0.07, "d": 0.01, "e": 0.02, "f": 0.0}
    found = list(
        hot_spots(
            code="x", measure="flops_share", noun="operations", cost=cost, criticality=brought,
            bands=(0.2, 0.1, 0.05), pressure=2.0, extra={},
        )
    )  # fmt: skip
    # b is worth its cost, f costs too little, of g nothing is known; d has the larger excess.
    assert [f.components for f in found] == [("a",), ("d", "c"), ("e",)]
    assert [f.severity for f in found] == pytest.approx([0.4, 0.11 + 0.08, 0.04])
    assert "d (12 % of the operations, 1.0 % of the effect)" in found[1].message


def test_operations_and_intensity_by_hand() -> None:
    made = busy_idler()
    assert isinstance(made.data, Tensor)
    samples, length = 8, made.data.shape[1]
    subject = subject_of(made.model, [made.data], VALUES, batch_size=samples)
    [finding] = list(ComputationalBottleneck().find(analysed(subject, SMALL)))
    assert finding.components == ("blocks.1/mlp",)
    evidence = _evidence(finding)
    attention = 2 * (4 * WIDTH * WIDTH + 2 * length * WIDTH)
    mlps = [2 * 2 * WIDTH * hidden for hidden in (64, 1024, 64)]
    total = length * (3 * attention + sum(mlps)) + 2 * WIDTH * 6
    assert evidence["flops_share"] == pytest.approx(length * mlps[1] / total)
    # Up, rectifier, down: each reads its argument and writes its result, weights once.
    narrow, wide = samples * length * WIDTH, samples * length * 1024
    moved = 4 * (2 * narrow + 4 * wide + 2 * WIDTH * 1024 + 1024 + WIDTH)
    intensity = samples * length * mlps[1] / moved
    assert evidence["arithmetic_intensity"] == pytest.approx(intensity)


def test_the_quadratic_term_by_hand() -> None:
    """Attention over t positions: 4·t·d of 8·d² + 4·t·d + 4·d·hidden multiply-adds a position."""
    model = Transformer(32).eval()
    subject = subject_of(model, [seeded(16, 48, WIDTH)], VALUES)
    found = list(MemoryBottleneck().find(analysed(subject, SMALL)))
    [finding] = [f for f in found if "quadratic_share" in _evidence(f)]
    squared = 2 * 2 * 48 * WIDTH
    linear = 2 * (4 * WIDTH * WIDTH + 2 * WIDTH * 32) + 2 * WIDTH * 6 / 48
    share = squared / (squared + linear)
    assert _evidence(finding)["quadratic_share"] == pytest.approx(share)
    doubled = 4 * squared / (4 * squared + 2 * linear)
    assert _evidence(finding)["quadratic_share_doubled"] == pytest.approx(doubled)


def test_parameters_are_counted_once_however_often_a_module_is_called() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner = nn.Embedding(50, 8), nn.Linear(8, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.words(tokens).mean(1)
            return self.inner(self.inner(x).tanh())

    tokens = torch.arange(64).view(16, 4) % 50
    subject = subject_of(Shared(), [tokens], VALUES, names=("tokens",))
    found = list(MemoryBottleneck().find(analysed(subject, SMALL)))
    [finding] = [f for f in found if f.components == ("words",)]
    assert _evidence(finding)["parameters_share"] == pytest.approx(400 / (400 + 72))


def test_low_effect_takes_the_longest_run_under_the_share(analysis: Analysis) -> None:
    found = {f.evidence[0].note: f for f in LowEffect(max_share=0.2).find(analysis)}
    scores = sorted(
        (float(s) ** 2, site.unit_ids[i])
        for site in analysis.subject.anatomy.sites
        if site.kind == "head"
        for i, s in enumerate(analysis.importance.scores[site.component, "head"])
    )
    total, run, names = sum(s for s, _ in scores), 0.0, set()
    for score, name in scores:
        if run + score > 0.2 * total:
            break
        run, names = run + score, names | {name}
    assert names
    assert set(found["heads"].components) == names
    assert _evidence(found["heads"])["low_effect_share"] == pytest.approx(run / total)
    assert found["heads"].severity == pytest.approx(len(names) / len(scores))
    evidence = _evidence(found["heads"])
    assert evidence["interaction"] == pytest.approx(evidence["joint_effect"] - run)
    assert (_evidence(found["neurons"])["joint_effect"] or 0) > 0


def test_effects_of_units_are_exact_where_they_were_ablated(analysis: Analysis) -> None:
    known = analysis.importance.effects
    assert {f"blocks.1/mlp/neuron.{i}" for i in range(32)} <= set(known)
    effects = {name: e for name, e in known.items() if not name.endswith(("1", "3", "5"))}
    partly = replace(analysis, importance=replace(analysis.importance, effects=effects))
    found = effect_scores(partly, "blocks.1/mlp", "neuron")
    predicted = analysis.importance.scores["blocks.1/mlp", "neuron"]
    for i, score in enumerate(found):
        exact = effects.get(f"blocks.1/mlp/neuron.{i}")
        expected = predicted[i] if exact is None else float(exact.divergence.double().mean())
        assert score == pytest.approx(expected**2)


def test_low_effect_says_nothing_that_ablation_did_not_confirm(analysis: Analysis) -> None:
    doubtful = [
        c.model_copy(update={"status": "not validated"}) for c in analysis.importance.checks
    ]
    rankings = [
        r.model_copy(update={"criterion": "exact ablation (sample only)"})
        for r in analysis.importance.rankings
    ]
    importance = replace(analysis.importance, checks=tuple(doubtful), rankings=tuple(rankings))
    assert list(LowEffect().find(replace(analysis, importance=importance))) == []


def test_heads_that_cancel_and_heads_that_add_are_told_apart() -> None:
    """Head 1 writes minus what head 0 writes: without both nothing changes."""
    torch.manual_seed(7)
    model = Transformer(32, 32).eval()
    attention = model.blocks[0].attention
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.weight[8:16], part.bias[8:16] = part.weight[:8], part.bias[:8]
        attention.output.weight[:, 8:16] = -attention.output.weight[:, :8]
    subject = subject_of(model, [seeded(24, 6, WIDTH)], VALUES)
    [finding] = list(RedundantHeads().find(analysed(subject, SMALL)))
    assert finding.components == ("blocks.0/head.0", "blocks.0/head.1")
    evidence = _evidence(finding)
    assert evidence["head_similarity"] == pytest.approx(1, abs=1e-5)
    assert evidence["joint_effect"] == pytest.approx(0, abs=1e-9)
    assert evidence["removable_units"] == 2
    assert "none of them is needed" in finding.message


def test_layers_are_judged_by_the_limit_of_the_safety_level(analysis: Analysis) -> None:
    effects = {
        name: float(e.divergence.mean())
        for name, e in analysis.importance.effects.items()
        if e.target.site.kind == "layer"
    }
    for safety, limit in (("conservative", 0.12), ("moderate", 0.15), ("aggressive", 0.20)):
        settings = analysis.settings.model_copy(update={"safety": safety})
        found = list(RedundantLayers().find(replace(analysis, settings=settings)))
        expected = [
            layer for layer in sorted(effects, key=lambda name: effects[name])
            if bounds(analysis.importance.effects[layer].divergence)[1] <= limit
        ]  # fmt: skip
        assert [f.components[0] for f in found] == expected
        for finding in found:
            assert _evidence(finding)["effect_limit"] == limit
            assert finding.severity == pytest.approx(1 - effects[finding.components[0]] / limit)


def test_a_residual_stream_is_no_bottleneck_however_little_a_block_writes(
    analysis: Analysis,
) -> None:
    assert list(InformationBottleneck().find(analysis)) == []


def test_outlier_channels_do_not_make_a_bottleneck() -> None:
    """One channel a thousand times as large: covariance sees one dimension, a norm sees all."""

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)
            self.second, self.last = nn.Linear(32, 32), nn.Linear(32, 4)
            with torch.no_grad():
                self.first.weight[0] *= 1000

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.norm(self.first(x))).relu())

    analysis = analysed(subject_of(Loud().eval(), [seeded(64, 16)], VALUES, batch_size=32), SMALL)
    assert (analysis.flow.number("first", "effective_rank") or 9) < 1.5
    found = list(InformationBottleneck().find(analysis))
    assert [f for f in found if "first" in f.components] == []


def test_few_rows_hide_the_rank_and_the_finding_says_so() -> None:
    model = Chain(16, 64, 64, 64, 4)
    analysis = analysed(subject_of(model, [seeded(6, 16)], VALUES, batch_size=6), SMALL)
    [finding] = list(InformationBottleneck().find(analysis))
    assert finding.severity == 0
    assert finding.evidence[0].state == "could not tell"
    assert finding.evidence[0].value is None
    assert _evidence(finding)["rank_cap"] == 5
    assert finding.message.startswith("Could not tell")


def test_parallel_nodes_can_be_the_narrowest_cut() -> None:
    class Towers(nn.Module):
        """Two towers, each squeezed to one dimension; waves make many of it again."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last, self.out = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 8)
            self.left, self.right = nn.Linear(32, 1), nn.Linear(32, 1)
            self.widen_left, self.widen_right = nn.Linear(1, 16), nn.Linear(1, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            left = (9 * self.widen_left(self.left(x))).sin()
            right = (9 * self.widen_right(self.right(x))).sin()
            return self.out(self.last(torch.cat([left, right], 1)).sin())

    torch.manual_seed(1)
    subject = subject_of(Towers().eval(), [seeded(256, 16)], VALUES, batch_size=64)
    found = list(InformationBottleneck().find(analysed(subject, SMALL)))
    [cut] = [f for f in found if len(f.components) == 2]
    assert set(cut.components) == {"left", "right"}
    assert _evidence(cut)["cut_capacity"] == pytest.approx(2, abs=0.05)


def _gradients(sizes: list[float]) -> list[Finding]:
    """What gradient-flow says of a chain whose gradients have these sizes."""
    chain = Chain(*[8] * (len(sizes) + 1))
    analysis = analysed(subject_of(chain, [seeded(16, 8)], VALUES), SMALL)
    measurements = {name: dict(rows) for name, rows in analysis.trace.measurements.items()}
    for layer, size in enumerate(sizes):
        rows = measurements[f"layers.{layer}"]
        rows["gradient_rms"] = rows["gradient_rms"].model_copy(update={"value": size})
    trace = replace(analysis.trace, measurements=measurements)
    return list(GradientFlow().find(replace(analysis, trace=trace)))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([0.02, 0.1, 0.5, 1.0], None),
        ([0.009, 0.05, 0.3, 1.0], "vanishes"),
        ([0.0, 0.0, 0.5, 1.0], "vanishes"),
        ([110.0, 20.0, 5.0, 1.0], "explodes"),
        ([1.0, 1.0, 0.02, 0.9], "jumps"),
        ([1.0, 1.0], None),
    ],
)
def test_gradient_limits(sizes: list[float], said: str | None) -> None:
    found = _gradients(sizes)
    assert [said in f.message for f in found] == ([] if said is None else [True])
    if found and said != "jumps" and sizes[0] > 0:
        evidence = _evidence(found[0])
        logs = np.log10(sizes)
        assert evidence["gradient_ratio"] == pytest.approx(sizes[0] / sizes[-1])
        assert evidence["gradient_slope"] == pytest.approx(np.polyfit(range(4), logs, 1)[0])
        assert found[0].severity == pytest.approx(abs(math.log10(sizes[0] / sizes[-1])) / 6)


def test_paths_are_described_and_accused_of_nothing(analysis: Analysis) -> None:
    found = list(CriticalPathInformation().find(analysis))
    assert len(found) == 3
    shares = [_evidence(f)["path_share"] or 0 for f in found]
    assert shares == sorted(shares, reverse=True)
    for finding, share in zip(found, shares, strict=True):
        assert finding.severity == 0
        assert nx.is_path(analysis.flow.graph, finding.components)
        product = math.prod(
            analysis.flow.graph.edges[u, v]["share"]
            for u, v in zip(finding.components, finding.components[1:], strict=False)
        )
        assert share == pytest.approx(product)


def test_the_longest_chain_in_time() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node, kind in (("in", "input"), ("a", "linear"), ("b", "linear"), ("output", "output")):
        graph.add_node(node, kind=kind)
    graph.add_edges_from([("in", "a"), ("in", "b"), ("a", "output"), ("b", "output")], share=0.5)
    base = analysed(family("mlp"))
    trace = replace(base.trace, seconds={"a": 0.3, "b": 0.1})
    analysis = replace(base, flow=FlowGraph(graph=graph), trace=trace)
    [finding] = list(CriticalPathLatency().find(analysis))
    assert finding.components == ("in", "a", "output")
    assert _evidence(finding)["path_seconds"] == pytest.approx(0.3)
    assert _evidence(finding)["path_seconds_share"] == pytest.approx(0.75)


def test_bounds_are_those_of_the_normal_approximation() -> None:
    values = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    error = 1.645 * math.sqrt(5 / 3) / 2
    assert bounds(values) == pytest.approx((2.5 - error, 2.5 + error))
    assert bounds(values[:1]) == (1, 1)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.52, "52 %"), (0.041, "4.1 %"), (0.0003, "0.03 %"), (0.0, "0.0 %"), (0.0996, "10 %")],
)
def test_percentages(share: float, said: str) -> None:
    assert percent(share) == said


def test_numbers_and_lists() -> None:
    assert [number(v) for v in (0.012345, 1536.0, 3.14159, 0.0)] == ["0.0123", "1536", "3.14", "0"]
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
