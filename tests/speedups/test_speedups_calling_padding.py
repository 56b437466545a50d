"""Padding removal: outputs as if every sample had run alone, in the caller's order and shape."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from factories import tiny_bert, tiny_gpt2, tiny_llama, tiny_vit
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.unpadded import fewest_positions, one_by_one
from torch import Tensor, nn
from workloads import ragged, token_workload, workload

from zsei.errors import SpeedUpRefused, UsageError
from zsei.speedups import Step, carry_out
from zsei.speedups.bucketed import Bucketed, extents, grouped
from zsei.speedups.packed import Packed, packed_rows
from zsei.speedups.padding import Padding, PaddingParams
from zsei.speedups.runnable import Accelerated, Runnable, bare
from zsei.speedups.workload import Workload
from zsei.subject.program import model_hash

BERT, GPT2, LLAMA = tiny_bert()[0], tiny_gpt2()[0], tiny_llama()[0]
FAMILIES = {"bert": BERT, "gpt2": GPT2, "llama": LLAMA}
MODES = (
    PaddingParams(mode="trim"),
    PaddingParams(mode="buckets", buckets=3),
    PaddingParams(mode="pack"),
)
LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def applied(work: Workload, params: PaddingParams) -> Runnable:
    return Padding().apply(bare(work.model, work.input_names), params, work)


def expected(work: Workload) -> Tensor:
    ids, mask = work.held_out[0].inputs[:2]
    return one_by_one(work.model, ids, mask)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("params", MODES, ids=lambda params: params.mode)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sample_comes_out_as_if_it_had_run_alone(
    family: str, params: PaddingParams, left: bool
) -> None:
    work = token_workload(FAMILIES[family], length=14, left=left)
    before = model_hash(work.model)
    runnable = applied(work, params)
    with torch.no_grad():
        found = runnable(work.held_out[0].inputs)
    torch.testing.assert_close(found, expected(work), rtol=1e-5, atol=1e-5)
    assert model_hash(work.model) == before
    assert runnable.main_only


@settings(max_examples=12, deadline=None)
@given(lengths=LENGTHS, mode=st.sampled_from(MODES), left=st.booleans())
def test_batches_of_any_lengths_come_back_in_order(
    lengths: list[int], mode: PaddingParams, left: bool
) -> None:
    work = token_workload(BERT)
    runnable = applied(work, mode)
    ids, mask = ragged(lengths, 22, left)
    with torch.no_grad():
        found = runnable((ids, mask))
    torch.testing.assert_close(found, one_by_one(BERT, ids, mask), rtol=1e-5, atol=1e-5)


def test_fewer_positions_reach_the_model() -> None:
    work = token_workload(BERT, (16, 2, 3, 2, 5, 4, 15, 2), length=20)
    seen: dict[str, int] = {}
    for params in MODES:
        runnable = applied(work, params)
        wrapper = runnable.module
        assert isinstance(wrapper, Bucketed | Packed)
        shapes: list[int] = []
        hook = wrapper.inner.register_forward_pre_hook(
            lambda _m, _a, named, shapes=shapes: shapes.append(named["input_ids"].numel()),
            with_kwargs=True,
        )
        with torch.no_grad():
            runnable(work.held_out[0].inputs)
        hook.remove()
        seen[params.mode] = sum(shapes)
    # 8 x 16 where only unused columns go; {2, 2, 2} {3, 4, 5} {15, 16}; 49 tokens in
    # three rows of 17.
    assert seen == {"trim": 128, "buckets": 53, "pack": 51}


def test_padding_in_the_output_is_zero() -> None:
    work = token_workload(BERT)
    mask = work.held_out[0].inputs[1].bool()
    for params in MODES:
        with torch.no_grad():
            found = applied(work, params)(work.held_out[0].inputs)
        assert not found[~mask].any()
        assert found[mask].abs().sum() > 0


def test_a_batch_without_padding_is_one_call_as_it_is() -> None:
    work = token_workload(BERT)
    ids, mask = ragged([6, 6, 6], 6)
    for params in MODES:
        with torch.no_grad():
            found = applied(work, params)((ids, mask))
        torch.testing.assert_close(found, one_by_one(BERT, ids, mask), rtol=1e-5, atol=1e-5)


def test_a_sample_without_any_token_gives_zeros_and_disturbs_nobody() -> None:
    work = token_workload(BERT)
    ids, mask = ragged([5, 9, 4], 9)
    mask[1] = 0
    for params in MODES[1:]:
        with torch.no_grad():
            found = applied(work, params)((ids, mask))
        assert not found[1].any()
        others = torch.tensor([0, 2])
        alone = one_by_one(BERT, ids[others], mask[others])
        torch.testing.assert_close(found[others], alone, rtol=1e-5, atol=1e-5)


def test_inputs_per_position_move_along() -> None:
    kinds = torch.arange(96).view(8, 12) % 2
    work = token_workload(BERT, more={"token_type_ids": kinds})
    with torch.no_grad():
        plain = bare(work.model, work.input_names)(work.held_out[0].inputs)
        mask = work.held_out[0].inputs[1].bool()
        for params in MODES:
            found = applied(work, params)(work.held_out[0].inputs)
            torch.testing.assert_close(found[mask], plain[mask], rtol=1e-5, atol=1e-5)


def test_an_accelerated_model_is_called_by_position_or_by_name() -> None:
    work = token_workload(BERT)
    ids, mask = work.held_out[0].inputs
    for params in MODES:
        module = Accelerated(applied(work, params))
        with torch.no_grad():
            named = module(attention_mask=mask, input_ids=ids)
            torch.testing.assert_close(named, module(ids, mask), rtol=0, atol=0)
            with pytest.raises(UsageError, match="nothing else by position"):
                module(ids, mask, mask)


class Pooled(nn.Module):
    """One output per sample: the mean over real positions."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny_bert()[0]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[:, :, None].float()
        return (states * weight).sum(1) / weight.sum(1)


class LooksAtPadding(Pooled):
    """Means over all positions, the padded ones too."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return found.last_hidden_state.mean(1)


def test_one_output_per_sample_is_put_back_in_order_but_not_packed() -> None:
    work = token_workload(Pooled())
    with torch.no_grad():
        plain = bare(work.model, work.input_names)(work.held_out[0].inputs)
        found = applied(work, MODES[1])(work.held_out[0].inputs)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    with pytest.raises(SpeedUpRefused, match="mode=buckets"):
        applied(work, MODES[2])
    assert {params.mode for params in variants(work)} == {"buckets"}


def variants(work: Workload) -> list[PaddingParams]:
    return [params for params in Padding().variants(work) if isinstance(params, PaddingParams)]


def test_a_model_whose_output_depends_on_padding_is_refused() -> None:
    work = token_workload(LooksAtPadding())
    for params in MODES[:2]:
        with pytest.raises(SpeedUpRefused, match="depends on padding"):
            applied(work, params)
    with pytest.raises(SpeedUpRefused):
        Padding().variants(work)


class Deaf(nn.Module):
    """A BERT that takes position_ids and does not heed them."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny_bert()[0]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        del position_ids
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def test_packing_is_refused_where_positions_are_not_heeded() -> None:
    positions = torch.arange(12).expand(8, -1).contiguous()
    work = token_workload(Deaf(), more={"position_ids": positions})
    with pytest.raises(SpeedUpRefused, match="heeds position_ids"):
        applied(work, MODES[2])


def test_packing_is_refused_where_tokens_see_a_window() -> None:
    model: Any = tiny_llama()[0]
    model.config.sliding_window = 4
    with pytest.raises(SpeedUpRefused, match="a window"):
        applied(token_workload(model), MODES[2])


def test_variants_name_what_runs_here_packing_first() -> None:
    assert [(v.mode, v.buckets) for v in variants(token_workload(BERT))] == [
        ("pack", 4), ("buckets", 4), ("buckets", 2), ("buckets", 8),
    ]  # fmt: skip
    assert variants(token_workload(BERT, length=20))[-1].mode == "trim"


def test_nothing_to_remove_is_refused_by_name() -> None:
    with pytest.raises(SpeedUpRefused, match="equally long"):
        Padding().variants(token_workload(BERT, (6, 6, 6)))
    with pytest.raises(SpeedUpRefused, match="attention_mask"):
        Padding().variants(workload(*tiny_vit_batch()))


def tiny_vit_batch() -> tuple[nn.Module, dict[str, Tensor]]:
    model, data = tiny_vit()
    return model, {"pixel_values": data["pixel_values"][:2]}


def test_wrong_params_are_named() -> None:
    work = token_workload(BERT)
    for step in (
        Step(speedup="padding", params={"mode": "fold"}),
        Step(speedup="padding", params={"buckets": 1}),
    ):
        with pytest.raises(UsageError, match=next(iter(step.params))):
            carry_out([step], work)


def test_a_step_before_may_round_otherwise_and_no_more_than_it_does_itself() -> None:
    """In bfloat16 another shape of batch rounds otherwise: not exact, and not refused."""
    work = token_workload(BERT)
    lowered = bare(work.model, work.input_names)
    lowered = replace(lowered, module=lowered.module.to(torch.bfloat16))
    plain = expected(work)
    for params in MODES:
        with torch.no_grad():
            found = Padding().apply(lowered, params, work)(work.held_out[0].inputs)
        assert found.dtype == torch.bfloat16
        assert (found.float() - plain).abs().max() < 0.05


@pytest.mark.parametrize("params", MODES, ids=lambda params: params.mode)
def test_a_compiled_model_is_tried_as_it_was_and_compiled_for_the_batches(
    params: PaddingParams,
) -> None:
    work = token_workload(BERT, (9, 4, 3, 7), length=11)
    start = bare(work.model, work.input_names)
    shapes: list[tuple[int, ...]] = []

    def compiled(**named: Tensor) -> object:
        shapes.append(tuple(named["input_ids"].shape))
        return start.module(**named)

    module: Any = bare(work.model, work.input_names).module
    module._compiled_call_impl = compiled
    with torch.no_grad():
        runnable = Padding().apply(start.with_module(module), params, work)
        before = list(shapes)
        found = runnable(work.held_out[0].inputs)
    # The trial has three samples of 9, 4 and 5 tokens; calibration and held-out are one batch.
    wanted = {
        "trim": [(4, 9)], "buckets": [(2, 4), (1, 7), (1, 9)], "pack": [(2, 12)],
    }[params.mode]  # fmt: skip
    assert before == 2 * wanted
    assert shapes == 3 * wanted
    torch.testing.assert_close(found, expected(work), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), groups=st.integers(1, 5))
def test_groups_hold_every_sample_once_and_run_the_fewest_positions(
    lengths: list[int], groups: int
) -> None:
    found = grouped(lengths, groups)
    assert sorted(number for group in found for number in group) == list(range(len(lengths)))
    assert len(found) <= groups
    run = sum(len(group) * max(lengths[number] for number in group) for group in found)
    assert run == fewest_positions(lengths, groups)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any))
def test_packed_rows_overlap_nowhere_and_are_few(lengths: list[int]) -> None:
    starts, rows, width = packed_rows(lengths)
    taken: set[int] = set()
    for start, length in zip(starts, lengths, strict=True):
        cells = range(start, start + length)
        assert not length or cells[0] // width == cells[-1] // width < rows
        assert taken.isdisjoint(cells)
        taken |= set(cells)
    fewest = -(-sum(lengths) // width)
    assert fewest <= rows <= 11 / 9 * 2 * fewest + 1
    # Two rows that are each at most half full would have been one.
    filled = [sum(1 for cell in taken if cell // width == row) for row in range(rows)]
    assert sum(2 * cells <= width for cells in filled) <= 1


def test_extents_are_the_first_and_last_real_positions() -> None:
    real = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    first, end = extents(real)
    assert first.tolist() == [1, 0, 3, 0]
    assert end.tolist() == [3, 4, 4, 1]
