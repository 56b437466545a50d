"""Writers, norms and readers as they are read off programs."""

import pytest
import torch
from prepared import family, seeded
from torch import Tensor, nn

from zsei.trace.edge_norms import FrozenNorm
from zsei.trace.edge_plan import EdgePlan
from zsei.trace.edge_values import joined_whole, share_of, whole_run
from zsei.trace.engine import engine_for
from zsei.trace.taps import find_taps


def _plan(name: str) -> EdgePlan:
    subject = family(name)
    return find_taps(subject, engine_for(subject)).edges


def _readings(plan: EdgePlan, port: str) -> list[str]:
    return [name for reader in plan.readers for name, p in reader.names if p == port]


def test_grouped_queries_share_a_key_reader_that_goes_by_its_first_query_head() -> None:
    plan = _plan("llama")
    head = "model.layers.0/head."
    assert [n for n in _readings(plan, "q") if head in n] == [f"{head}{h}" for h in range(4)]
    assert [n for n in _readings(plan, "k") if head in n] == [f"{head}0", f"{head}2"]


def test_a_fused_projection_is_told_apart_by_port_and_head() -> None:
    plan = _plan("gpt2")
    fused = [r for r in plan.readers if r.by_head and r.names[0][0] == "transformer.h.0/head.0"]
    assert [reader.names[0][1] for reader in fused] == ["q", "k", "v"]
    assert {reader.entries[0].node for reader in fused} == {"addmm"}
    columns = [reader.entries[0].features for reader in fused]
    assert columns == [slice(0, 32), slice(32, 64), slice(64, 96)]


def test_cross_attention_reads_queries_and_keys_from_two_streams() -> None:
    plan = _plan("t5")
    head = "decoder.block.0.layer.1.EncDecAttention/head.0"
    place = {port: r.place for r in plan.readers for name, port in r.names if name == head}
    writers = {
        port: {plan.stream.writers[t.writer].component for t in plan.stream.terms[at]}
        for port, at in place.items()
    }
    assert all(name.startswith("decoder") for name in writers["q"])
    assert all(name.startswith("encoder") for name in writers["k"])
    assert place["k"] == place["v"]


def test_experts_and_their_router_are_one_reader() -> None:
    assert "model.layers.0/experts" in _readings(_plan("mixtral"), "in")
    assert not [name for name in _readings(_plan("mixtral"), "in") if name.endswith("gate")]


def test_a_post_norm_stream_passes_every_later_norm() -> None:
    plan = _plan("bert")
    last = plan.readers[-1]
    assert last.names == (("output", "in"),)
    passed = {
        name: len(term.norms)
        for term in plan.stream.terms[last.place]
        for name in plan.stream.writers[term.writer].names
    }
    assert passed["embeddings.word_embeddings"] == 5
    assert passed["encoder.layer.0/head.0"] == 4
    assert passed["encoder.layer.1/mlp"] == 1
    assert passed["encoder.layer.1.output.LayerNorm:bias"] == 0


@pytest.mark.parametrize("name", ["mlp", "lstm", "resnet"])
def test_what_has_no_stream_has_edges_of_its_program(name: str) -> None:
    plan = _plan(name)
    assert not plan.readers
    assert plan.program_edges


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


@pytest.mark.parametrize("centred", [True, False])
def test_a_frozen_norm_is_linear_in_summands_and_pulls_back_by_its_transpose(centred: bool) -> None:
    parts, weight = seeded(3, 5, 8, dtype=torch.float64), seeded(8, seed=2, dtype=torch.float64)
    bias = seeded(8, seed=3, dtype=torch.float64) if centred else None
    norm = FrozenNorm(
        component="n", source="x", weight=weight, bias=bias, centred=centred,
        statistic="variance" if centred else "mean square", eps=1e-6,
    )  # fmt: skip
    x = parts.sum(0)
    scale = norm.scale(x)
    carried = norm.carry(parts, scale).sum(0)
    expected = _rms(x, weight)
    if bias is not None:
        expected = nn.functional.layer_norm(x, (8,), weight, bias, 1e-6)
        carried = carried + bias
    torch.testing.assert_close(carried, expected)
    direction = seeded(5, 8, seed=4, dtype=torch.float64)
    forward = (norm.carry(parts[0], None) * direction).sum()
    torch.testing.assert_close(forward, (parts[0] * norm.pull(direction)).sum())


def test_samples_come_from_all_batches() -> None:
    assert [share_of(i, 3, 8) for i in range(3)] == [2, 3, 3]
    assert sum(share_of(i, 20, 8) for i in range(20)) == 8


def test_samples_of_several_batches_are_as_if_of_one() -> None:
    subject = family("gpt2")
    engine = engine_for(subject)
    taps = find_taps(subject, engine).edges.taps
    parts = [
        whole_run(engine, taps, subject.objective, batch, samples=2)
        for batch in subject.calibration[:2]
    ]
    both = joined_whole(parts)
    assert both.samples == 4
    name = next(name for name, axis in taps.gradients.items() if axis == 0)
    expected = torch.cat([part.gradients[0][name] for part in parts])
    assert torch.equal(both.gradients[0][name], expected)
    shared = [name for name, axis in taps.values.items() if axis is None and name in both.values]
    assert all(torch.equal(both.values[n], parts[0].values[n]) for n in shared)
