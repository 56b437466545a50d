"""The way to a card, as far as it can be walked without one."""

import pytest
import torch
from profile_cases import SMALL, Wide, profiled, random, seeded, subject

from zsei.profiling.place import on_device, program_on
from zsei.profiling.profile import profile
from zsei.profiling.stopwatch import Stopwatch
from zsei.subject.program import export
from zsei.timing.device import Device, find_device

META = torch.device("meta")


def test_a_moved_program_makes_every_value_where_it_was_moved_to() -> None:
    model = subject("transformer")
    assert model.program is not None
    moved = program_on(model.program, META)
    inputs = [tensor.to(META) for tensor in model.calibration[0].inputs]
    found = moved(*inputs)
    expected = model.program(*model.calibration[0].inputs)
    assert found.device.type == "meta"
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    for node in moved.graph_module.graph.nodes:
        assert torch.device("cpu") not in (*node.args, *node.kwargs.values())


def test_the_program_that_was_moved_stays_where_it_is() -> None:
    model = subject("transformer")
    assert model.program is not None
    batch = model.calibration[0]
    before = model.program(*batch.inputs)
    program_on(model.program, META)
    assert torch.equal(model.program(*batch.inputs), before)
    same = program_on(model.program, torch.device("cpu"))
    assert torch.equal(same(*batch.inputs), before)
    names = [node.name for node in model.program.graph_module.graph.nodes]
    assert [node.name for node in same.graph_module.graph.nodes] == names


def test_constants_that_are_no_parameters_move_too() -> None:
    class Shifted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor([1.0, 2.0]) + torch.arange(2)

    program = export(Shifted().eval(), ("x",), (torch.ones(3, 2),))
    assert program_on(program, META)(torch.ones(3, 2, device=META)).device.type == "meta"


def test_on_the_cpu_nothing_is_copied() -> None:
    model = subject("transformer")
    there, batch = on_device(model, find_device("cpu"))
    assert there is model
    assert batch is model.calibration[0]


class FakeEvent:
    """Counts as a card would, and refuses to be read before it was waited for."""

    clock = 0.0
    waited = False

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0

    def record(self, stream: object) -> None:
        assert stream == "stream of cuda:1"
        FakeEvent.clock += 7.0
        self.at = FakeEvent.clock

    def elapsed_time(self, other: "FakeEvent") -> float:
        assert FakeEvent.waited, "events are read before the card has passed them"
        return other.at - self.at


def test_on_a_card_marks_are_events_that_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: object) -> None:
        FakeEvent.waited = True

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    watch = Stopwatch(Device(torch=torch.device("cuda", 1), name="a card"))
    for _ in range(3):
        watch.mark()
    assert not FakeEvent.waited
    # Milliseconds of the card as seconds, from the first mark on.
    assert watch.seconds().tolist() == pytest.approx([0.0, 0.007, 0.014])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card here")
def test_a_card_gives_the_same_counts_as_the_cpu() -> None:
    there = profile(seeded(Wide), {"x": random(16, 8)}, settings=SMALL, device="cuda")
    here = profiled("wide")
    assert [(c.name, c.flops, c.moved, c.alive) for c in there.calls] == [
        (c.name, c.flops, c.moved, c.alive) for c in here.calls
    ]
    assert all(call.seconds.median > 0 for call in there.calls)
    assert there.device == "cuda:0"
