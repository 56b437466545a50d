"""A profile as a whole: every call in one component, exact counts, an untouched user."""

import inspect
from collections import Counter
from unittest.mock import patch

import pytest
import torch
from oracles.interpreter import all_values
from oracles.profiles import bytes_alive, bytes_of_call
from profile_cases import CEILINGS, HIDDEN, SMALL, profiled, random, seeded, subject
from profile_cases import Wide as WideModel
from zoo import WIDTH

import zsei
from zsei.errors import DataError, DeviceError
from zsei.graph.liveness import moments
from zsei.graph.traffic import bytes_moved, views
from zsei.profiling.costs import program_costs
from zsei.profiling.instrument import ProgramInstrument
from zsei.profiling.memory import along
from zsei.profiling.profile import one_batch, profile
from zsei.profiling.record import OUTSIDE, ProfileRecord
from zsei.settings import Settings
from zsei.timing.device import find_device

CPU = find_device("cpu")


def test_every_call_counts_with_exactly_one_component_and_one_kind() -> None:
    record = profiled("transformer")
    counted = Counter(call.component for call in record.calls)
    assert {part.name: part.calls for part in record.parts} == counted
    assert sum(part.calls for part in record.kinds) == len(record.calls)
    assert {part.name for part in record.kinds} >= {"attention", "mlp", "norm", OUTSIDE}
    for parts in (record.parts, record.kinds):
        assert sum(part.share for part in parts) == pytest.approx(1)
        times = [part.seconds.median for part in parts]
        assert times == sorted(times, reverse=True)


def test_operations_are_those_counted_by_hand() -> None:
    record = profiled("transformer")
    samples, tokens, wide = 8, 16, WIDTH
    attention = 4 * 2 * tokens * wide * wide + 2 * 2 * tokens * tokens * wide
    mlp = 2 * 2 * tokens * wide * HIDDEN
    found = {part.name: part.flops for part in record.kinds}
    assert found["attention"] == samples * attention
    assert found["mlp"] == samples * mlp
    assert found["linear"] == samples * 2 * wide * 6
    assert found["norm"] == found["residual"] == 0
    total = sum(call.flops or 0 for call in record.calls)
    assert total == samples * (attention + mlp + 2 * wide * 6)


def test_bytes_moved_are_those_of_the_values_themselves() -> None:
    model = subject("transformer")
    assert model.program is not None
    costs = {cost.name: cost for cost in program_costs(model)}
    values = all_values(model.program, model.calibration[0].inputs)
    checked = 0
    for node in model.program.graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        cost = costs[node.name]
        if views(node) is not None:
            assert (cost.moved, cost.written) == (0, 0)
        elif cost.operation != "embedding":
            assert cost.moved == bytes_of_call(node, values)
            checked += 1
    assert checked > 3
    by_component: Counter[str] = Counter()
    for cost in costs.values():
        by_component[cost.component] += cost.moved or 0
    del by_component[OUTSIDE]
    assert +by_component == {k: v for k, v in bytes_moved(model).items() if v}


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_bytes_alive_are_those_of_a_slow_walk_over_all_values(name: str) -> None:
    model = subject(name)
    assert model.program is not None
    batch = model.calibration[0]
    found = along(ProgramInstrument(model.program, CPU), batch)
    values = all_values(model.program, batch.inputs)
    assert [held.alive for held in found] == bytes_alive(model.program, values, batch.inputs)
    # From shapes alone, the parts of a tuple live and die together: an upper bound.
    for held, moment in zip(found, moments(model.program), strict=True):
        assert held.alive == moment.bytes if name == "transformer" else held.alive <= moment.bytes
    for held in found:
        assert held.held is not None
        assert held.held >= held.alive


def test_the_call_at_the_peak_is_named() -> None:
    record = profiled("wide")
    most = max(call.alive or 0 for call in record.calls)
    # The wide value and its rectified copy, 8 x 800 float32 each.
    assert most == 2 * 8 * 800 * 4
    assert record.memory.alive == most
    assert record.memory.alive_call == "relu"
    assert record.memory.held_call == "relu"
    assert record.memory.inputs == 8 * 8 * 4
    assert record.memory.parameters == 4 * record.parameters


def test_a_profile_is_kept_and_read_back_whole() -> None:
    record = profiled("transformer")
    assert ProfileRecord.model_validate_json(record.model_dump_json()) == record
    assert record.batch_size == 8
    assert record.length == 16
    assert record.inputs == {"sequence": (8, 16, WIDTH)}
    assert record.rounds >= 3
    assert record.whole.n == record.sum_of_parts.n == record.rounds
    assert record.fidelity == "program"
    assert {(fit.over, fit.measure) for fit in record.growth} == {
        ("batch", "seconds"), ("batch", "bytes"), ("length", "seconds"), ("length", "bytes"),
    }  # fmt: skip
    assert all(fit.exponent is not None for fit in record.growth)


def test_the_same_question_has_the_same_id() -> None:
    assert _profile_wide(SMALL).id == profiled("wide").id
    assert profiled("wide").id != profiled("branching").id


def test_parts_that_do_not_add_up_are_said() -> None:
    # Calls of a few microseconds: the interpreter weighs as much as they do, and more.
    record = profiled("wide")
    off = abs(record.sum_of_parts.median - 1) > 0.05
    assert any("times the whole" in note for note in record.notes) == off


def test_neither_the_model_nor_the_process_is_changed() -> None:
    model = seeded(WideModel).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    with patch("zsei.profiling.profile.ceilings", return_value=CEILINGS):
        settings = Settings(batch_size=8, samples=16, threads=2)
        record = profile(model, {"x": random(16, 8)}, settings=settings)
    assert record.threads == 2
    assert torch.get_num_threads() == threads
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(DeviceError, match="cpu, cuda or cuda:N"):
        profile("nothing:model", device="tpu")


def test_a_batch_that_the_data_cannot_fill_is_refused() -> None:
    with pytest.raises(DataError, match="A batch of 64 needs 128 different samples"):
        _profile_wide(Settings(batch_size=64, samples=128))


def test_samples_of_one_batch_are_enough_unless_somebody_says_how_many() -> None:
    assert one_batch(Settings(batch_size=32)).samples == 64
    assert one_batch(Settings(batch_size=1)).samples == 4
    assert one_batch(Settings(batch_size=32, samples=100)).samples == 100


def test_it_is_a_public_function() -> None:
    assert inspect.unwrap(zsei.profile) is profile


def _profile_wide(settings: Settings) -> ProfileRecord:
    with patch("zsei.profiling.profile.ceilings", return_value=CEILINGS):
        return profile(seeded(WideModel), {"x": random(16, 8)}, settings=settings, grow=False)
