"""What heads look at, against plain loops, and heads as writers of their attention."""

import pytest
import torch
from oracles.interpreter import all_values
from oracles.statistics import attention_by_loops, patterns_by_loops
from prepared import SMALL, family, seeded, subject_of, traced
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.measures import MEASURES
from zsei.subject.objective import Objective
from zsei.trace.attention_evidence import SAMPLES as ATTENTION_SAMPLES
from zsei.trace.attention_maps import AttentionCall, attention_weights, head_patterns
from zsei.trace.engine import engine_for
from zsei.trace.run import trace
from zsei.trace.taps import HeadTap, find_taps


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_weights_are_those_of_plain_loops(causal: bool, mask: str) -> None:
    query, key = seeded(2, 4, 5, 3), seeded(2, 2, 5, 3, seed=2)
    given = None
    if mask != "none":
        allowed = torch.ones(2, 1, 1, 5, dtype=torch.bool)
        allowed[1, ..., 3:] = False
        given = allowed if mask == "bool" else torch.where(allowed, 0.25, -1e9)
    call = AttentionCall(query=query, key=key, mask=given, causal=causal, scale=0.7)
    weights = attention_weights(call)
    assert torch.allclose(
        weights.double(), torch.tensor(attention_by_loops(query, key, given, causal, 0.7)),
        atol=1e-6,
    )  # fmt: skip
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 5), atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_patterns_are_those_of_plain_loops(padded: bool) -> None:
    weights = seeded(2, 3, 5, 5).softmax(-1).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    real = torch.ones(2, 5, dtype=torch.bool)
    real[1, 3:] = False
    weights[0, :, 4, 1:] *= 1e-3
    delimiters = torch.tensor([[True, False, False, True, False], [False] * 4 + [True]])
    found = head_patterns(weights, real if padded else None, delimiters)
    expected = patterns_by_loops(
        weights.double().numpy(), real.numpy() if padded else None, delimiters.numpy()
    )
    assert float(found["tiny_weight_share"].max()) > 0
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert torch.allclose(found[name].double(), torch.tensor(values), atol=1e-6), name


def test_patterns_of_known_attention() -> None:
    diagonal = torch.eye(4)[None, None]
    found = {name: float(value) for name, value in head_patterns(diagonal, None).items()}
    assert found == {
        "attention_entropy": 0.0, "first_token_mass": 0.25, "diagonal_mass": 1.0,
        "previous_token_mass": 0.0, "attention_distance": 0.0, "tiny_weight_share": 0.0,
    }  # fmt: skip
    uniform = torch.full((1, 1, 4, 4), 0.25)
    assert float(head_patterns(uniform, None)["attention_entropy"]) == pytest.approx(1)


def _taps(name: str) -> tuple[HeadTap, ...]:
    subject = family(name)
    return find_taps(subject, engine_for(subject)).attentions


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "patchtst", "encoder"])
def test_recomputed_weights_give_what_the_fused_call_gave(name: str) -> None:
    """weights · v is the attention's own output, grouped queries and masks included."""
    subject = family(name)
    batch = subject.calibration[0]
    values = all_values(subject.program, batch.inputs)
    taps = _taps(name)
    assert len(taps) == 2
    for tap in taps:
        call = AttentionCall(
            query=values[tap.query], key=values[tap.key],
            mask=values[tap.mask] if tap.mask else None, causal=tap.causal, scale=tap.scale,
        )  # fmt: skip
        weights = attention_weights(call)
        core = subject.program.node(tap.core)
        value = values[core.args[2].name]
        value = value.repeat_interleave(weights.shape[1] // value.shape[1], 1)
        assert torch.allclose(weights @ value, values[tap.core], atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "encoder"])
def test_heads_write_their_attention(name: str) -> None:
    """Σ_h z_h W_O^h plus a constant bias is what the attention writes."""
    subject = family(name)
    batch = subject.calibration[0]
    values = all_values(subject.program, batch.inputs)
    for tap in _taps(name):
        assert tap.projection is not None
        core = values[tap.core]
        written = torch.einsum("nhtd,hdc->ntc", core, tap.projection)
        whole = values[subject.anatomy.outputs[tap.component]]
        rest = (whole.reshape(written.shape) - written).flatten(0, -2)
        assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-5)
        shares = [traced(name).shares[head, tap.component] for head in tap.heads]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0


def test_patterns_are_measured_for_every_head() -> None:
    subject, trace = family("bert"), traced("bert")
    heads = [c for c in subject.anatomy.components if c.kind == "head"]
    assert len(heads) == 8
    for head in heads:
        entropy = trace.measurements[head.id]["attention_entropy"]
        assert entropy.value is not None
        assert 0 <= entropy.value <= 1
        assert entropy.n == sum(min(ATTENTION_SAMPLES, b.size) for b in subject.calibration)


def test_similarity_of_heads_is_one_for_copies_and_symmetric() -> None:
    for similarity in traced("bert").head_similarity.values():
        assert torch.allclose(torch.tensor(similarity.diagonal()), torch.ones(4).double())
        assert (abs(similarity - similarity.T) < 1e-9).all()
        assert (abs(similarity) <= 1 + 1e-9).all()


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_a_mask_without_samples_is_for_all_of_them(axes: int) -> None:
    """A plain [t, t] mask, as hand-written models use it, beside [1, t, t] and [1, 1, t, t]."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 24), nn.Linear(8, 8)
            allowed = torch.ones(6, 6, dtype=torch.bool).tril()
            self.register_buffer("allowed", allowed.view(*[1] * (axes - 2), 6, 6))

        def forward(self, x: Tensor) -> Tensor:
            parts = self.inner(x).view(len(x), 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*parts, attn_mask=self.allowed)
            return x + self.outer(mixed.transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    values = Objective(name="fidelity", output="values", reason="")
    subject = subject_of(Masked().eval(), [seeded(16, 6, 8)], values)
    measured = trace(subject, SMALL, measures=MEASURES)
    assert measured.failures == ()
    heads = [c.id for c in subject.anatomy.components if c.kind == "head"]
    assert heads
    for head in heads:
        assert measured.measurements[head]["attention_entropy"].value is not None
