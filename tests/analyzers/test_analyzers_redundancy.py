"""What measuring says of parts that look alike, undo or need each other, or carry nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from oracles.integration import ablated_outputs
from prepared import SMALL, analysed, family, seeded, subject_of
from torch import Tensor, nn
from zoo import (
    HEADS,
    WIDTH,
    Planted,
    Transformer,
    conflicting_heads,
    copied_head_of_another_layer,
    duplicate_neurons,
    duplicated_head,
    harmless_copies,
    idle_skip,
    relay_of_heads,
    semantic_twins,
    twin_towers,
)

from zsei.analyzers import Analysis
from zsei.analyzers.answers import NOISE, merged, moved, noise_effects, same_way
from zsei.analyzers.checks import targets_of
from zsei.analyzers.interaction_bottleneck import InteractionBottleneck
from zsei.analyzers.pairs import cliques_of, components_of, pairs_of, profiles
from zsei.analyzers.redundancy import Limits, _robustness, judge, whole_effect
from zsei.analyzers.redundant_heads import RedundantHeads, likenesses
from zsei.analyzers.redundant_neurons import RedundantNeurons
from zsei.analyzers.redundant_paths import RedundantPaths
from zsei.analyzers.semantic_redundancy import SemanticRedundancy
from zsei.analyzers.useless_skip import UselessSkip
from zsei.records import AttributedEdge, Finding, Matrix
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare

VALUES = Objective(name="fidelity", output="values", reason="")
SETTINGS = Settings(samples=32, batch_size=16, ablation_sample=4, probes=2)
SIZE = WIDTH // HEADS


@cache
def of_plant(plant: Callable[..., Planted], planted: bool = True) -> Analysis:
    made = plant(planted)
    subject = subject_of(made.model, [made.data[:32]], VALUES, batch_size=16)
    return analysed(subject, SETTINGS)


def transformer_outputs(analysis: Analysis, *heads: str) -> tuple[Tensor, Tensor]:
    """(outputs, outputs with heads replaced by their means) of the user's own model."""
    cut = {}
    for head in heads:
        block, _, number = head.partition("/head.")
        own = slice(int(number) * SIZE, (int(number) + 1) * SIZE)
        mean = analysis.trace.means[f"{block}/attention", "head"][0, int(number), 0]
        path = f"{block}.attention.output"
        assert path not in cut, "one head a block is enough here"
        cut[path] = (own, mean)
    outputs = []
    for batch in analysis.importance.batches:
        x, model = batch.inputs[0], analysis.subject.model
        with torch.no_grad():
            outputs.append((model(x), ablated_outputs(model, x, cut)))
    clean, edited = zip(*outputs, strict=True)
    return torch.cat(clean), torch.cat(edited)


def squared(clean: Tensor, edited: Tensor) -> Tensor:
    return ((edited - clean).norm(dim=1) / clean.norm(dim=1)).double() ** 2


def evidence(finding: Finding) -> dict[str, float | None]:
    return {m.name: m.value for m in finding.evidence}


# -- what the output does ---------------------------------------------------------------------


def test_moved_outputs_equal_those_of_the_model_itself() -> None:
    analysis = of_plant(relay_of_heads)
    pair = ("blocks.0/head.1", "blocks.1/head.2")
    sets = [targets_of(analysis, names) for names in (pair[:1], pair[1:], pair)]
    first, second, both = moved(analysis, sets)
    for found, names in ((first, pair[:1]), (second, pair[1:]), (both, pair)):
        clean, edited = transformer_outputs(analysis, *names)
        assert torch.allclose(found.shift.float(), edited - clean, atol=1e-5)
        assert torch.allclose(found.effect, squared(clean, edited), rtol=1e-3)
    shifts = [transformer_outputs(analysis, name) for name in pair]
    one, two = ((edited - clean).flatten() for clean, edited in shifts)
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert same_way(first, second) == pytest.approx(cosine, abs=1e-4)


def test_the_choice_of_logits_moves_by_its_log_probability() -> None:
    made = twin_towers()
    logits = Objective(name="fidelity", output="logits", reason="")
    analysis = analysed(subject_of(made.model, [made.data[:16]], logits), SMALL)
    [found] = moved(analysis, [targets_of(analysis, ["left.1"])])
    changes = []
    for batch in analysis.importance.batches:
        mean = analysis.trace.means["left.1", "branch"]
        model = analysis.subject.model
        handle = model.get_submodule("left.1").register_forward_hook(
            lambda module, args, output, mean=mean: mean.expand_as(output)
        )
        with torch.no_grad():
            edited = model(batch.inputs[0])
        handle.remove()
        with torch.no_grad():
            clean = model(batch.inputs[0])
        chosen = clean.argmax(-1, keepdim=True)
        changes.append((edited.log_softmax(-1) - clean.log_softmax(-1)).gather(-1, chosen))
    assert torch.allclose(found.shift.float(), torch.cat(changes), atol=1e-5)


def test_what_moves_nothing_has_no_direction() -> None:
    analysis = of_plant(relay_of_heads)
    nothing, head = moved(analysis, [(), targets_of(analysis, ["blocks.0/head.1"])])
    assert float(nothing.effect.max()) == 0
    assert same_way(nothing, head) is None


def test_noise_is_that_of_the_seed_and_the_same_for_every_set() -> None:
    analysis = of_plant(relay_of_heads)
    target = targets_of(analysis, ["blocks.0/head.1"])
    found = noise_effects(analysis, [[], target])
    assert found is not None
    generator = torch.Generator().manual_seed(analysis.settings.seed)
    expected: list[list[Tensor]] = [[], []]
    mean = analysis.trace.means["blocks.0/attention", "head"][0, 1, 0]
    for batch in analysis.importance.batches:
        x, model = batch.inputs[0], analysis.subject.model
        noisy = x + NOISE * x.square().mean().sqrt() * torch.randn(x.shape, generator=generator)
        for index, cut in enumerate(({}, {"blocks.0.attention.output": (slice(8, 16), mean)})):
            clean, edited = (ablated_outputs(model, value, cut) for value in (x, noisy))
            expected[index].append(squared(clean, edited))
    for values, wanted in zip(found, expected, strict=True):
        assert torch.allclose(values, torch.cat(wanted), rtol=1e-3)


class Tokens(nn.Module):
    """Reads tokens by an embedding, or as numbers."""

    def __init__(self, embeds: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4) if embeds else None
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens.float() if self.words is None else self.words(tokens).mean(1)
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("embeds", [True, False])
def test_noise_reaches_tokens_by_their_embedding_or_not_at_all(embeds: bool) -> None:
    tokens = torch.arange(64).view(16, 4) % 7
    subject = subject_of(Tokens(embeds).eval(), [tokens], VALUES, names=("tokens",))
    found = noise_effects(analysed(subject, SMALL), [[]])
    if not embeds:
        assert found is None
        return
    assert found is not None
    assert float(found[0].min()) > 0


# -- the verdict ------------------------------------------------------------------------------


def verdict(analysis: Analysis, *names: str):
    total = whole_effect(analysis, "head")
    found = judge(analysis, names, total=total, limits=Limits(), robustness=True)
    assert found is not None
    return found


def test_two_copies_back_each_other_up() -> None:
    found = verdict(of_plant(duplicated_head), "blocks.1/head.1", "blocks.1/head.3")
    assert (found.state, found.removable) == ("backup", 1)
    assert [c.name for c in found.checks] == ["exact-ablation", "half-samples", "input-noise"]
    assert [c.outcome for c in found.checks[:2]] == ["agrees", "agrees"]
    effects = [m.value for m in found.evidence if m.name == "ablation_effect"]
    [told] = [m for m in found.evidence if m.name == "interaction"]
    assert told.value == pytest.approx(float(found.joint.mean()) - sum(v or 0 for v in effects))
    assert told.n == 32


def test_a_verdict_rests_on_the_ablations_of_the_model_itself() -> None:
    analysis = of_plant(copied_head_of_another_layer)
    pair = ("blocks.0/head.1", "blocks.1/head.1")
    found = verdict(analysis, *pair)
    alone = [squared(*transformer_outputs(analysis, name)) for name in pair]
    assert torch.allclose(found.joint, squared(*transformer_outputs(analysis, *pair)), rtol=1e-3)
    assert torch.allclose(found.summed, alone[0] + alone[1], rtol=1e-3)


def test_faint_copies_can_all_go() -> None:
    found = verdict(of_plant(harmless_copies), "blocks.1/head.1", "blocks.1/head.3")
    assert (found.state, found.removable) == ("none needed", 2)
    assert {c.name: c.outcome for c in found.checks} == {
        "exact-ablation": "agrees", "half-samples": "agrees",
    }  # fmt: skip


def test_unlike_heads_are_each_read_for_themselves() -> None:
    found = verdict(of_plant(duplicated_head), "blocks.0/head.1", "blocks.2/head.3")
    assert (found.state, found.removable) == ("separate", 0)


def test_heads_in_series_cancel_and_none_can_go() -> None:
    found = verdict(of_plant(relay_of_heads), "blocks.0/head.1", "blocks.1/head.2")
    assert (found.state, found.removable) == ("cancelling", 0)
    assert found.checks[0].outcome == "disagrees"


def test_few_samples_cannot_tell_and_say_how_many_would() -> None:
    made = duplicated_head()
    analysis = analysed(subject_of(made.model, [made.data[:6]], VALUES, batch_size=6), SMALL)
    found = verdict(analysis, "blocks.1/head.1", "blocks.1/head.3")
    assert (found.state, found.removable) == ("could not tell", 0)
    assert "about 8 samples would tell" in found.said
    [told] = [m for m in found.evidence if m.name == "removable_units"]
    assert (told.value, told.state) == (None, "could not tell")
    assert {c.outcome for c in found.checks} == {"inconclusive"}
    assert "takes 16" in found.checks[1].message


class Saturating(nn.Module):
    """Two equal towers; together they drive a tanh to its ends, one of them alone does not."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.left, self.right = (nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]) for _ in "ab")
        self.read = nn.Linear(8, 4)
        self.gain = gain
        for linear in (*self.left, *self.right):
            linear.load_state_dict({"weight": torch.eye(8), "bias": torch.zeros(8)})

    def forward(self, x: Tensor) -> Tensor:
        left, right = (tower[1](tower[0](x)) for tower in (self.left, self.right))
        return self.read((self.gain * (left + right)).tanh())


@pytest.mark.parametrize(("gain", "outcome"), [(1.0, "disagrees"), (0.1, "agrees")])
def test_noise_tells_a_useful_backup_from_a_useless_one(gain: float, outcome: str) -> None:
    torch.manual_seed(3)
    model, inputs = Saturating(gain).eval(), seeded(64, 8).sign()
    analysis = analysed(subject_of(model, [inputs], VALUES, batch_size=32), SMALL)
    (whole, without), check = _robustness(analysis, "left.1", Limits())
    assert check.name == "input-noise"
    assert check.outcome == outcome
    assert whole.value is not None
    assert without.value is not None
    assert (without.value > 1.1 * whole.value) == (outcome == "disagrees")


# -- findings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "analyzer"),
    [
        (copied_head_of_another_layer, RedundantHeads()),
        (harmless_copies, RedundantHeads()),
        (semantic_twins, SemanticRedundancy()),
        (twin_towers, RedundantPaths()),
        (idle_skip, UselessSkip()),
        (conflicting_heads, InteractionBottleneck()),
        (relay_of_heads, InteractionBottleneck()),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_every_finding_was_tested_by_ablation_and_by_halves(plant, analyzer) -> None:
    found = [f for f in analyzer.find(of_plant(plant)) if f.severity > 0]
    assert found
    for finding in found:
        outcomes = {check.name: check.outcome for check in finding.checks}
        assert outcomes["exact-ablation"] == outcomes["half-samples"] == "agrees"


def test_heads_of_two_layers_make_one_group() -> None:
    analysis = of_plant(copied_head_of_another_layer)
    [finding] = RedundantHeads().find(analysis)
    assert finding.components == ("blocks.0/head.1", "blocks.1/head.1")
    assert finding.severity == pytest.approx(1 / (2 * HEADS))
    alike = likenesses(analysis)
    assert evidence(finding)["head_similarity"] == alike["blocks.0/head.1", "blocks.1/head.1"]
    assert len(alike) == 12 * 11 / 2


def test_twins_write_far_apart_and_decide_alike() -> None:
    analysis = of_plant(semantic_twins)
    pair = ("blocks.2/head.1", "blocks.2/head.3")
    assert abs(likenesses(analysis)[pair]) < 0.8
    [finding] = [f for f in SemanticRedundancy().find(analysis) if f.components == pair]
    assert "(decision)" in finding.message
    assert finding.message.endswith("(one can go).")
    shifts = [transformer_outputs(analysis, name) for name in pair]
    one, two = ((edited - clean).flatten() for clean, edited in shifts)
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert evidence(finding)["decision_similarity"] == pytest.approx(cosine, abs=1e-4)


def test_two_heads_that_know_the_group_alike_share_a_concept() -> None:
    """Both read the channel in which the groups differ, with other keys, into other directions."""
    torch.manual_seed(4)
    model = Transformer(32, 32).eval()
    with torch.no_grad():
        for number in (0, 1):
            rows = slice(SIZE * (1 + number), SIZE * (2 + number))
            weight = model.get_parameter("blocks.0.attention.value.weight")
            weight[rows] = 0
            weight[rows, 0] = seeded(SIZE, seed=number)
    first, second = seeded(24, 6, WIDTH), seeded(24, 6, WIDTH, seed=2)
    first[..., 0] += 4
    settings = Settings(batch_size=16, samples=48, ablation_sample=8, probes=2)
    analysis = analysed(prepare(model, {"up": first, "down": second}, settings=settings), settings)
    alike = pairs_of(next(m for m in analysis.trace.matrices if m.name == "concept_similarity"))
    pair = ("blocks.0/head.1", "blocks.0/head.2")
    assert alike[pair] > 0.9
    groups = {g.names: g for g in SemanticRedundancy()._groups(analysis)}
    assert any(set(pair) <= set(names) and "concept" in g.kinds for names, g in groups.items())


def test_conflict_and_synergy_are_told_apart_by_the_way_the_output_moves() -> None:
    [conflict] = InteractionBottleneck().find(of_plant(conflicting_heads))
    assert conflict.components == ("blocks.1/head.1", "blocks.1/head.3")
    assert (evidence(conflict)["decision_similarity"] or 0) < -0.9
    assert "one undoes the other" in conflict.message
    analysis = of_plant(relay_of_heads)
    [synergy] = InteractionBottleneck().find(analysis)
    assert synergy.components == ("blocks.0/head.1", "blocks.1/head.2")
    assert "without the other" in synergy.message
    pair = synergy.components
    joint = squared(*transformer_outputs(analysis, *pair))
    alone = [squared(*transformer_outputs(analysis, name)) for name in pair]
    told = evidence(synergy)
    interaction = float((joint - alone[0] - alone[1]).mean())
    assert told["interaction"] == pytest.approx(interaction, rel=1e-3)
    assert synergy.severity == pytest.approx(
        -interaction / float((alone[0] + alone[1]).mean()), rel=1e-3
    )


def test_an_interaction_that_few_samples_show_could_not_be_told() -> None:
    made = conflicting_heads()
    analysis = analysed(subject_of(made.model, [made.data[:7]], VALUES, batch_size=7), SMALL)
    # The first-order screen needs eight samples; the pair is handed to what measures it.
    pair = ("blocks.1/head.1", "blocks.1/head.3")
    sets = [targets_of(analysis, names) for names in (pair[:1], pair[1:], pair)]
    first, second, both = moved(analysis, sets)
    summed = first.effect + second.effect
    [finding] = InteractionBottleneck()._judge(analysis, pair, both.effect, summed, -1.0)
    assert finding.severity == 0
    assert finding.evidence[0].state == "could not tell"
    assert "7 samples cannot tell whether that is chance; about 8 would" in finding.message


def test_a_cut_skip_is_what_the_block_would_be_without_it() -> None:
    analysis = of_plant(idle_skip)
    [finding] = UselessSkip().find(analysis)
    assert finding.components == ("blocks.2/residual.2",)
    effects = []
    model = analysis.subject.model
    assert isinstance(model, Transformer)
    for batch in analysis.importance.batches:
        x = batch.inputs[0]
        with torch.no_grad():
            clean = model(x)
            first, second, last = model.blocks
            x = second(first(x))
            attention, mlp = (last.get_submodule(name) for name in ("attention", "mlp"))
            norms = [last.get_submodule(name) for name in ("norm1", "norm2")]
            x = x + attention(norms[0](x))
            effects.append(squared(clean, model.head(model.norm(mlp(norms[1](x))).mean(1))))
    told = evidence(finding)
    assert told["skip_effect"] == pytest.approx(float(torch.cat(effects).mean()), rel=1e-2)
    assert (told["skip_effect"] or 0) < (told["effect_limit"] or 0)


def test_equal_towers_are_one_group_of_routes() -> None:
    [finding] = RedundantPaths().find(of_plant(twin_towers))
    assert finding.components == ("left.1", "right.1")
    assert finding.severity == 0.5
    assert evidence(finding)["written_similarity"] == pytest.approx(1, abs=1e-5)


def test_layers_of_the_same_weights_double_their_branches() -> None:
    found = list(RedundantPaths().find(analysed(family("encoder"), SMALL)))
    components = {f.components for f in found}
    assert ("encoder.layers.0/attention", "encoder.layers.1/attention") in components
    assert all("the stream" in f.message for f in found)


def test_merging_copies_changes_nothing_and_merging_others_does() -> None:
    analysis = of_plant(duplicate_neurons)
    [finding] = [f for f in RedundantNeurons().find(analysis) if f.components == ("blocks.0/mlp",)]
    [trial] = finding.checks
    assert (trial.name, trial.outcome) == ("merging", "agrees")
    site = analysis.subject.anatomy.site("blocks.0/mlp", "neuron")
    assert site is not None
    assert float(merged(analysis, site, [(3, 10, 11, 12, 13)]).max()) < 1e-10
    found = merged(analysis, site, [(3, 20), (21, 22)])
    values, expected = [], []
    model = analysis.subject.model
    reader = model.get_submodule("blocks.0.mlp.down")
    for batch in analysis.importance.batches:
        handle = reader.register_forward_pre_hook(lambda module, args: values.append(args[0]))
        with torch.no_grad():
            expected.append(model(batch.inputs[0]))
        handle.remove()
    seen = torch.cat(values).flatten(0, -2).double().numpy()
    lines = {(i, j): np.polyfit(seen[:, i], seen[:, j], 1) for i, j in ((3, 20), (21, 22))}

    def exchange(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        del module
        value = args[0].clone()
        for (i, j), (slope, offset) in lines.items():
            value[..., j] = float(slope) * value[..., i] + float(offset)
        return (value,)

    edited = []
    for batch in analysis.importance.batches:
        handle = reader.register_forward_pre_hook(exchange)
        with torch.no_grad():
            edited.append(model(batch.inputs[0]))
        handle.remove()
    assert torch.allclose(found, squared(torch.cat(expected), torch.cat(edited)), rtol=1e-2)


# -- pairs ------------------------------------------------------------------------------------


def test_a_chain_of_likenesses_is_one_component_and_two_cliques() -> None:
    chain = [("a", "b"), ("b", "c")]
    assert components_of(chain) == [("a", "b", "c")]
    assert cliques_of(chain) == [("a", "b"), ("b", "c")]
    assert cliques_of([*chain, ("a", "c")]) == [("a", "b", "c")]


def test_a_symmetric_matrix_gives_every_pair_once() -> None:
    matrix = Matrix(name="x", title="x", rows=("a", "b"), columns=("a", "b"),
                    values=((1, 0.5), (0.5, None)))  # fmt: skip
    assert pairs_of(matrix) == {("a", "b"): 0.5}
    assert pairs_of(None) == {}


def test_profiles_equal_a_loop_over_the_readers_that_both_could_serve() -> None:
    values = {w: seeded(6, seed=i).tolist() for i, w in enumerate("abc")}
    edges = [
        AttributedEdge(writer=w, reader=f"r{r}", attribution=values[w][r])
        for w in "abc"
        for r in range(6)
        if not (w == "c" and r < 2)
    ]
    analysis = of_plant(duplicated_head)
    found = profiles(replace(analysis, trace=replace(analysis.trace, edges=tuple(edges))), fewest=2)
    typical = [sum(abs(values[w][r]) for w in "abc") / 3 for r in range(2, 6)]
    typical = [sum(abs(values[w][r]) for w in "ab") / 2 for r in range(2)] + typical
    for a, b in combinations("abc", 2):
        shared = range(2, 6) if "c" in (a, b) else range(6)
        sets = []
        for writer in (a, b):
            taken = [abs(values[writer][r]) / typical[r] for r in shared]
            sets.append([t - sum(taken) / len(taken) for t in taken])
        product = sum(x * y for x, y in zip(*sets, strict=True))
        sizes = [sum(x * x for x in one) for one in sets]
        assert found[a, b] == pytest.approx(product / (sizes[0] * sizes[1]) ** 0.5, rel=1e-6)


def test_without_edges_profiles_rest_on_composition() -> None:
    analysis = of_plant(duplicated_head)
    bare = replace(analysis, trace=replace(analysis.trace, edges=()))
    found = profiles(bare)
    assert found["blocks.1/head.1", "blocks.1/head.3"] == pytest.approx(1, abs=1e-3)
    assert ("blocks.2/head.0", "blocks.2/head.1") not in found
