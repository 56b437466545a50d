"""Attention backends: the same outputs, another kernel, nothing left changed; and the cache."""

from typing import Any

import pytest
import torch
from factories import tiny_bert, tiny_encoder, tiny_gpt2, tiny_llama, tiny_mlp, tiny_t5, tiny_vit
from oracles.unpadded import greedy_tokens
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import token_workload, workload

from zsei.errors import SpeedUpRefused, UsageError
from zsei.speedups import Step, carry_out
from zsei.speedups.attention_backend import AttentionBackend, AttentionBackendParams, kernel
from zsei.speedups.kv_cache import KvCache, generation, prompts
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import EXACT, Params
from zsei.speedups.workload import Workload
from zsei.subject.program import model_hash
from zsei.timing.peak import peak_memory

HEADS, WIDTH = 2, 16


class ByHand(nn.Module):
    """Attention written out: no call of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, sequence: Tensor) -> Tensor:
        q, k, v = self.inside(sequence).chunk(3, -1)
        return (q @ k.transpose(-1, -2) / WIDTH**0.5).softmax(-1) @ v


class ByTorch(ByHand):
    """The same through `scaled_dot_product_attention`, in two heads and under a mask."""

    def forward(self, sequence: Tensor) -> Tensor:
        n, t, _ = sequence.shape
        parts = self.inside(sequence).chunk(3, -1)
        q, k, v = (part.view(n, t, HEADS, -1).transpose(1, 2) for part in parts)
        seen = torch.ones(t, t).tril().bool()
        return F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).reshape(n, t, WIDTH)


class AsksForWeights(nn.Module):
    """`nn.MultiheadAttention` that is asked for its weights, which torch's kernels do not give."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.attention(sequence, sequence, sequence)[0]


def sequences(length: int = 6) -> dict[str, Tensor]:
    return {"sequence": torch.randn(3, length, WIDTH)}


def made(family: str) -> Workload:
    if family == "bert":
        return token_workload(tiny_bert()[0])
    if family == "llama":
        return token_workload(tiny_llama()[0])
    if family == "vit":
        model, data = tiny_vit()
        return workload(model, {"pixel_values": data["pixel_values"][:2]})
    if family == "encoder":
        model, data = tiny_encoder()
        return workload(model, {"sequence": data["sequence"][:2]})
    return workload(ByTorch().eval(), sequences())


def applied(work: Workload, backend: str) -> Runnable:
    params = AttentionBackendParams.model_validate({"backend": backend})
    return AttentionBackend().apply(bare(work.model, work.input_names), params, work)


def ran(runnable: Runnable, work: Workload) -> Tensor:
    with torch.no_grad():
        return runnable(work.held_out[0].inputs)


def state() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(), torch.backends.mha.get_fastpath_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "llama", "vit", "encoder", "plain"])
def test_every_backend_that_runs_here_gives_the_same_outputs(family: str) -> None:
    work = made(family)
    before, was = model_hash(work.model), state()
    plain = ran(bare(work.model, work.input_names), work)
    variants = AttentionBackend().variants(work)
    assert [params.model_dump()["backend"] for params in variants] == [
        "sdpa", "sdpa-flash", "sdpa-math",
    ]  # fmt: skip
    for params in variants:
        found = ran(
            AttentionBackend().apply(bare(work.model, work.input_names), params, work), work
        )
        torch.testing.assert_close(found, plain, rtol=EXACT, atol=EXACT)
    assert model_hash(work.model) == before
    assert state() == was


def test_only_the_twin_is_set_to_another_implementation() -> None:
    work = made("bert")
    start = bare(work.model, work.input_names)
    params = AttentionBackendParams(backend="sdpa")
    chosen: Any = AttentionBackend().apply(start, params, work)
    assert chosen.module.config._attn_implementation == "sdpa"
    for module in (start.module, work.model):
        config: Any = module.config
        assert config._attn_implementation == "eager"
    assert chosen.module.embeddings.word_embeddings.weight.data_ptr() == (
        work.model.get_parameter("embeddings.word_embeddings.weight").data_ptr()
    )


def kernels(runnable: Runnable, inputs: tuple[Tensor, ...]) -> set[str]:
    """Names of the attention kernels that ran."""
    with torch.no_grad(), torch.profiler.profile() as seen:
        runnable(inputs)
    names = {event.key for event in seen.key_averages()}
    return {name for name in names if "_scaled_dot_product" in name}


@pytest.mark.parametrize(
    ("backend", "wanted"),
    [
        ("sdpa-flash", "aten::_scaled_dot_product_flash_attention_for_cpu"),
        ("sdpa-math", "aten::_scaled_dot_product_attention_math"),
    ],
)
def test_the_kernel_asked_for_is_the_one_that_runs(backend: str, wanted: str) -> None:
    for family in ("bert", "encoder", "plain"):
        work = made(family)
        inputs = work.held_out[0].inputs
        assert kernels(applied(work, backend), inputs) == {wanted}
        assert not kernels(applied(work, "eager"), inputs) if family == "bert" else True


def test_scores_of_all_pairs_are_no_longer_held() -> None:
    length = 256
    work = workload(ByTorch().eval(), sequences(length))
    inputs = work.held_out[0].inputs
    peaks = {}
    for backend in ("sdpa-math", "sdpa-flash"):
        runnable = applied(work, backend)
        peaks[backend] = peak_memory(lambda run=runnable: ran(run, work), work.device).bytes
    pairs = inputs[0].shape[0] * HEADS * length * length * 4
    assert peaks["sdpa-math"] > pairs > peaks["sdpa-flash"]


def test_what_is_in_force_is_restored_when_a_call_raises() -> None:
    was, inside = state(), []

    def fails() -> None:
        with kernel("sdpa-math"):
            inside.append(state())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert inside == [(False, True, False, False, False)]
    assert state() == was


@pytest.mark.parametrize("model", [ByHand, AsksForWeights])
def test_attention_that_never_meets_the_kernel_is_refused(model: type[nn.Module]) -> None:
    work = workload(model().eval(), sequences())
    with pytest.raises(SpeedUpRefused, match="made none"):
        AttentionBackend().variants(work)


def test_a_kernel_that_cannot_run_here_is_refused_with_its_own_reason() -> None:
    work, was = made("bert"), state()
    for backend in ("sdpa-efficient", "sdpa-cudnn"):
        with pytest.raises(SpeedUpRefused, match=f"{backend}.*No (viable|available)"):
            applied(work, backend)
    with pytest.raises(SpeedUpRefused, match="CUDA card and the package flash-attn"):
        applied(work, "flash-attention-2")
    assert state() == was


def test_eager_is_refused_where_a_plain_module_has_no_choice() -> None:
    with pytest.raises(SpeedUpRefused, match="a model of transformers"):
        applied(made("plain"), "eager")
    assert applied(made("bert"), "eager").around == ()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UsageError, match="backend"):
        carry_out([Step(speedup="attention-backend", params={"backend": "fast"})], made("bert"))


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_a_cache_gives_the_same_greedy_tokens(build: Any) -> None:
    work = token_workload(build()[0], (9, 5, 7))
    assert prompts(work).shape == (3, 5)
    without, cached = (produce() for produce in generation(work, 6))
    expected = greedy_tokens(work.model, prompts(work), 6)
    assert without.tokens.tolist() == cached.tokens.tolist() == expected
    largest = without.logits.abs().max()
    assert (without.logits - cached.logits).abs().max() <= 1e-4 * largest


def test_a_cached_step_runs_one_position_per_token() -> None:
    work = token_workload(tiny_gpt2()[0], (5, 5))
    for produce, widths in zip(generation(work, 3), ([5, 6, 7], [5, 1, 1]), strict=True):
        seen: list[int] = []
        hook = work.model.register_forward_pre_hook(
            lambda _m, _a, named, seen=seen: seen.append(named["input_ids"].shape[1]),
            with_kwargs=True,
        )
        produce()
        hook.remove()
        assert seen == widths


@pytest.mark.parametrize(
    ("build", "reason"),
    [(tiny_bert, "no past_key_values"), (tiny_mlp, "takes no tokens"), (tiny_t5, "an encoder too")],
)
def test_what_generates_nothing_has_no_cache(build: Any, reason: str) -> None:
    model = build()[0]
    named = {"x": torch.randn(4, 8)} if build is tiny_mlp else None
    work = workload(model, named) if named else token_workload(model)
    with pytest.raises(SpeedUpRefused, match=reason):
        KvCache().variants(work)
    with pytest.raises(SpeedUpRefused, match=reason):
        generation(work, 2)


def test_a_decoder_is_told_to_time_generation_and_may_keep_its_cache() -> None:
    work = token_workload(tiny_gpt2(use_cache=False)[0])
    with pytest.raises(SpeedUpRefused, match="generation"):
        KvCache().variants(work)
    start = bare(work.model, work.input_names)
    kept: Any = KvCache().apply(start, Params(), work)
    assert kept.module.config.use_cache
    config: Any = work.model.config
    assert not config.use_cache
    assert torch.equal(ran(kept, work), ran(start, work))


def test_more_tokens_than_there_is_room_for_are_refused() -> None:
    work = token_workload(tiny_gpt2()[0], (5, 5))
    for tokens in (0, 28):
        with pytest.raises(SpeedUpRefused, match="must fit"):
            generation(work, tokens)
    assert generation(work, 27)[1]().tokens.shape == (2, 27)
