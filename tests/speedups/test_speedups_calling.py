"""Layout, batch size, threads and inference mode: the same outputs, and nothing left changed."""

from typing import Any

import pytest
import torch
from factories import tiny_bert, tiny_mlp, tiny_resnet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from workloads import ragged, token_workload, workload

from zsei.errors import SpeedUpRefused, UsageError
from zsei.speedups import SPEED_UPS, Step, carry_out, find_speed_up
from zsei.speedups.batching import Batching, BatchingParams, rebatched
from zsei.speedups.channels_last import ChannelsLast
from zsei.speedups.inference_mode import InferenceMode
from zsei.speedups.runnable import Accelerated, Runnable, bare
from zsei.speedups.speedup import EXACT, Params
from zsei.speedups.threads import Threads, ThreadsParams, begin, cores
from zsei.speedups.workload import Workload
from zsei.subject.objective import IGNORED
from zsei.subject.program import model_hash
from zsei.subject.types import Batch


class Images(nn.Module):
    """Two convolutions with a norm between, over images [n, 3, y, x]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.seen = nn.Conv2d(8, 4, 3), []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image.is_contiguous(memory_format=torch.channels_last))
        return self.second(self.norm(self.first(image)).relu())


class Meets(nn.Module):
    """A model in which samples meet: it takes the batch's mean away."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def start(work: Workload) -> Runnable:
    return bare(work.model, work.input_names)


def ran(runnable: Runnable, work: Workload) -> Tensor:
    with torch.no_grad():
        return runnable(work.held_out[0].inputs)


def mlp() -> Workload:
    return workload(tiny_mlp()[0], {"input": torch.randn(10, 8)})


def test_images_are_laid_out_by_channel_in_the_twin_alone() -> None:
    work = workload(Images().eval(), {"image": torch.randn(2, 3, 8, 8)})
    before = model_hash(work.model)
    runnable: Any = ChannelsLast().apply(start(work), Params(), work)
    runnable.module.seen.clear()
    torch.testing.assert_close(ran(runnable, work), ran(start(work), work), rtol=EXACT, atol=EXACT)
    assert runnable.module.seen == [True]
    by_channel = torch.channels_last
    assert runnable.module.second.weight.is_contiguous(memory_format=by_channel)
    own = work.model.get_parameter("second.weight")
    assert own.is_contiguous()
    assert not own.is_contiguous(memory_format=by_channel)
    assert model_hash(work.model) == before
    assert work.held_out[0].inputs[0].is_contiguous()


def test_a_residual_network_keeps_its_outputs_by_channel() -> None:
    model, data = tiny_resnet()
    work = workload(model, {"pixel_values": data["pixel_values"][:3]})
    runnable = ChannelsLast().apply(start(work), Params(), work)
    torch.testing.assert_close(ran(runnable, work), ran(start(work), work), rtol=EXACT, atol=EXACT)


def test_a_model_without_convolutions_over_images_has_no_such_layout() -> None:
    with pytest.raises(SpeedUpRefused, match="no convolution"):
        ChannelsLast().variants(mlp())


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 9), size=st.integers(1, 10))
def test_a_split_batch_comes_back_whole_and_in_order(samples: int, size: int) -> None:
    work = workload(tiny_mlp()[0], {"input": torch.randn(samples, 8)})
    calls: list[int] = []
    runnable = Batching().apply(start(work), BatchingParams(size=size), work)
    inner: Any = runnable.module.inner
    inner.register_forward_hook(lambda _m, _given, found: calls.append(len(found)))
    torch.testing.assert_close(ran(runnable, work), ran(start(work), work), rtol=EXACT, atol=EXACT)
    assert sum(calls) == samples
    assert max(calls) <= size
    assert len(calls) == -(-samples // size)


def test_samples_that_meet_give_other_outputs_when_split() -> None:
    work = workload(Meets(), {"x": torch.arange(8.0)[:, None]})
    runnable = Batching().apply(start(work), BatchingParams(size=4), work)
    assert (ran(runnable, work) - ran(start(work), work)).abs().max() == 2


def test_padding_is_removed_outside_and_packed_rows_are_split_inside() -> None:
    work = token_workload(tiny_bert()[0])
    steps = [Step(speedup="padding"), Step(speedup="batching", params={"size": 2})]
    runnable = carry_out(steps, work)
    mask = work.held_out[0].mask
    found, plain = ran(runnable, work), ran(start(work), work)
    torch.testing.assert_close(found[mask], plain[mask], rtol=EXACT, atol=EXACT)


def test_batch_sizes_offered_are_a_half_and_a_quarter() -> None:
    sizes = [params.model_dump()["size"] for params in Batching().variants(mlp())]
    assert sizes == [5, 2]
    alone = workload(tiny_mlp()[0], {"input": torch.randn(1, 8)})
    with pytest.raises(SpeedUpRefused, match="two samples"):
        Batching().variants(alone)


def test_batches_are_joined_without_changing_any_sample() -> None:
    model = tiny_bert()[0]
    batches = []
    for lengths in ((3, 5), (9, 2), (4, 4)):
        ids, mask = ragged(lengths, max(lengths))
        labels = torch.where(mask.bool(), ids, IGNORED)
        batches.append(
            Batch(inputs=(ids, mask), labels=labels, mask=mask.bool(), groups=("a", "b"))
        )
    joined = rebatched(batches, 4)
    assert [batch.size for batch in joined] == [4, 2]
    assert [batch.inputs[0].shape[1] for batch in joined] == [9, 9]
    runnable = bare(model, ("input_ids", "attention_mask"))
    with torch.no_grad():
        apart = [runnable(batch.inputs)[batch.mask] for batch in batches]
        whole = [runnable(batch.inputs)[batch.mask] for batch in joined]
    torch.testing.assert_close(torch.cat(whole), torch.cat(apart), rtol=EXACT, atol=EXACT)
    for batch in joined:
        assert batch.labels is not None
        assert batch.mask is not None
        assert torch.equal(batch.labels != IGNORED, batch.mask)
    assert joined[0].groups == ("a", "b", "a", "b")


def test_threads_hold_inside_a_call_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsei.speedups.threads.cores", lambda: 4)
    seen: list[int] = []

    class Notes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            if bool((x < 0).any()):
                raise ZeroDivisionError
            return x

    work = workload(Notes(), {"x": torch.ones(2, 2)})
    runnable = Threads().apply(start(work), ThreadsParams(intra=3), work)
    before = torch.get_num_threads()
    Accelerated(runnable)(torch.ones(2, 2))
    with pytest.raises(ZeroDivisionError):
        runnable((-torch.ones(2, 2),))
    assert seen == [3, 3]
    assert torch.get_num_threads() == before
    assert Threads().variants(work) == (ThreadsParams(intra=4), ThreadsParams(intra=2))


def test_one_core_offers_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsei.speedups.threads.cores", lambda: 1)
    with pytest.raises(SpeedUpRefused, match="more than one core"):
        Threads().variants(mlp())


def test_more_threads_than_cores_are_refused() -> None:
    work = mlp()
    with pytest.raises(SpeedUpRefused, match="a core each"):
        Threads().apply(start(work), ThreadsParams(intra=cores() + 1), work)


def test_interop_threads_are_checked_and_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsei.speedups.threads.cores", lambda: 64)
    work, now = mlp(), torch.get_num_interop_threads()
    assert Threads().apply(start(work), ThreadsParams(interop=now), work).around == ()
    with pytest.raises(SpeedUpRefused, match="once per process"):
        Threads().apply(start(work), ThreadsParams(interop=now + 1), work)
    assert torch.get_num_interop_threads() == now
    assert begin(now) == ""

    def too_late(number: int) -> None:
        raise RuntimeError(f"cannot set number of interop threads {number}")

    monkeypatch.setattr(torch, "set_num_interop_threads", too_late)
    assert f"stay at {now} instead of {now + 1}" in begin(now + 1)


def test_inference_mode_holds_inside_a_call_and_changes_no_output() -> None:
    work = mlp()
    (params,) = InferenceMode().variants(work)
    runnable = InferenceMode().apply(start(work), params, work)
    found = runnable(work.held_out[0].inputs)
    assert found.is_inference()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(found, ran(start(work), work))


@pytest.mark.parametrize(
    "step",
    [
        Step(speedup="batching", params={"size": 0}),
        Step(speedup="threads", params={"intra": "many"}),
        Step(speedup="channels-last", params={"size": 2}),
        Step(speedup="inference-mode", params={"on": True}),
    ],
    ids=lambda step: step.speedup,
)
def test_wrong_parameters_are_named(step: Step) -> None:
    with pytest.raises(UsageError, match=f"{step.speedup} must fit.*{next(iter(step.params))}"):
        carry_out([step], mlp())


def test_an_unknown_speed_up_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"padding.*'magic'"):
        find_speed_up("magic")


def test_every_speed_up_of_the_shelf_says_when_it_misleads() -> None:
    for speedup in SPEED_UPS:
        said = " ".join((type(speedup).__doc__ or "").split())
        assert "Exact:" in said or "Bound:" in said, speedup.name
        assert "Misleads when:" in said, speedup.name
    assert len({speedup.name for speedup in SPEED_UPS}) == len(SPEED_UPS)
