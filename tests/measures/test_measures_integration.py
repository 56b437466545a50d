"""Integration: composition, likeness, alignment, concepts, residual joins and norms."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from oracles.integration import (
    composition_by_matrices,
    concept_scores_by_loops,
    contributions_by_loops,
    cosine_by_loops,
    debiased_cka_by_loops,
    head_matrices,
    norm_matrix,
    overlap_by_covariances,
    residual_by_loops,
    written_by_head,
)
from oracles.statistics import cka_by_kernels, effective_rank_by_svd, proximity_by_loops
from prepared import SMALL, family, seeded, subject_of
from torch import nn
from zoo import HEADS, WIDTH, Block, Transformer

from zsei.measures import (
    concept_similarity,
    contribution_alignment,
    head_collaboration,
    head_composition,
    layer_similarity,
    norm_impact,
    residual_effectiveness,
)
from zsei.records import Matrix
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.head_weights import head_weights
from zsei.trace.run import evidence_to_trace
from zsei.trace.taps import find_taps
from zsei.trace.view import Measured, View

VALUES = Objective(name="fidelity", output="values", reason="")


def view_of(subject: Subject) -> View:
    engine = engine_for(subject)
    taps = find_taps(subject, engine)
    evidence = collect(
        engine, taps, subject.objective, subject.calibration, probes=2, seed=0, rows=512
    )
    measurements = evidence_to_trace(subject, taps, evidence).measurements
    return View(subject=subject, engine=engine, taps=taps, evidence=evidence,
                measurements=measurements, settings=SMALL)  # fmt: skip


@cache
def of_family(name: str) -> View:
    return view_of(family(name))


@cache
def transformer() -> tuple[Transformer, View]:
    """Three pre-norm blocks whose norms have gains of their own."""
    torch.manual_seed(3)
    model = Transformer(32, 32, 32).eval()
    for number, module in enumerate(model.modules()):
        if isinstance(module, nn.LayerNorm):
            module.weight.data = 1 + 0.5 * seeded(WIDTH, seed=number)
    return model, view_of(subject_of(model, [seeded(24, 6, WIDTH)], VALUES))


def block(model: Transformer, number: int) -> Block:
    found = model.blocks[number]
    assert isinstance(found, Block)
    return found


def entry(found: Measured, name: str, row: str, column: str) -> float | None:
    matrix = matrix_of(found, name)
    return matrix.values[matrix.rows.index(row)][matrix.columns.index(column)]


def matrix_of(found: Measured, name: str) -> Matrix:
    return next(m for m in found.matrices if m.name == name)


def number_of(found: Measured, component: str, name: str) -> float | None:
    return next(m.value for m in found.measurements[component] if m.name == name)


# -- composition ------------------------------------------------------------------------------


def _compare(found: Measured, earlier: str, later: str, expected: dict[str, float]) -> None:
    for kind, value in expected.items():
        assert entry(found, f"{kind}_composition", earlier, later) == pytest.approx(value, abs=2e-5)


def test_composition_before_norms_equals_whole_products() -> None:
    model, view = transformer()
    found = head_composition.HeadComposition().measure(view)
    weights, norms = [], []
    for number in range(3):
        part = block(model, number).attention
        weights.append({"q": part.query.weight, "k": part.key.weight, "v": part.value.weight,
                        "o": part.output.weight})  # fmt: skip
        norms.append(norm_matrix(block(model, number).norm1.weight, centres=True))
    for a, b, g, h in ((0, 1, 0, 0), (0, 2, 1, 3), (1, 2, 2, 1)):
        expected = composition_by_matrices(
            head_matrices(weights[a], g, heads=HEADS, key_heads=HEADS),
            head_matrices(weights[b], h, heads=HEADS, key_heads=HEADS),
            norms[a], norms[b], norms[b],
        )  # fmt: skip
        _compare(found, f"blocks.{a}/head.{g}", f"blocks.{b}/head.{h}", expected)
    assert entry(found, "v_composition", "blocks.1/head.0", "blocks.0/head.0") is None
    assert entry(found, "v_composition", "blocks.1/head.0", "blocks.1/head.1") is None


def test_composition_behind_norms_goes_through_every_norm_of_the_stream() -> None:
    """torch's encoder: projections in one matrix, a norm after every sum."""
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.data = parameter.data + 0.2 * seeded(*parameter.shape, seed=number)
    torch.backends.mha.set_fastpath_enabled(False)
    view = view_of(subject_of(model, [seeded(16, 5, WIDTH)], VALUES))
    found = head_composition.HeadComposition().measure(view)
    weights = []
    for number in (0, 1):
        q, k, v = model.get_parameter(f"layers.{number}.self_attn.in_proj_weight").chunk(3)
        output = model.get_parameter(f"layers.{number}.self_attn.out_proj.weight")
        weights.append({"q": q, "k": k, "v": v, "o": output})
    norms = [
        norm_matrix(model.get_parameter(f"layers.0.norm{i}.weight"), centres=True) for i in (1, 2)
    ]
    expected = composition_by_matrices(
        head_matrices(weights[0], 2, heads=HEADS, key_heads=HEADS),
        head_matrices(weights[1], 1, heads=HEADS, key_heads=HEADS),
        np.eye(WIDTH), norms[1], norms[0] @ norms[1],
    )  # fmt: skip
    _compare(found, "layers.0/head.2", "layers.1/head.1", expected)


def test_composition_of_grouped_queries_shares_keys_and_values() -> None:
    view = of_family("llama")
    found = head_composition.HeadComposition().measure(view)
    model = view.subject.model
    weights, norms = [], []
    for number in (0, 1):
        layer = f"model.layers.{number}"
        names = {n: f"{layer}.self_attn.{n}_proj.weight" for n in "qkvo"}
        weights.append({n: model.get_parameter(name) for n, name in names.items()})
        gain = model.get_parameter(f"{layer}.input_layernorm.weight")
        norms.append(norm_matrix(gain, centres=False))
    for g, h in ((0, 3), (1, 2)):
        expected = composition_by_matrices(
            head_matrices(weights[0], g, heads=4, key_heads=2),
            head_matrices(weights[1], h, heads=4, key_heads=2),
            norms[0], norms[1], norms[1],
        )  # fmt: skip
        _compare(found, f"model.layers.0/head.{g}", f"model.layers.1/head.{h}", expected)


def test_fused_projections_of_gpt2_are_split() -> None:
    view = of_family("gpt2")
    [first, _], unknown = head_weights(view)
    assert unknown == ()
    fused = view.subject.model.get_parameter("transformer.h.0.attn.c_attn.weight")
    q, k, v = (part.reshape(WIDTH, HEADS, -1).permute(1, 0, 2) for part in fused.chunk(3, 1))
    for port, expected in ((first.query, q), (first.key, k), (first.value, v)):
        assert torch.equal(port.weight, expected)


def test_cross_attention_reads_what_the_encoder_writes() -> None:
    found = head_composition.HeadComposition().measure(of_family("t5"))
    reading = "decoder.block.0.layer.1.EncDecAttention/head.0"
    assert entry(found, "k_composition", "encoder.block.1/head.2", reading) is not None
    assert entry(found, "q_composition", "encoder.block.1/head.2", reading) is None


def test_chance_is_what_random_turns_give() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(24, 24)), generator.normal(size=(24, 4))
    right = right @ generator.normal(size=(4, 24))  # of low rank, as heads are
    squares = []
    for _ in range(400):
        turn, _ = np.linalg.qr(generator.normal(size=(24, 24)))
        size = np.linalg.norm(left) * np.linalg.norm(right)
        squares.append((np.linalg.norm(left @ turn @ right) / size) ** 2)
    error = float(3 * np.std(squares) / math.sqrt(len(squares)))
    assert np.mean(squares) == pytest.approx(1 / 24, abs=error)


def test_a_head_that_reads_what_another_writes_composes_most() -> None:
    torch.manual_seed(1)
    model = Transformer(32, 32).eval()
    with torch.no_grad():
        written = block(model, 0).attention.output.weight[:, 8:16]
        block(model, 1).attention.value.weight[16:24] = 5 * written.T
    found = head_composition.HeadComposition().measure(
        view_of(subject_of(model, [seeded(16, 5, WIDTH)], VALUES))
    )
    [best] = [m for m in found.measurements["blocks.1/head.2"] if m.name == "v_composition"]
    assert best.note == "most with blocks.0/head.1"
    matrix = matrix_of(found, "v_composition")
    values = {(r, c): v for r, row in zip(matrix.rows, matrix.values, strict=True)
              for c, v in zip(matrix.columns, row, strict=True) if v is not None}  # fmt: skip
    assert max(values, key=lambda pair: values[pair]) == ("blocks.0/head.1", "blocks.1/head.2")


def test_many_heads_keep_their_strongest_pair_without_the_matrix() -> None:
    measure = head_composition.HeadComposition(most_heads=3)
    found = measure.measure(transformer()[1])
    assert found.matrices == ()
    assert number_of(found, "blocks.2/head.0", "q_composition") is not None
    bounded = head_composition.HeadComposition(most_operations=1e5).measure(transformer()[1])
    assert any("left out" in note for note in bounded.notes)


# -- likeness ---------------------------------------------------------------------------------


def test_likeness_of_heads_equals_that_of_what_they_write() -> None:
    model, view = transformer()
    found = head_collaboration.HeadCollaboration().measure(view)
    written = {}
    for tap in view.taps.attentions:
        for h, head in enumerate(tap.heads):
            linear = model.get_submodule(tap.component.replace("/", ".") + ".output")
            weight = linear.get_parameter("weight").detach().double().numpy()
            own = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            written[head] = written_by_head(view.rows[tap.core], weight[:, own].T, h, HEADS)
    for a, b in (("blocks.0/head.0", "blocks.0/head.1"), ("blocks.0/head.3", "blocks.2/head.2")):
        expected = {
            "head_cosine": cosine_by_loops(written[a].ravel(), written[b].ravel()),
            "head_overlap": overlap_by_covariances(written[a], written[b]),
        }
        for name in ("head_cosine", "head_overlap"):
            assert entry(found, name, a, b) == pytest.approx(expected[name], abs=3e-5)
            assert entry(found, name, b, a) == entry(found, name, a, b)
        gram = written[a].T @ written[b]
        whole = np.linalg.norm(gram) ** 2 / (
            np.linalg.norm(written[a].T @ written[a]) * np.linalg.norm(written[b].T @ written[b])
        )
        assert entry(found, "head_cka", a, b) == pytest.approx(whole, abs=3e-5)
    assert entry(found, "head_cosine", "blocks.1/head.1", "blocks.1/head.1") == 1


def test_parts_are_compared_without_the_bias_of_few_rows() -> None:
    _, view = transformer()
    found = layer_similarity.LayerSimilarity().measure(view)
    outputs = view.subject.anatomy.outputs
    for a, b in (("blocks.0", "blocks.2"), ("blocks.0/attention", "blocks.1/mlp")):
        x, y = (view.rows[outputs[part]] for part in (a, b))
        assert entry(found, "part_similarity", a, b) == pytest.approx(
            debiased_cka_by_loops(x, y), abs=1e-5
        )
    x, y = view.rows[outputs["blocks.0"]], view.rows[outputs["blocks.1"]]
    assert entry(found, "layer_similarity", "blocks.0", "blocks.1") == pytest.approx(
        cka_by_kernels(x, y), abs=1e-5
    )
    x, y = view.rows[outputs["blocks.0/mlp"]], view.rows[outputs["blocks.1/mlp"]]
    expected = cosine_by_loops((x - x.mean(0)).flatten().numpy(), (y - y.mean(0)).flatten().numpy())
    assert entry(found, "branch_cosine", "blocks.0/mlp", "blocks.1/mlp") == pytest.approx(
        expected, abs=1e-5
    )


def test_debiased_cka_of_unrelated_values_is_near_zero_however_wide_they_are() -> None:
    rows = seeded(40, 90), seeded(40, 90, seed=2)
    kernels = [layer_similarity._debiased(x @ x.T) for x in rows]
    product = float((kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm()))
    assert abs(product) < 0.1
    assert cka_by_kernels(*rows) > 0.5


# -- contributions ----------------------------------------------------------------------------


def test_alignment_equals_a_loop_over_rows() -> None:
    _, view = transformer()
    found = contribution_alignment.ContributionAlignment().measure(view)
    site = view.subject.anatomy.site("blocks.1/attention", "head")
    branch = view.subject.anatomy.site("blocks.2/mlp", "branch")
    assert site is not None
    assert branch is not None
    heads = contributions_by_loops(view.rows[site.node], view.gradient_rows[site.node], HEADS)
    [mlp] = contributions_by_loops(view.rows[branch.node], view.gradient_rows[branch.node], 1)
    for name, first, second in (
        ("blocks.1/head.3", heads[0], heads[3]), ("blocks.2/mlp", heads[0], mlp)
    ):  # fmt: skip
        value = entry(found, "contribution_alignment", "blocks.1/head.0", name)
        assert value == pytest.approx(cosine_by_loops(first, second), abs=2e-5)
    coherence = (heads.sum(0) ** 2).sum() / (heads**2).sum()
    measured = number_of(found, "blocks.1/attention", "contribution_coherence")
    assert measured == pytest.approx(coherence, rel=1e-4)


def test_a_head_that_writes_the_opposite_is_aligned_at_minus_one() -> None:
    torch.manual_seed(2)
    model = Transformer(32, 32).eval()
    attention = block(model, 0).attention
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.weight[8:16], part.bias[8:16] = part.weight[:8], part.bias[:8]
        attention.output.weight[:, 8:16] = -attention.output.weight[:, :8]
    view = view_of(subject_of(model, [seeded(16, 5, WIDTH)], VALUES))
    found = contribution_alignment.ContributionAlignment().measure(view)
    value = entry(found, "contribution_alignment", "blocks.0/head.0", "blocks.0/head.1")
    assert value == pytest.approx(-1, abs=1e-4)
    [m] = [m for m in found.measurements["blocks.0/head.0"] if m.name == "contribution_alignment"]
    assert m.note == "least with blocks.0/head.1"


def test_too_few_samples_align_nothing_and_say_how_many_it_takes() -> None:
    model = Transformer(32).eval()
    view = view_of(subject_of(model, [seeded(4, 6, WIDTH)], VALUES, batch_size=4))
    found = contribution_alignment.ContributionAlignment().measure(view)
    assert found.matrices == ()
    [m] = found.measurements["blocks.0/head.0"]
    assert m.state == "could not tell"
    assert m.note == "4 samples; at least 8 are needed"


# -- concepts ---------------------------------------------------------------------------------


@cache
def grouped() -> View:
    """Two groups that differ in one channel of the input, which head 1 of block 0 alone reads."""
    torch.manual_seed(4)
    model = Transformer(32, 32).eval()
    attention = block(model, 0).attention
    with torch.no_grad():
        attention.value.weight[:, 0] = 0
        attention.value.weight[8:16] = 0
        attention.value.weight[8:16, 0] = 3
    first, second = seeded(20, 6, WIDTH), seeded(20, 6, WIDTH, seed=2)
    first[..., 0] += 4
    data = {"up": first, "down": second}
    return view_of(prepare(model, data, settings=Settings(batch_size=16, samples=40, seed=0)))


def test_concept_scores_equal_a_loop_over_samples() -> None:
    view = grouped()
    found = concept_similarity.ConceptSimilarity().measure(view)
    groups = list(view.sample_groups)
    site = view.subject.anatomy.site("blocks.0/attention", "head")
    assert site is not None
    rows, samples = view.rows[site.node].double().numpy(), view.row_samples[site.node].numpy()
    means = np.stack([rows[samples == n].mean(0) for n in range(len(groups))])
    for head in range(HEADS):
        scores = concept_scores_by_loops(means[:, head * 8 : (head + 1) * 8], groups)
        centred = scores - scores.mean(0)
        between = sum(
            groups.count(g) * (centred[[x == g for x in groups]].mean(0) ** 2).sum()
            for g in sorted(set(groups))
        )
        value = number_of(found, f"blocks.0/head.{head}", "concept_separation")
        assert value == pytest.approx(between / (centred**2).sum(), rel=1e-5)
    knows = number_of(found, "blocks.0/head.1", "concept_separation") or 0
    assert knows > 0.9
    assert knows > 2 * (number_of(found, "blocks.0/head.0", "concept_separation") or 0)


def test_parts_that_know_the_group_alike_are_similar() -> None:
    found = concept_similarity.ConceptSimilarity().measure(grouped())
    matrix = matrix_of(found, "concept_similarity")
    assert "blocks.0/head.1" in matrix.rows
    assert "blocks.0/head.0" not in matrix.rows
    value = entry(found, "concept_similarity", "blocks.0/head.1", "blocks.0/attention")
    assert value is not None
    assert value > 0.9


def test_one_group_has_no_concept_and_small_groups_are_not_told() -> None:
    assert concept_similarity.ConceptSimilarity().measure(transformer()[1]) == Measured()
    found = concept_similarity.ConceptSimilarity(fewest_samples=500).measure(grouped())
    assert found.notes == ("concepts: could not tell; two groups of 500 samples are needed",)


# -- residual joins and norms -----------------------------------------------------------------


def test_residual_joins_equal_a_loop_over_rows() -> None:
    _, view = transformer()
    found = residual_effectiveness.ResidualEffectiveness().measure(view)
    join = next(j for j in view.taps.joins if j.component.startswith("blocks.1/"))
    gradient = view.gradient_rows[join.node]
    expected = residual_by_loops(view.rows[join.skip], view.rows[join.branch], gradient)
    for name, value in expected.items():
        assert number_of(found, join.component, name) == pytest.approx(value, rel=1e-4)
    arriving = view.gradient_rows[join.skip]
    shares = proximity_by_loops(arriving, [gradient, arriving - gradient])
    value = number_of(found, join.component, "skip_gradient_share")
    assert value == pytest.approx(shares[0], rel=1e-4)


def test_what_a_block_makes_of_its_operands_shows_in_their_shares() -> None:
    """A loud branch leaves nothing of the skip, a constant one nothing of the branch."""
    for factor, expected in ((1000.0, 1.0), (0.0, 0.0)):
        torch.manual_seed(6)
        model = Transformer(32, 32).eval()
        with torch.no_grad():
            block(model, 1).mlp.down.weight *= factor
        view = view_of(subject_of(model, [seeded(16, 5, WIDTH)], VALUES))
        found = residual_effectiveness.ResidualEffectiveness().measure(view)
        join = "blocks.1/residual.2"
        share = number_of(found, join, "branch_effect_share")
        assert share == pytest.approx(expected, abs=1e-3)
        assert number_of(found, join, "residual_effectiveness") == pytest.approx(0, abs=4e-3)


def test_norms_are_compared_with_what_enters_them() -> None:
    model, view = transformer()
    found = norm_impact.NormImpact().measure(view)
    entered = view.rows[view.subject.anatomy.outputs["blocks.0"]]
    norm = model.get_submodule("blocks.1.norm1")
    left = norm(entered).detach()
    sizes = [float(x.double().square().mean().sqrt()) for x in (entered, left)]
    peaks = [float(x.abs().max()) / s for x, s in zip((entered, left), sizes, strict=True)]
    rows = [x.double().square().mean(1).sqrt() for x in (entered, left)]
    spreads = [float(r.std() / r.mean()) for r in rows]
    ranks = [effective_rank_by_svd(x) for x in (entered, left)]
    for name, pair in (("norm_rms_ratio", sizes), ("norm_outlier_ratio", peaks),
                       ("norm_size_spread", spreads), ("norm_rank_ratio", ranks)):  # fmt: skip
        value = number_of(found, "blocks.1.norm1", name)
        assert value == pytest.approx(pair[1] / pair[0], rel=1e-4), name


def test_a_loud_gain_makes_outliers() -> None:
    torch.manual_seed(8)
    model = Transformer(32, 32).eval()
    with torch.no_grad():
        block(model, 1).norm2.weight[3] = 200
    view = view_of(subject_of(model, [seeded(16, 5, WIDTH)], VALUES))
    found = norm_impact.NormImpact().measure(view)
    assert (number_of(found, "blocks.1.norm2", "norm_outlier_ratio") or 0) > 2
    assert (number_of(found, "blocks.1.norm2", "norm_rank_ratio") or 9) < 0.2
    assert number_of(found, "blocks.1.norm1", "norm_outlier_ratio") == pytest.approx(1, abs=0.5)


def test_what_enters_unwatched_could_not_be_told() -> None:
    found = norm_impact.NormImpact().measure(of_family("bert"))
    states = {m.state for rows in found.measurements.values() for m in rows}
    [first] = found.measurements["embeddings.LayerNorm"]
    assert first.state == "could not tell"
    assert "measured" in states
