"""All components in one ranking, ways through the model, and what a noisy truth can tell."""

import networkx as nx
import numpy as np
import pytest
import torch
from oracles.criticality import joined_average, throughput_by_paths
from oracles.ranking import spearman_rho
from prepared import SMALL, analysed, family, seeded, subject_of, traced
from zoo import WIDTH, Transformer

from zsei.analyzers.context import Analysis
from zsei.graph.build import build_graph
from zsei.graph.flow import FlowGraph
from zsei.importance.agreement import check, enough_samples, reliability
from zsei.importance.candidates import PARTS, units_of_kind
from zsei.importance.criteria import CRITERIA, WEIGHTED, shares, weighted
from zsei.importance.joined import KIND, _average, _expected, _weights, component_views, join
from zsei.importance.pathways import path_effect, path_targets, throughput
from zsei.subject.objective import Objective
from zsei.trace.ablation import Target, ablate, ablate_together


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    torch.manual_seed(5)
    model = Transformer(24, 24, 24).eval()
    objective = Objective(name="fidelity", output="values", reason="")
    subject = subject_of(model, [seeded(24, 6, WIDTH)], objective, batch_size=8)
    return analysed(subject, SMALL.model_copy(update={"ablation_sample": 24}))


def test_throughput_is_the_sum_over_all_ways() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in "iabcdo":
        graph.add_node(node, kind="output" if node == "o" else "linear")
    for source, target, share in [
        ("i", "a", 1.0), ("i", "b", 0.5), ("a", "b", 0.5), ("a", "c", 0.3), ("b", "c", 0.7),
        ("i", "d", 1.0), ("c", "o", 0.9), ("d", "o", 0.1),
    ]:  # fmt: skip
        graph.add_edge(source, target, share=share)
    graph = nx.relabel_nodes(graph, {"o": "output"})
    expected = throughput_by_paths(graph, "output")
    assert throughput(FlowGraph(graph=graph)) == pytest.approx(expected)
    assert expected["i"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "mlp"])
def test_throughput_of_real_graphs(name: str) -> None:
    flow = build_graph(family(name), traced(name))
    found = throughput(flow)
    assert found[flow.sink] == 1
    # Position and type embeddings come from no input.
    assert 0.2 < sum(found[node] for node in flow.sources()) <= 1 + 1e-6
    assert max(found.values()) <= 1 + 1e-6


def test_the_average_of_views_is_that_of_the_loops() -> None:
    generator = np.random.default_rng(2)
    truth = generator.random(14)
    known = np.arange(3, 17)
    views = {name: generator.random(20) for name in ("a", "b", "c")}
    views["a"][3:17] += 2 * truth
    views["b"][[0, 5, 18]] = np.nan
    listed = {n: [None if np.isnan(x) else float(x) for x in v] for n, v in views.items()}
    weights = _weights(views, known, truth)
    found = _average(views, weights)
    assert weights["a"] > 0.5
    assert found.tolist() == pytest.approx(joined_average(listed, known.tolist(), truth.tolist()))
    # What the fit expects never falls where the average rises.
    expected = _expected(found, known, truth)
    assert (np.diff(expected[np.argsort(found)]) >= -1e-12).all()


def test_all_ablated_components_are_ranked_by_their_exact_effects(analysis: Analysis) -> None:
    [found] = [r for r in analysis.importance.rankings if r.kind == KIND]
    effects = analysis.importance.effects
    names = [unit.id for unit in units_of_kind(analysis.trace, *PARTS)]
    assert sorted(found.components) == sorted(names)
    assert found.criterion == "exact ablation"
    assert list(found.scores) == sorted(found.scores, reverse=True)
    for name, score in zip(found.components, found.scores, strict=True):
        assert score == pytest.approx(float(effects[name].divergence.double().mean()))


def test_where_few_are_ablated_the_views_order_the_rest(analysis: Analysis) -> None:
    """With a third of the components known, the order of the others agrees with their effects."""
    effects = analysis.importance.effects
    names = [unit.id for unit in units_of_kind(analysis.trace, *PARTS)]
    known = {name: effects[name] for name in names[::2]}
    found = join(analysis.trace, analysis.flow, known, seed=0, conditions="as told")
    assert found is not None
    joined = found.checks[-1]
    assert joined.criterion == "joined"
    assert joined.n == len(known)
    if joined.status != "validated":
        assert found.ranking.criterion == "exact ablation (sample only)"
        assert set(found.ranking.components) == set(known)
        return
    assert found.ranking.criterion == "joined"
    scored = dict(zip(found.ranking.components, found.ranking.scores, strict=True))
    others = [name for name in names if name not in known]
    exact = [float(effects[name].divergence.mean()) for name in others]
    assert spearman_rho([scored[name] for name in others], exact) > 0.5


def test_views_say_what_they_say(analysis: Analysis) -> None:
    units = units_of_kind(analysis.trace, *PARTS)
    views = component_views(analysis.trace, analysis.flow, units)
    assert set(views) == {"gradient", "pathway", "dynamic"}  # one group, no classes
    for i, unit in enumerate(units):
        sensitivity = analysis.trace.measurements[unit.id]["sensitivity"]
        assert views["gradient"][i] == pytest.approx(sensitivity.value)
        assert views["dynamic"][i] == pytest.approx(sensitivity.value + sensitivity.std)
        assert np.isnan(views["pathway"][i]) == (unit.site.kind == "layer")


def test_classes_make_a_view_of_their_own() -> None:
    trace = traced("resnet")
    matrices = [m for m in trace.matrices if m.name == "class_sensitivity"]
    if family("resnet").objective.name != "classification":
        assert matrices == []
        return
    [matrix] = matrices
    assert len(matrix.columns) >= 2
    assert all(len(row) == len(matrix.columns) for row in matrix.values)
    views = component_views(trace, build_graph(family("resnet"), trace),
                            units_of_kind(trace, *PARTS))  # fmt: skip
    assert np.nanmax(views["task"]) <= 1


def test_criteria_read_what_was_measured(analysis: Analysis) -> None:
    trace = analysis.trace
    heads, neurons = (units_of_kind(trace, kind) for kind in ("head", "neuron"))
    focus = CRITERIA["attention focus"](trace, heads)
    alike = CRITERIA["diversity"](trace, heads)
    assert focus is not None
    assert alike is not None
    for i, unit in enumerate(heads):
        entropy = trace.measurements[unit.id]["attention_entropy"].value
        assert focus[i] == pytest.approx(1 - entropy)
        rows = np.abs(np.delete(trace.head_similarity[unit.site.component], unit.index, 1))
        assert alike[i] == pytest.approx(1 - rows[unit.index].max())
    assert CRITERIA["attention focus"](trace, neurons) is None
    assert CRITERIA["taylor"](trace, neurons) is None
    assert CRITERIA["fisher"](trace, neurons) is None  # neither logits nor labels
    assert shares(np.array([1.0, 3.0])).tolist() == [0.25, 0.75]
    mixture = weighted(trace, heads, WEIGHTED["head"])
    sensitivity = CRITERIA["output sensitivity"](trace, heads)
    assert sensitivity is not None
    expected = 0.3 * shares(focus) + 0.3 * shares(alike) + 0.4 * shares(sensitivity)
    assert mixture == pytest.approx(expected)
    assert weighted(trace, neurons, {"taylor": 1.0}) is None


def test_the_true_fisher_is_what_zeroing_probes_say() -> None:
    trace = traced("gpt2")
    heads = units_of_kind(trace, "head")
    found = CRITERIA["fisher"](trace, heads)
    zeroing = heads.columns([trace.units[s.component, s.kind].zeroing for s in heads.sites])
    assert found == pytest.approx(2 * zeroing)


def test_columns_are_those_of_the_units() -> None:
    trace = traced("llama")
    units = units_of_kind(trace, "neuron").take([5, 0, 9])
    found = CRITERIA["output sensitivity"](trace, units)
    assert found is not None
    for score, unit in zip(found, units, strict=True):
        expected = trace.units[unit.site.component, "neuron"].sensitivity[unit.index]
        assert score == expected


def test_a_way_is_removed_whole(analysis: Analysis) -> None:
    subject, engine, trace = analysis.subject, analysis.engine, analysis.trace
    way = ["input.sequence", "blocks.0/attention", "blocks.0", "blocks.1/head.2", "blocks.2/mlp"]
    way = [part for part in way if part != "blocks.0"]
    found = path_effect(subject, engine, trace, SMALL, way, batches=subject.calibration)
    targets = [
        Target(site=subject.anatomy.site("blocks.0/attention", "branch"), units=(0,)),
        Target(site=subject.anatomy.site("blocks.1/attention", "head"), units=(2,)),
        Target(site=subject.anatomy.site("blocks.2/mlp", "branch"), units=(0,)),
    ]
    expected = ablate_together(
        engine, subject.objective, subject.calibration, targets, means=trace.means
    )
    assert torch.equal(found, expected)
    assert len(path_targets(subject.anatomy, way)) == 3
    with pytest.raises(ValueError, match=r"norm1 holds none"):
        path_effect(subject, engine, trace, SMALL, ["blocks.0.norm1"])


def test_a_whole_layer_is_a_way_too(analysis: Analysis) -> None:
    subject, engine = analysis.subject, analysis.engine
    layer = subject.anatomy.site("blocks.1", "layer")
    assert layer is not None
    [alone] = ablate(engine, subject.objective, subject.calibration,
                     [Target(site=layer, units=(0,))], means={})  # fmt: skip
    found = path_effect(
        subject, engine, analysis.trace, SMALL, ["blocks.1"], batches=subject.calibration
    )
    assert torch.allclose(found, alone.divergence)


def test_a_noisy_truth_says_how_many_samples_it_takes() -> None:
    """Simulated: with the samples it names, halves agree so well that 0.9 can be reached."""
    generator = np.random.default_rng(4)
    effects = np.exp(generator.normal(size=400))

    def halves(samples: int) -> float:
        noise = generator.normal(size=(400, samples)) * 8
        values = effects[:, None] + noise
        return float(np.corrcoef(values[:, ::2].mean(1), values[:, 1::2].mean(1))[0, 1])

    few = np.mean([halves(32) for _ in range(5)])
    enough = enough_samples(float(few), 32)
    assert enough is not None
    assert np.mean([reliability(halves(enough)) ** 0.5 for _ in range(5)]) == pytest.approx(
        0.9, abs=0.02
    )
    assert enough_samples(-0.1, 32) is None


def test_a_criterion_is_not_refused_for_the_noise_of_the_truth() -> None:
    truth = np.arange(12.0)
    scores = 0.8 * np.random.default_rng(0).permutation(12) + 0.6 * truth
    given = {"samples": 16, "conditions": "as told"}
    rho = spearman_rho(scores.tolist(), truth.tolist())
    assert 0.4 < rho < 0.7
    clear = check("head", "score", scores, truth, halves=0.98, **given)
    noisy = check("head", "score", scores, truth, halves=0.3, **given)
    assert (clear.status, noisy.status) == ("not validated", "could not tell")
    assert clear.note == "as told"
    assert noisy.note.startswith("exact ablation on 16 samples agrees with itself at 0.30")
    assert f"about {enough_samples(0.3, 16)} samples" in noisy.note
    assert noisy.spearman == clear.spearman
    worse = check("head", "score", -truth, truth, halves=0.3, **given)
    assert worse.status == "not validated"
