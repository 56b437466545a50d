"""Training made another way is the same training: against steps by hand, and piece by piece."""

from collections.abc import Iterator
from typing import cast

import pytest
import torch
from oracles.training_steps import LinearTraining
from small_training import FIDELITY, SIMILARITY, Residual, linear, residual, workload
from torch import Tensor, nn

from zsei.errors import ObjectiveError, SpeedUpRefused, UsageError
from zsei.speedups.speedup import Step
from zsei.speedups.training import (
    TRAINING_SPEED_UPS,
    carry_out_training,
    find_training_speed_up,
)
from zsei.speedups.training.setup import (
    TrainingSetup,
    adamw,
    bare_training,
    cut_batch,
    without_dropout,
)
from zsei.speedups.workload import Workload
from zsei.subject.program import model_hash


def step(name: str, **params: int | str) -> Step:
    return Step(speedup=name, params=dict(params))


def carried(used: Workload, *steps: Step) -> TrainingSetup:
    return without_dropout(carry_out_training(steps, used))


def gradients(setup: TrainingSetup, used: Workload) -> list[Tensor]:
    setup.gradients(used.calibration[0])
    return [p.grad.clone() for p in setup.parameters if p.grad is not None]


WAYS = [
    (),
    (step("fused-optimizer"),),
    (step("fused-optimizer", implementation="foreach"),),
    (step("gradient-accumulation", micro_batches=2),),
    (step("gradient-accumulation", micro_batches=4), step("fused-optimizer")),
]


@pytest.mark.parametrize("steps", WAYS, ids=lambda steps: "+".join(s.text() for s in steps))
def test_exact_ways_make_the_steps_that_loops_by_hand_make(steps: tuple[Step, ...]) -> None:
    used = linear()
    recipe = adamw(learning_rate=1e-2, weight_decay=0.1)
    setup = carry_out_training(steps, used, recipe=recipe)
    module = cast(nn.Linear, setup.module.get_submodule("0"))
    oracle = LinearTraining(
        weight=module.weight.tolist(), bias=module.bias.tolist(), rate=1e-2, decay=0.1
    )
    for number in range(4):
        batch = used.calibration[number % 2]
        assert batch.labels is not None
        expected = oracle.train(batch.inputs[0].tolist(), batch.labels.tolist())
        assert setup.step(batch) == pytest.approx(expected, rel=1e-5)
    trained = {name: p.detach().double() for name, p in module.named_parameters()}
    torch.testing.assert_close(
        trained["weight"], torch.tensor(oracle.weight, dtype=torch.float64), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        trained["bias"], torch.tensor(oracle.bias, dtype=torch.float64), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("parts", [2, 3, 5, 8])
def test_parts_of_a_batch_give_its_gradient(parts: int) -> None:
    used = residual()
    whole = gradients(carried(used), used)
    cut = gradients(carried(used, step("gradient-accumulation", micro_batches=parts)), used)
    for ours, theirs in zip(whole, cut, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def test_parts_that_are_not_equal_weigh_as_many_samples_as_they_hold() -> None:
    """Eight samples in three parts: an average over the parts would be another gradient."""
    used = residual()
    setup = carried(used, step("gradient-accumulation", micro_batches=3))
    batch = used.calibration[0]
    shares = [share for _, share in setup.parts(batch)]
    assert shares == [2 / 8, 3 / 8, 3 / 8]
    whole = gradients(carried(used), used)
    setup.optimizer.zero_grad()
    for part, _ in setup.parts(batch):
        (setup.loss_of(part) / 3).backward()
    unweighted = [p.grad for p in setup.parameters if p.grad is not None]
    worst = max(float((a - b).abs().max()) for a, b in zip(whole, unweighted, strict=True))
    assert worst > 1e-3


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_cut_batch_is_the_batch(parts: int, stride: int) -> None:
    batch = residual().calibration[0]
    found = list(cut_batch(batch, parts, stride))
    assert torch.equal(torch.cat([part.inputs[0] for part in found]), batch.inputs[0])
    assert sum((part.groups for part in found), ()) == batch.groups
    sizes = [part.size for part in found]
    assert len(sizes) == min(parts, batch.size // stride)
    assert all(size % stride == 0 for size in sizes)
    assert max(sizes) - min(sizes) <= stride


def test_pairs_are_never_separated() -> None:
    used = workload(nn.Sequential(nn.Linear(8, 4)), samples=12, batch_size=6, objective=SIMILARITY)
    setup = carried(used, step("gradient-accumulation", micro_batches=2))
    assert [part.size for part, _ in setup.parts(used.calibration[0])] == [2, 4]
    whole = gradients(carried(used), used)
    for ours, theirs in zip(whole, gradients(setup, used), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_checkpointed_blocks_give_the_same_gradients_to_the_bit(norm: bool, every: int) -> None:
    used = residual(norm=norm)
    plain = carried(used)
    checkpointed = carried(used, step("activation-checkpointing", every=every))
    for _ in range(2):
        for ours, theirs in zip(gradients(plain, used), gradients(checkpointed, used), strict=True):
            assert torch.equal(ours, theirs)
    buffers = zip(plain.module.buffers(), checkpointed.module.buffers(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in buffers)
    assert norm == bool(list(plain.module.buffers()))


def test_checkpointed_dropout_is_drawn_again_as_it_was() -> None:
    used = residual(dropout=0.5)
    found = []
    for steps in ((), (step("activation-checkpointing"),)):
        setup = carry_out_training(steps, used)
        torch.manual_seed(5)
        found.append(gradients(setup, used))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    torch.manual_seed(6)
    other = gradients(carry_out_training((), used), used)
    assert not all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_checkpointed_block_runs_twice_and_keeps_its_name() -> None:
    used = residual()
    setup = carried(used, step("activation-checkpointing", every=2))
    runs = {name: 0 for name in ("layers.0.up", "layers.1.up", "layers.2.up")}

    def count(name: str) -> None:
        runs[name] += 1

    for name in runs:
        setup.module.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: count(name)
        )
    setup.step(used.calibration[0])
    assert runs == {"layers.0.up": 2, "layers.1.up": 1, "layers.2.up": 2}
    assert setup.module.state_dict().keys() == used.model.state_dict().keys()
    with pytest.raises(RuntimeError, match="planted"), setup.forward_context():
        raise RuntimeError("planted")
    assert not any("forward" in vars(module) for module in setup.module.modules())


def test_a_forward_that_a_library_set_is_set_again() -> None:
    used = residual()
    setup = carried(used, step("activation-checkpointing"))
    block = setup.module.get_submodule("layers.0")

    def own(x: Tensor) -> Tensor:
        return x

    vars(block)["forward"] = own
    with setup.forward_context():
        assert vars(block)["forward"] is not own
    assert vars(block)["forward"] is own


def test_autocast_runs_in_half_precision_and_keeps_what_must_be_whole() -> None:
    used = residual()
    setup = carried(used, step("autocast"))
    seen: list[torch.dtype] = []
    setup.module.get_submodule("layers.0.up").register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    loss = setup.gradients(used.calibration[0])
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    kept = [*setup.parameters, *(p.grad for p in setup.parameters if p.grad is not None)]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert len(kept) == 2 * len(setup.parameters)
    assert not torch.is_autocast_enabled("cpu")
    plain = carried(used)
    plain.module.get_submodule("layers.0.up").register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    plain.step(used.calibration[0])
    assert seen == [torch.bfloat16, torch.float32]


def test_the_model_is_never_trained() -> None:
    used = residual()
    before = model_hash(used.model)
    setup = carry_out_training(
        [step("activation-checkpointing"), step("autocast"), step("fused-optimizer")], used
    )
    first = {n: p.detach().clone() for n, p in setup.module.named_parameters()}
    setup.step(used.calibration[0])
    assert model_hash(used.model) == before
    assert all(not torch.equal(first[n], p) for n, p in setup.module.named_parameters())
    assert not any(p.requires_grad for p in used.model.parameters())


def test_frozen_parameters_of_a_given_model_stay_frozen() -> None:
    model = Residual()
    model.stem.requires_grad_(False)
    setup = carry_out_training((), residual(), model=model)
    trained = {name for name, p in setup.module.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "stem" not in name}
    before = model.stem.weight.clone()
    setup.step(residual().calibration[0])
    assert torch.equal(setup.module.get_parameter("stem.weight"), before)


def test_a_step_is_possible_where_gradients_are_switched_off() -> None:
    used = residual()
    setup = carried(used)
    before = setup.parameters[0].detach().clone()
    with torch.no_grad():
        setup.step(used.calibration[0])
    assert not torch.equal(setup.parameters[0], before)


def test_without_dropout_nothing_is_drawn_and_batch_norms_still_learn() -> None:
    used = residual(dropout=0.5, norm=True)
    setup = without_dropout(bare_training(used))
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(setup.loss_of(used.calibration[0]).item())
    assert losses[0] == losses[1]
    norm = setup.module.get_submodule("layers.0.norm")
    assert int(norm.get_buffer("num_batches_tracked")) == 2


REFUSED = [
    (("gradient-accumulation",), True, "batch norms"),
    (("autocast", "autocast"), False, "one precision"),
    (("fused-optimizer", "fused-optimizer"), False, "made one way"),
    (("activation-checkpointing", "activation-checkpointing"), False, "already"),
    (("gradient-accumulation", "gradient-accumulation"), False, "cut once"),
]


@pytest.mark.parametrize(("names", "norm", "message"), REFUSED)
def test_what_cannot_be_had_is_refused_with_its_reason(
    names: tuple[str, ...], norm: bool, message: str
) -> None:
    with pytest.raises(SpeedUpRefused, match=message):
        carry_out_training([step(name) for name in names], residual(norm=norm))


def test_half_precision_with_a_scaled_loss_is_for_cards() -> None:
    with pytest.raises(SpeedUpRefused, match="dtype=bfloat16"):
        carry_out_training([step("autocast", dtype="float16")], residual())
    assert [p.model_dump() for p in find_training_speed_up("autocast").variants(residual())] == [
        {"dtype": "bfloat16"}
    ]


def test_a_model_without_blocks_has_none_to_checkpoint() -> None:
    with pytest.raises(SpeedUpRefused, match="repeated blocks"):
        find_training_speed_up("activation-checkpointing").variants(linear())


def test_an_optimizer_without_a_fused_form_is_refused() -> None:
    def recipe(parameters: list[nn.Parameter], implementation: str) -> torch.optim.Optimizer:
        return torch.optim.Adamax(parameters, fused=implementation == "fused")  # type: ignore[call-arg]

    with pytest.raises(SpeedUpRefused, match="must have a fused implementation"):
        carry_out_training([step("fused-optimizer")], residual(), recipe=recipe)  # type: ignore[arg-type]


def test_training_needs_labels() -> None:
    with pytest.raises(ObjectiveError, match="needs labels; the objective is fidelity"):
        bare_training(workload(nn.Sequential(nn.Linear(8, 4)), objective=FIDELITY))


def test_unknown_names_and_parameters_are_named() -> None:
    with pytest.raises(UsageError, match=r"autocast, fused-optimizer.*'warp' is none"):
        carry_out_training([step("warp")], residual())
    with pytest.raises(UsageError, match=r"gradient-accumulation.*micro_batches"):
        carry_out_training([step("gradient-accumulation", micro_batches=1)], residual())


def test_a_machine_without_a_compiler_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import cpp_builder

    def none() -> str:
        raise RuntimeError("no compiler planted")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(SpeedUpRefused, match=r"C\+\+ compiler.*no compiler planted"):
        carry_out_training([step("compiled-training")], residual())


def test_every_speed_up_has_a_name_of_its_own_and_says_what_it_is_for() -> None:
    names = [speedup.name for speedup in TRAINING_SPEED_UPS]
    assert len(set(names)) == len(names)
    assert {s.name for s in TRAINING_SPEED_UPS if s.gain == "memory"} == {
        "activation-checkpointing", "gradient-accumulation",
    }  # fmt: skip
    assert {s.name for s in TRAINING_SPEED_UPS if not s.exact} == {"autocast"}


@pytest.fixture
def no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.long
@pytest.mark.usefixtures("no_compiled_code")
@pytest.mark.parametrize("norm", [False, True])
def test_compiled_training_makes_the_same_gradients(norm: bool) -> None:
    used = residual(norm=norm)
    whole = gradients(carried(used), used)
    for beside in ((), (step("activation-checkpointing"),)):
        if norm and beside:
            continue
        setup = carried(used, step("compiled-training"), *beside)
        for ours, theirs in zip(whole, gradients(setup, used), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
