"""Measures of the forward flow against plain loops."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.activations import (
    divergence_by_loops,
    explained_by_loops,
    routing_by_loops,
    slope_by_differences,
    top_share_by_loops,
)
from prepared import SMALL, family, seeded, subject_of, traced
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.measures.activations import ActivationProfile
from zsei.measures.attention_consistency import AttentionConsistency
from zsei.measures.component_similarity import ComponentSimilarity
from zsei.measures.data_groups import DataGroups
from zsei.measures.head_kinds import HeadKinds
from zsei.measures.saturation import Saturation
from zsei.records import Measurement
from zsei.subject.objective import Objective
from zsei.subject.types import Subject
from zsei.trace.activation_functions import find_activations
from zsei.trace.attention_evidence import SharedAttention
from zsei.trace.attention_maps import routing
from zsei.trace.rows import linear_cka
from zsei.trace.run import trace
from zsei.trace.summary import Trace
from zsei.trace.view import Measure

VALUES = Objective(name="fidelity", output="values", reason="asked for")


class Two(nn.Module):
    """A linear, an activation function, a linear."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.up, self.down, self.function = nn.Linear(5, 20), nn.Linear(20, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)))


def made(function: Callable[[Tensor], Tensor], n: int = 32) -> tuple[Two, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Two(function).eval()
    x = seeded(n, 5)
    x[n // 2 :] += 1.5
    return model, x


def grouped(model: nn.Module, x: Tensor, names: tuple[str, ...] = ("low", "high")) -> Subject:
    """Batches of eight; the first half of the samples is the first group."""
    subject = subject_of(model, (x,), VALUES)
    count = len(subject.calibration)
    batches = tuple(
        replace(batch, groups=(names[i * len(names) // count],) * batch.size)
        for i, batch in enumerate(subject.calibration)
    )
    return replace(subject, calibration=batches)


def run(subject: Subject, *measures: Measure) -> Trace:
    found = trace(subject, SMALL, measures=measures)
    assert found.failures == ()
    return found


def test_each_group_has_its_own_profile() -> None:
    model, x = made(F.relu)
    found = run(grouped(model, x), ActivationProfile())
    with torch.no_grad():
        written = F.relu(model.up(x)), model.down(F.relu(model.up(x)))
    component = next(c for c, m in found.measurements.items() if "zero_share" in m and c == "down")
    for group, chosen in (("low", slice(0, 16)), ("high", slice(16, 32))):
        rows = written[1][chosen].double()
        here = {m.name: m for m in found.groups[group][component] if m.name != "sensitivity"}
        per_sample = rows.square().mean(1).sqrt()
        rms = float(rows.square().mean().sqrt())
        assert here["rms"].value == pytest.approx(float(per_sample.mean()), rel=1e-5)
        assert here["rms"].std == pytest.approx(float(per_sample.std()), rel=1e-4)
        assert here["mean_abs"].value == pytest.approx(float(rows.abs().mean()), rel=1e-5)
        assert here["outlier_ratio"].value == pytest.approx(float(rows.abs().max()) / rms, rel=1e-5)
        assert here["rms"].n == 16
    assert set(found.groups) == {"low", "high"}


def test_exact_zeros_are_counted() -> None:
    found = traced("mlp").measurements
    shares = [m["zero_share"].value for m in found.values() if "zero_share" in m]
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Threshold(0.2, 0.0), nn.Linear(20, 4))
    assert run(grouped(model, seeded(16, 5)), ActivationProfile()).groups["low"]


def test_the_share_a_group_explains_is_that_of_plain_loops() -> None:
    model, x = made(torch.tanh)
    subject = grouped(model, x)
    found = run(subject, DataGroups())
    with torch.no_grad():
        means = model.up(x).double().numpy()
    plain, corrected = explained_by_loops(means, ["low"] * 16 + ["high"] * 16)
    measured = found.measurements["up"]["group_variance_share"]
    assert measured.value == pytest.approx(corrected, rel=1e-4)
    assert f"{plain:.3f}" in measured.note
    assert 0 < corrected < plain


def test_groups_of_noise_explain_nothing() -> None:
    model, _ = made(torch.tanh)
    found = run(grouped(model, seeded(128, 5, seed=9)), DataGroups())
    assert (found.measurements["up"]["group_variance_share"].value or 0) < 0.03


def test_one_sample_of_a_group_cannot_tell() -> None:
    model, x = made(torch.tanh)
    subject = grouped(model, x)
    first = replace(subject.calibration[0], groups=("one", *["many"] * 7))
    found = run(replace(subject, calibration=(first,)), DataGroups())
    measured = found.measurements["up"]["group_variance_share"]
    assert (measured.state, measured.value) == ("could not tell", None)
    assert "2 samples of every group" in measured.note
    only = run(subject_of(model, (x,), VALUES), DataGroups())
    assert "group_variance_share" not in only.measurements["up"]


def _written_out_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * x.pow(3))))


@pytest.mark.parametrize(
    "function",
    [
        F.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.softplus, F.hardswish, F.elu,
        lambda x: x * torch.sigmoid(x), _written_out_gelu,
        lambda x: F.gelu(x, approximate="tanh"), lambda x: F.leaky_relu(x, 0.005),
    ],
    ids=[
        "relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "hardswish", "elu", "written silu",
        "written gelu", "gelu by tanh", "leaky relu",
    ],
)  # fmt: skip
def test_saturation_is_the_share_of_flat_entries(function: Callable[[Tensor], Tensor]) -> None:
    model, x = made(function)
    with torch.no_grad():
        model.up.weight *= 4
        entered = model.up(x)
    found = run(grouped(model, x), Saturation())
    [component] = [c for c, m in found.measurements.items() if "saturated_share" in m]
    measured = found.measurements[component]
    slope = slope_by_differences(function, entered)
    flat = slope.abs() < 0.01
    assert measured["saturated_share"].value == pytest.approx(float(flat.double().mean()), abs=2e-3)
    stuck = (flat.double().mean(0) >= 0.99).nonzero().flatten().tolist()
    assert measured["saturated_units"].value == len(stuck)
    low = {m.name: m for m in found.groups["low"][component]}["saturated_share"]
    assert low.value == pytest.approx(float(flat[:16].double().mean()), abs=4e-3)


def test_a_function_written_out_is_one_function() -> None:
    subject = family("gpt2")
    assert subject.program is not None
    found = find_activations(subject.program, subject.anatomy)
    assert [tap.component for tap in found] == ["transformer.h.0/mlp", "transformer.h.1/mlp"]
    x = torch.linspace(-4, 4, 33)[None]
    expected = slope_by_differences(lambda v: F.gelu(v, approximate="tanh"), x)
    assert torch.allclose(found[0].slope(x).double(), expected, atol=1e-5)


def test_divergence_of_attention_is_that_of_plain_loops() -> None:
    weights = seeded(6, 3, 5, 5).softmax(-1)
    shared = SharedAttention()
    for one in weights:
        shared.add(one, torch.ones(5, dtype=torch.bool))
    found = shared.divergence(2)
    assert found is not None
    for head in range(3):
        expected = divergence_by_loops(weights[:, head].double().numpy())
        assert float(found[head]) == pytest.approx(expected, rel=1e-4)


def test_padded_queries_take_no_part() -> None:
    weights = seeded(4, 1, 5, 5).softmax(-1)
    shared = SharedAttention()
    real = torch.tensor([[1, 1, 1, 1, 1]] * 2 + [[1, 1, 0, 0, 0]] * 2, dtype=torch.bool)
    for one, counted in zip(weights, real, strict=True):
        shared.add(one, counted)
    found = shared.divergence(3)
    assert found is not None
    expected = divergence_by_loops(weights[:, 0, :2].double().numpy())
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)
    assert shared.divergence(5) is None


def test_consistency_needs_two_inputs() -> None:
    shared = SharedAttention()
    shared.add(torch.full((1, 2, 2), 0.5), torch.ones(2, dtype=torch.bool))
    assert shared.divergence(AttentionConsistency().fewest) is None
    measured = traced("vit").measurements["vit.layers.0/head.0"]["attention_divergence"]
    assert measured.value is not None
    assert 0 <= measured.value <= np.log2(measured.n)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_routing_is_the_norm_of_what_each_key_brings(key_heads: int) -> None:
    weights = seeded(2, 4, 3, 3).softmax(-1)
    value, projection = seeded(2, key_heads, 3, 5, seed=2), seeded(4, 5, 12, seed=3)
    found = routing(weights, value, projection, None)
    fan_in, first = routing_by_loops(weights, value, projection)
    assert np.allclose(found["effective_fan_in"].numpy(), fan_in, rtol=1e-4)
    assert np.allclose(found["routed_first_mass"].numpy(), first, rtol=1e-4)


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"first_token_mass": 0.8}, "first token"),
        ({"diagonal_mass": 0.7}, "diagonal"),
        ({"previous_token_mass": 0.6, "first_token_mass": 0.2}, "previous token"),
        ({"delimiter_mass": 0.9, "first_token_mass": 0.5}, "delimiter"),
        ({"attention_distance": 1.2}, "local"),
        ({"attention_entropy": 0.95, "first_token_mass": 0.6}, "broad"),
        ({}, "mixed"),
    ],
)
def test_heads_are_named_by_what_holds_their_attention(known: dict[str, float], kind: str) -> None:
    patterns = {"attention_entropy": 0.4, "first_token_mass": 0.1, "attention_distance": 9.0}
    assert HeadKinds().kind(patterns | known)[0] == kind


def test_few_neurons_carry_what_loops_say() -> None:
    subject = family("bert")
    found = traced("bert").measurements["encoder.layer.0/mlp"]
    site = subject.anatomy.site("encoder.layer.0/mlp", "neuron")
    assert site is not None
    assert subject.program is not None
    from oracles.interpreter import all_values

    rows = []
    for batch in subject.calibration:
        value = all_values(subject.program, batch.inputs)[site.node]
        assert batch.mask is not None
        rows.append(value[batch.mask])
    weight = subject.model.get_parameter("encoder.layer.0.output.dense.weight")
    activations = torch.cat(rows)
    expected = top_share_by_loops(activations, weight, 6)
    assert found["top_neuron_share"].value == pytest.approx(expected, rel=1e-3)
    limit = 1e-3 * float(activations.square().mean().sqrt())
    assert found["always_on_units"].value == int((activations > limit).all(0).sum())


def test_rank_in_is_the_rank_of_what_the_first_linear_reads() -> None:
    found = traced("bert").measurements
    entered = found["encoder.layer.0.attention.output.LayerNorm"]["effective_rank"].value
    mlp = found["encoder.layer.0/mlp"]
    assert mlp["rank_in"].value == entered
    out = mlp["effective_rank"].value
    assert out is not None
    assert entered is not None
    assert mlp["rank_ratio"].value == pytest.approx(out / entered)


def test_similarity_of_parts_is_cka_of_their_rows() -> None:
    model, x = made(F.relu)
    found = run(grouped(model, x), ComponentSimilarity())
    [matrix] = [m for m in found.matrices if m.name == "component_similarity"]
    with torch.no_grad():
        up = model.up(x)
        parts = {"up": up, "down": model.down(F.relu(up))}
    names = [name for name in matrix.rows if name in parts]
    for first in names:
        for second in names:
            value = matrix.values[matrix.rows.index(first)][matrix.rows.index(second)]
            expected = linear_cka(parts[first], parts[second])
            assert value == pytest.approx(expected, abs=1e-5)
    assert all(matrix.values[i][i] == pytest.approx(1) for i in range(len(matrix.rows)))


def test_parts_of_another_resolution_are_compared_by_sample() -> None:
    [matrix] = [m for m in traced("resnet").matrices if m.name == "component_similarity"]
    assert len(matrix.rows) >= 4
    for i, row in enumerate(matrix.values):
        for j, value in enumerate(row):
            assert value is None or 0 <= value <= 1
            assert value == matrix.values[j][i]


def test_what_could_not_be_told_has_no_number() -> None:
    for name in ("bert", "vit", "resnet"):
        for rows in traced(name).measurements.values():
            for m in rows.values():
                assert isinstance(m, Measurement)
                assert (m.value is None) == (m.state == "could not tell")
                assert m.value is not None or m.note
