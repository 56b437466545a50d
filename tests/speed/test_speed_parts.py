from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from planted_speed import subject
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from zsei.records import Component, Verdict
from zsei.speed.explain import explain
from zsei.speed.parts import REST, part_times, ratios, timed_modules
from zsei.speed.record import PartTime, Trial
from zsei.speed.workload_of import workload_of
from zsei.speedups import Step
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload
from zsei.subject.anatomy import read_anatomy
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.program import export, frozen_twin
from zsei.subject.types import Anatomy, Batch
from zsei.timing.device import find_device
from zsei.timing.interval import Interval


class Slept:
    """A clock that only modules move."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Takes(nn.Linear):
    """A linear layer that takes so many seconds."""

    def __init__(self, clock: Slept, seconds: float):
        super().__init__(4, 4)
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock.time += self.seconds
        return super().forward(x)


class Model(nn.Module):
    """Two parts, the second one called twice, and half a second of its own."""

    def __init__(self, clock: Slept, speed: float = 1.0):
        super().__init__()
        self.clock = clock
        self.one, self.two = Takes(clock, 1.0 * speed), Takes(clock, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.time += 0.5
        return self.two(self.two(self.one(x)))


class Halves(nn.Module):
    """Calls the model once for each half of the batch."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(half) for half in x.chunk(2)])


def timed(sides: Callable[[Slept], dict[str, nn.Module]]) -> tuple[Workload, Slept, dict]:
    clock = Slept()
    model = Model(clock)
    batch = Batch(inputs=(torch.randn(4, 4),))
    parts = read_modules(frozen_twin(model), ("x",), batch.inputs)
    whole = replace(
        subject(), model=model, input_names=("x",), anatomy=parts, calibration=(batch,),
        held_out=(batch, batch),
    )  # fmt: skip
    work = workload_of(whole, find_device("cpu"), 1)
    made = {n: Runnable(module=m, input_names=("x",)) for n, m in sides(clock).items()}
    return work, clock, made


def test_seconds_of_parts_are_what_the_clock_said() -> None:
    work, clock, sides = timed(
        lambda c: {"plain": Model(c), "lean": Model(c, 0.5), "halves": Halves(Model(c))}
    )
    found = part_times(work, sides, now=clock)
    assert found["plain"] == pytest.approx({"one": 1.0, "two": 0.5, REST: 0.5})
    assert found["lean"] == pytest.approx({"one": 0.5, "two": 0.5, REST: 0.5})
    assert found["halves"] == pytest.approx({"one": 2.0, "two": 1.0, REST: 1.0})
    assert ratios(found, "plain", "lean") == pytest.approx({"one": 0.5, "two": 1.0, REST: 1.0})


def test_a_module_that_runs_as_one_piece_has_no_parts() -> None:
    def sides(clock: Slept) -> dict[str, nn.Module]:
        compiled = Model(clock)
        compiled._compiled_call_impl = compiled._call_impl  # type: ignore[assignment]
        return {"plain": Model(clock), "compiled": compiled, "other": nn.Linear(4, 4)}

    work, clock, made = timed(sides)
    found = part_times(work, made, now=clock)
    assert found["plain"] is not None
    assert found["compiled"] is None
    assert found["other"] is None
    assert ratios(found, "plain", "compiled") is None


def test_hooks_are_gone_afterwards_even_when_a_call_falls_over() -> None:
    class Falls(Model):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Falls.calls += 1
            if Falls.calls > 2:
                raise RuntimeError("fell over")
            return super().forward(x)

    work, clock, made = timed(lambda c: {"falls": Falls(c)})
    with pytest.raises(RuntimeError, match="fell over"):
        part_times(work, made, now=clock)
    for module in made["falls"].module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def component(kind: str, path: str, parent: str | None = None, own: str = "") -> Component:
    return Component(id=own or path, kind=kind, path=path, parent=parent)  # type: ignore[arg-type]


def test_a_module_stands_for_its_component_only_where_all_inside_belongs_to_it() -> None:
    anatomy = Anatomy(
        components=(
            component("layer", "h.0"),
            component("attention", "h.0.attn", "h.0", "h.0/attention"),
            component("linear", "h.0.attn.q", "h.0/attention"),
            component("linear", "h.0.proj", "h.0/attention"),
            component("mlp", "h.0.out", "h.0", "h.0/mlp"),
            component("linear", "h.0.up", "h.0/mlp"),
            component("linear", "h.0.out.down", "h.0/mlp"),
            component("norm", "h.0.out.norm", "h.0"),
        ),
        nodes={}, outputs={}, sites=(),
    )  # fmt: skip
    assert timed_modules(anatomy) == {
        "h.0.attn": "h.0/attention",
        "h.0.proj": "h.0/attention",
        "h.0.up": "h.0/mlp",
        "h.0.out.down": "h.0/mlp",
        "h.0.out.norm": "h.0.out.norm",
    }


def small_models() -> list[tuple[nn.Module, tuple[str, ...]]]:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(vocab_size=32, intermediate_size=32, max_position_embeddings=16, **shape)
    gpt = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    return [
        (BertModel(bert, add_pooling_layer=False), ("input_ids",)),
        (GPT2Model(gpt), ("input_ids",)),
    ]


@pytest.mark.long
def test_every_weight_of_a_model_is_in_exactly_one_timed_part() -> None:
    for model, names in small_models():
        inputs = (torch.randint(0, 32, (2, 8)),)
        program = export(frozen_twin(model), names, inputs)
        paths = timed_modules(read_anatomy(program))
        for name, _ in model.named_parameters():
            inside = [path for path in paths if name.startswith(path + ".")]
            assert len(inside) == 1, (type(model).__name__, name, inside)


def trial(name: str, speed: float) -> Trial:
    return Trial(
        id=name, steps=(Step(speedup=name),), exact=True,
        verdict=Verdict(proposal_id=name, outcome="accepted", reason="accepted"),
        speed_up=Interval(median=speed, low=speed * 0.9, high=speed * 1.1, n=11),
    )  # fmt: skip


def test_the_explanation_says_where_prediction_and_measurement_lie_apart() -> None:
    kept = [trial("first", 2.0), trial("second", 1.5)]
    parts = [
        PartTime(component="attention", baseline=0.06, predicted=0.02, combined=0.03),
        PartTime(component="mlp", baseline=0.04, predicted=0.02, combined=0.02),
    ]
    single = {"first": {"attention": 0.5, "mlp": 1.0}, "second": {"attention": 0.7, "mlp": 0.5}}
    told = explain(trial("both", 2.0), kept, 3.0, parts, single)
    assert "would claim 3 times" in told
    assert "measured together it is 2 times (1.8 to 2.2)" in told
    assert "predict 2.5 times" in told  # 0.1 s over 0.04 s
    assert "first touched 60% of the time" in told
    assert "second touched 100% of the time" in told
    assert "10 ms more" in told
    assert "attention (20 ms predicted, 30 ms measured)" in told


def test_a_combination_that_is_one_piece_is_explained_by_what_each_step_touched() -> None:
    kept = [trial("first", 2.0), trial("compile", 1.5)]
    parts = [
        PartTime(component="attention", baseline=0.06, predicted=0.02, combined=None),
        PartTime(component="mlp", baseline=0.04, predicted=0.03, combined=None),
    ]
    told = explain(trial("both", 2.0), kept, 3.0, parts, {"first": {"attention": 0.5, "mlp": 1.0}})
    assert "first touched 60% of the time" in told
    assert "compile runs as one piece" in told
    assert "parts cannot be timed" in told
    assert "measured)" not in told
