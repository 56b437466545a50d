"""The measures of language models against slow second implementations, and where the truth is
known.
"""  # fmt: skip

from functools import cache
from typing import Any, cast

import pytest
import torch
import zoo
from factories import FAMILIES
from measures.views import matrix, named, value, view_of
from oracles.language import (
    entropy_rank,
    first_length_that_stays_small,
    kl,
    position_sensitivity,
    shorter_context,
)
from prepared import SMALL, family
from torch import Tensor, nn
from trained import TRAINED

from zsei.measures import (
    AttentionMemory,
    ContextLength,
    LayerDecisions,
    TokenFlow,
    View,
    Vocabulary,
)
from zsei.measures.context_length import cut_texts
from zsei.measures.modality import answers_from_the_last, few_samples, run_twin, text_input
from zsei.measures.reach import doublings, reach
from zsei.measures.tail import find_tail
from zsei.settings import Settings
from zsei.subject.objective import divergence, probes
from zsei.subject.prepare import prepare

SETTINGS = Settings(samples=32, batch_size=16, probes=1)


@cache
def planted(name: str, defect: bool) -> View:
    made = getattr(zoo, name)(defect)
    return view_of(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)


@cache
def llama() -> View:
    model, data = TRAINED["llama"]()
    return view_of(prepare(model, data, settings=SETTINGS), SETTINGS)


@pytest.mark.long
def test_cut_texts_are_those_of_the_model_run_on_less() -> None:
    subject = llama().subject
    cut = cut_texts(subject, 4, 2)
    assert cut is not None
    ids = few_samples(subject, 4).inputs[0]

    def logits(tokens: Tensor) -> Tensor:
        return run_twin(subject, (tokens,))

    last = ids.shape[1] - 2
    ends = [last - round(i * (last - last // 2) / 2) for i in range(2)]
    for length in (1, 4):
        expected = shorter_context(logits, ids, length, ends)
        found = cut.effects[:, cut.lengths.index(length)].tolist()
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert float(cut.effects[:, -1].abs().max()) == 0


def test_a_decoder_that_sees_four_tokens_needs_four() -> None:
    found = ContextLength().measure(planted("short_sighted", True))
    assert value(found, "embed", "effective_context") == 4
    assert value(found, "embed", "effective_context_high") == 4
    effects = matrix(found, "context_effect")
    moved = [effect or 0.0 for effect in effects.values[0]]
    assert max(moved[effects.columns.index("4") :]) == pytest.approx(0, abs=1e-6)
    assert min(moved[: effects.columns.index("4")]) > 1e-3
    whole = ContextLength().measure(planted("short_sighted", False))
    assert value(whole, "embed", "effective_context") > 8


def test_the_shortest_length_is_the_first_that_stays_small() -> None:
    effects = torch.tensor([[1.0, 0.01, 0.2, 0.02, 0.0], [0.6, 0.02, 0.3, 0.01, 0.0]])
    lengths = [1, 2, 4, 8, 16]
    expected = first_length_that_stays_small(effects.tolist(), lengths, 0.05)
    found = reach(effects, lengths, enough=0.05, seed=0)
    assert found.length == expected == 8
    assert found.low <= found.length <= found.high
    assert reach(effects, lengths, enough=0.05, seed=0) == found
    assert doublings(24) == [1, 2, 4, 8, 16, 24]
    assert doublings(16) == [1, 2, 4, 8, 16]


def test_short_samples_are_not_enough() -> None:
    found = ContextLength(samples=2).measure(planted("short_sighted", True))
    told = named(found, "embed")["effective_context"]
    assert told.state == "could not tell"
    assert "3 are the least" in told.note


def test_who_answers_from_the_last_token_is_measured() -> None:
    for name, expected in (("gpt2", True), ("bert", False), ("lstm", False)):
        subject = family(name)
        index = text_input(subject)
        assert index == 0
        assert answers_from_the_last(subject, index, few_samples(subject, 2)) is expected


def test_position_shares_are_squared_slopes() -> None:
    """On one sample and along the direction that the probe draws, position by position."""
    view = planted("short_sighted", True)
    subject = view.subject
    found = TokenFlow(samples=1, trials=0).measure(view)
    flow = matrix(found, "token_flow")
    shares = dict(zip(flow.columns, flow.values[0], strict=True))
    few = few_samples(subject, 1)
    model = subject.model
    mean = view.rows[subject.anatomy.outputs["embed"]].mean(0)

    def answer(vectors: Tensor) -> Tensor:
        block = model.get_submodule("blocks.0")
        seen = dict(model.named_buffers())["seen"][None, None]
        logits = model.get_submodule("head")(model.get_submodule("norm")(block(vectors, seen)))
        generator = torch.Generator().manual_seed(0)
        [drawn] = probes(subject.objective, logits[:, -1], few, 1, generator)
        return drawn.sum()

    vectors = model.get_submodule("embed")(few.inputs[0])[0]
    sizes = position_sensitivity(vectors, answer, mean)
    total = sum(sizes)
    assert shares["0"] == pytest.approx(sizes[-1] / total, rel=1e-3)
    assert shares["2-3"] == pytest.approx(sum(sizes[-4:-2]) / total, rel=1e-3)
    assert shares["4-7"] == pytest.approx(0, abs=1e-9)


@pytest.mark.long
def test_the_answer_gathers_at_its_own_position_and_the_trials_bear_it_out() -> None:
    view = llama()
    found = TokenFlow(trials=16).measure(view)
    layers = [c.id for c in view.subject.anatomy.components if c.kind == "layer"]
    at_answer = [value(found, layer, "answer_position_share") for layer in layers]
    assert at_answer[-1] == pytest.approx(1)
    assert at_answer[-1] > value(found, "model.embed_tokens", "answer_position_share")
    for row in (*matrix(found, "token_flow").values, *matrix(found, "token_kind_flow").values):
        assert sum(v or 0 for v in row) == pytest.approx(1, abs=1e-5)
    assert value(found, "model.embed_tokens", "token_flow_agreement") >= 0.5


@pytest.mark.long
def test_the_lens_is_head_and_norm_on_each_layer() -> None:
    view = llama()
    found = LayerDecisions(rows=1000).measure(view)
    model, outputs = view.subject.model, view.subject.anatomy.outputs
    norm, head = model.get_submodule("model.norm"), model.get_submodule("lm_head")
    final = head(norm(view.rows[outputs["model.layers.3"]]))
    early = head(norm(view.rows[outputs["model.layers.1"]]))
    samples = view.row_samples[outputs["model.layers.1"]]
    apart, same = kl(final, early), (final.argmax(-1) == early.argmax(-1)).double()
    means = [(float(apart[samples == s].mean()), float(same[samples == s].mean()))
             for s in samples.unique()]  # fmt: skip
    layer = "model.layers.1"
    expected = sum(a for a, _ in means) / len(means)
    assert value(found, layer, "lens_divergence") == pytest.approx(expected, rel=1e-4)
    expected = sum(s for _, s in means) / len(means)
    assert value(found, layer, "lens_agreement") == pytest.approx(expected)
    last = named(found, "model.layers.3")
    assert (last["lens_agreement"].value, last["lens_divergence"].value) == (1, 0)


def test_no_lens_is_claimed_where_head_and_norm_do_not_give_the_logits() -> None:
    for name in ("bert", "t5", "vit", "mlp"):
        assert LayerDecisions().measure(view_of(family(name), SMALL)).measurements == {}


def test_a_stream_of_ten_directions_needs_little_more() -> None:
    narrow = Vocabulary().measure(planted("crowded_head", False))
    wide = Vocabulary().measure(planted("crowded_head", True))
    assert value(narrow, "head", "head_rank_needed") <= 14
    assert value(wide, "head", "head_rank_needed") >= 24
    weight = planted("crowded_head", True).subject.model.get_submodule("head").weight
    assert isinstance(weight, nn.Parameter)
    rank = value(wide, "head", "head_effective_rank")
    assert rank == pytest.approx(entropy_rank(weight), rel=1e-4)


@pytest.mark.long
def test_unused_tokens_are_counted_or_not_told() -> None:
    view = llama()
    tail = find_tail(view)
    assert tail is not None
    found = named(Vocabulary(top=3).measure(view), tail.head)["unused_vocabulary"]
    logits = view.written(tail.head)
    assert logits is not None
    seen = {int(i) for row in logits for i in row.argsort(descending=True)[:3]}
    assert found.value == pytest.approx(1 - len(seen) / logits.shape[1])
    model, data = FAMILIES["gpt2"]()
    few = Settings(samples=8, batch_size=4, probes=1)
    told = named(Vocabulary().measure(view_of(prepare(model, data, settings=few), few)), "lm_head")
    assert told["head_rank_needed"].state == "could not tell"
    assert "64 are needed" in told["head_rank_needed"].note


@pytest.mark.long
def test_keys_and_values_take_what_their_projections_write() -> None:
    config = cast(Any, llama().subject.model.config)
    found = AttentionMemory().measure(llama())
    size = config.hidden_size // config.num_attention_heads
    each = 2 * config.num_key_value_heads * size * 4
    assert value(found, "model.layers.0/attention", "kv_bytes_per_token") == each
    assert value(found, "output", "kv_bytes_per_token") == each * config.num_hidden_layers
    assert value(found, "model.layers.0/attention", "gqa_ratio") == 2
    gpt2 = AttentionMemory().measure(view_of(family("gpt2"), SMALL))
    assert value(gpt2, "transformer.h.0/attention", "gqa_ratio") == 1
    heads = [c.id for c in llama().subject.anatomy.components if c.kind == "head"]
    total = sum(value(found, head, "long_range_share") for head in heads)
    assert total == pytest.approx(1)


@pytest.mark.long
def test_far_heads_are_those_that_look_far_and_count() -> None:
    view = llama()
    found = AttentionMemory().measure(view)
    own = {
        c.id: (view.measurements[c.id]["attention_distance"].value or 0)
        * (view.measurements[c.id]["sensitivity"].value or 0)
        for c in view.subject.anatomy.components
        if c.kind == "head"
    }
    best = max(own, key=lambda head: own[head])
    share = own[best] / sum(own.values())
    assert value(found, best, "long_range_share") == pytest.approx(share)


def test_what_reads_no_text_has_no_such_numbers() -> None:
    view = view_of(family("mlp"), SMALL)
    for measure in (TokenFlow(), ContextLength(), AttentionMemory(), Vocabulary()):
        assert measure.measure(view).measurements == {}


def test_single_positions_are_really_replaced() -> None:
    """One trial by hand: the mean stands at one position after one layer."""
    from zsei.measures.token_flow import Flow, exact_effects
    from zsei.trace.hooks import ModuleEngine

    view = planted("short_sighted", True)
    subject = view.subject
    few = few_samples(subject, 2)
    engine = ModuleEngine(subject.model, subject.input_names)
    mean = torch.full((zoo.WIDTH,), 0.25)
    picks = [(1, "embed", zoo.LONG - 2), (0, "embed", 3)]
    paths = {"embed": "embed"}
    flow = Flow(sizes={}, means={"embed": mean}, answer=run_twin(subject, few.inputs)[:, -1])
    found = exact_effects(engine, view, few, paths, flow, picks, True)

    def edit(vectors: Tensor) -> Tensor:
        edited = vectors.clone()
        edited[1, zoo.LONG - 2] = mean
        return edited

    with torch.no_grad():
        clean = engine.run(few)[:, -1]
        moved = engine.run(few, {"embed": edit})[:, -1]
    expected = divergence(subject.objective, moved, clean, few)[1]
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-4)
    assert float(found[0]) > 1e-4
    assert float(found[1]) == pytest.approx(0, abs=1e-6)
