"""Models that are no program: timed module by module, and said so."""

import time
from typing import Any

import torch
from profile_cases import Branching, profiled, random, seeded
from torch import Tensor, nn

from zsei.profiling.instrument import ModuleInstrument, kinds_of_modules, timed_modules
from zsei.profiling.record import OUTSIDE
from zsei.records import Component
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.types import Anatomy, Batch
from zsei.timing.device import find_device

CPU = find_device("cpu")


def test_a_model_that_is_no_program_is_profiled_through_its_modules() -> None:
    record = profiled("branching")
    assert record.fidelity == "modules"
    assert {"first", "head", OUTSIDE} <= {part.name for part in record.parts}
    assert any("module by module" in note for note in record.notes)
    assert record.memory.alive is None
    assert (record.memory.held or 0) > 0
    first = next(part for part in record.parts if part.name == "first")
    # Both runs of it; the anatomy counts the operations of both.
    assert (first.calls, first.flops) == (2, 2 * 2 * 8 * 8 * 8)


def test_hooks_are_gone_even_after_a_failure() -> None:
    model = seeded(Branching)
    batch = Batch(inputs=(random(4, 8),))
    anatomy = read_modules(model, ("x",), batch.inputs)
    instrument = ModuleInstrument(model, ("x",), anatomy, CPU, batch)
    instrument.parts(batch)
    try:
        instrument.parts(Batch(inputs=(random(4, 7),)))
    except RuntimeError:
        pass
    else:
        raise AssertionError("a batch of the wrong width must fail")
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Clocked(nn.Module):
    """Moves a clock that a test put there."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock[0] += self.seconds
        return x


class Chain(nn.Module):
    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.slow, self.quick = Clocked(clock, 5.0), Clocked(clock, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quick(self.slow(self.quick(x)))
        self.clock[0] += 2.0
        return x


def test_each_run_of_a_module_has_its_own_time_and_the_rest_stands_outside(
    monkeypatch: Any,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    nothing = Anatomy(components=(), nodes={}, outputs={}, sites=())
    batch = Batch(inputs=(torch.ones(1, 2),))
    instrument = ModuleInstrument(Chain(clock), ("x",), nothing, CPU, batch)
    assert instrument.names == ("quick", "slow", "quick#2", OUTSIDE)
    assert instrument.parts(batch).tolist() == [1.0, 5.0, 1.0, 2.0]


def test_of_modules_inside_each_other_the_component_is_timed() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    inner = (
        Component(id="mlp", kind="mlp", path="0"),
        Component(id="up", kind="linear", path="0.0", parent="mlp"),
    )
    anatomy = Anatomy(components=inner, nodes={}, outputs={}, sites=())
    assert timed_modules(model, anatomy) == ("0", "1")
    assert timed_modules(model, anatomy, leaves=False) == ("0",)
    assert kinds_of_modules(anatomy) == {"0": "mlp", "0.0": "mlp"}


def test_a_module_that_holds_several_kinds_is_timed_by_its_parts() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model = nn.Sequential(block)
    anatomy = Anatomy(
        components=(
            Component(id="0", kind="layer", path="0"),
            Component(id="0/mlp", kind="mlp", path="0", parent="0"),
            Component(id="0.0", kind="linear", path="0.0", parent="0/mlp"),
            Component(id="0.1", kind="norm", path="0.1", parent="0"),
            Component(id="0.2", kind="linear", path="0.2", parent="0/mlp"),
        ),
        nodes={}, outputs={}, sites=(),
    )  # fmt: skip
    assert timed_modules(model, anatomy, leaves=False) == ("0.0", "0.1", "0.2")
    assert kinds_of_modules(anatomy) == {"0.0": "mlp", "0.1": "norm", "0.2": "mlp"}
