"""What is planted as useless goes first, and nothing that is planted to hurt passes the gate."""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from deciding import CONFIG, Importance, Measured, measured
from torch import Tensor, nn
from trained import TRAINED
from zoo import (
    POINTS,
    SEQUENCES,
    WIDTH,
    Block,
    Chain,
    Transformer,
    busy_idler,
    identity_layer,
)  # fmt: skip

from zsei.checkpoint.contracts import LEVELS, Level
from zsei.checkpoint.tasks import Snapshot
from zsei.gate.phases import Phase
from zsei.surgery.module_edit import apply_module_edit

NEURONS = tuple(range(5, 17))
HEAD = WIDTH // 4


class Adds(nn.Module):
    """Two linears beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Stack(nn.Module):
    """Five layers on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Adds() for _ in range(5))
        self.head = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@cache
@torch.no_grad()
def stack(planted: bool = True) -> Measured:
    """Planted: layer 3 adds nothing."""
    torch.manual_seed(0)
    model = Stack()
    for block in model.blocks:
        assert isinstance(block, Adds)
        block.up.weight *= 2
        block.down.weight *= 3
    if planted:
        for parameter in model.get_submodule("blocks.3.down").parameters():
            parameter.zero_()
    return measured(model, POINTS)


def test_an_idle_layer_goes_and_no_other() -> None:
    made = stack()
    found = made.decide(0.2, levels=("layers",))
    assert found.approved_for_application
    assert [target.layer_name for target in found.layers] == ["blocks.3"]
    assert found.layers[0].similarity == pytest.approx(1)
    assert found.layers[0].skip_potential == pytest.approx(1)
    assert found.edit is not None
    assert found.edit.dropped == ("blocks.3",)
    assert {mask.name for mask in found.masks.masks} == {
        "blocks.3.down.weight", "blocks.3.down.bias",
    }  # fmt: skip
    smaller = apply_module_edit(made.subject.model, found.edit)
    assert found.statistics is not None
    assert found.statistics.layers == 1
    assert sum(p.numel() for p in smaller.parameters()) == found.statistics.parameters_after
    # One is gone already, of six there were: at 0.4 two may go in all, at 0.2 one.
    held = Snapshot(epoch=100, edits=(found.edit,))
    again = made.decide(0.2, levels=("layers",), snapshot=held)
    assert len(again.layers) == 1
    limits = {"layer_analysis": {"max_layer_removal_ratio": 0.2}}
    config = type(CONFIG).model_validate({"elesh": {"structured_pruning": limits}})
    few = replace(made, job=replace(made.job, config=config))
    assert not few.decide(0.2, levels=("layers",), snapshot=held).layers
    assert few.decide(0.2, levels=("layers",)).approved_for_application


def test_no_layer_of_the_healthy_twin_goes() -> None:
    made = stack(planted=False)
    assert not made.decide(0.2, levels=("layers",)).layers
    # Importance calls it idle, but nothing else says that it could be led around.
    lie = {**made.importance, "blocks.2|layer": (0.0,)}
    assert not made.decide(0.2, importance=lie, levels=("layers",)).layers


@cache
@torch.no_grad()
def transformer(planted: bool = True) -> Measured:
    """Six blocks. Planted: twelve neurons of block 1 and head 2 of block 0 are zero, and block 3
    adds nothing."""
    torch.manual_seed(0)
    model = Transformer(*[64] * 6)
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    for block in blocks:
        block.attention.output.weight *= 3
        block.mlp.down.weight *= 3
    if planted:
        mlp, attention = blocks[1].mlp, blocks[0].attention
        for parameter in (mlp.up.weight, mlp.up.bias):
            parameter[5:17] = 0
        mlp.down.weight[:, 5:17] = 0
        heads = slice(2 * HEAD, 3 * HEAD)
        for part in (attention.query, attention.key, attention.value):
            part.weight[heads] = part.bias[heads] = 0
        attention.output.weight[:, heads] = 0
        for linear in (blocks[3].attention.output, blocks[3].mlp.down):
            linear.weight.zero_()
            linear.bias.zero_()
    return measured(model, SEQUENCES)


@pytest.mark.long
def test_dead_neurons_go_first() -> None:
    made = transformer()
    found = made.decide(12 * 97 / made.parameters, "conservative", levels=("channels",))
    assert found.approved_for_application
    # Those of the layer that adds nothing are as idle.
    gone = {target.layer_name: set(target.channel_indices) for target in found.channels}
    assert gone.get("blocks.1/mlp", set()) <= set(NEURONS)
    assert set(gone) <= {"blocks.1/mlp", "blocks.3/mlp"}


@pytest.mark.long
def test_an_idle_head_goes_first() -> None:
    made = transformer()
    size = 4 * WIDTH * HEAD + 3 * HEAD
    asked = 2.5 * size / made.parameters
    found = made.decide(asked, "moderate", "mask", levels=("heads",))
    gone = {target.layer_name: target.head_indices for target in found.attention_heads}
    assert found.approved_for_application
    assert gone.get("blocks.0/attention", (2,)) == (2,)
    assert set(gone) <= {"blocks.0/attention", "blocks.3/attention"}
    assert sum(map(len, gone.values())) == 2
    assert all(e is not None for t in found.attention_heads for e in t.attention_entropy)
    # Its code holds the width of all heads together, so they can be held but not taken out.
    taken = made.decide(asked, "moderate", "remove", levels=("heads",))
    assert taken.rejection_reason.startswith("the class cannot be cut")


@pytest.mark.long
def test_a_block_that_adds_nothing_goes_and_no_other() -> None:
    made = transformer()
    found = made.decide(0.2, levels=("layers",))
    assert [target.layer_name for target in found.layers] == ["blocks.3"]
    assert found.approved_for_application
    assert found.edit is not None
    assert found.edit.dropped == ("blocks.3",)
    smaller = apply_module_edit(made.subject.model, found.edit)
    assert found.statistics is not None
    assert sum(p.numel() for p in smaller.parameters()) == found.statistics.parameters_after
    assert found.layers[0].similarity == pytest.approx(1)
    assert found.layers[0].skip_potential == pytest.approx(1)
    held = made.decide(0.2, levels=("layers",), mode="mask")
    assert held.approved_for_application
    assert {mask.name.rpartition(".")[0] for mask in held.masks.masks} == {
        "blocks.3.attention.output", "blocks.3.mlp.down",
    }  # fmt: skip


@pytest.mark.long
def test_the_healthy_twin_keeps_what_the_planted_one_loses() -> None:
    made = transformer(planted=False)
    assert not made.decide(0.2, levels=("layers",)).layers
    found = made.decide(12 * 97 / made.parameters, "conservative", levels=("channels",))
    gone = {t.layer_name: set(t.channel_indices) for t in found.channels}
    assert gone.get("blocks.1/mlp") != set(NEURONS)


Lie = tuple[str, tuple[Level, ...]]
LIES: list[Lie] = [
    ("reversed", LEVELS), ("reversed", ("channels",)), ("reversed", ("heads",)),
    ("the best are free", LEVELS), ("the best are free", ("heads",)),
    ("the best of one place are free", ("channels",)),
]  # fmt: skip
PHASES: tuple[Phase, ...] = ("conservative", "moderate", "aggressive")


def told(importance: Importance, lie: str, seed: int) -> Importance:
    """Importance that calls what matters most the least important."""
    if lie == "reversed":
        return {k: tuple(None if x is None else 100 - x for x in v) for k, v in importance.items()}
    chosen = random.Random(seed)
    random_place = chosen.choice(sorted(k for k in importance if not k.endswith("layer")))
    found: Importance = {}
    for key, row in importance.items():
        best = sorted(range(len(row)), key=lambda u: -(row[u] or 0.0))[: max(len(row) // 3, 1)]
        best = chosen.sample(best, max(len(best) // 2, 1))
        lies = lie == "the best are free" or key == random_place
        found[key] = tuple(0.0 if lies and u in best else x for u, x in enumerate(row))
    return found


def approved(made: Measured, lies: list[Lie], phases: tuple[Phase, ...]) -> tuple[int, int]:
    """(cuts that went before the gate, cuts it let pass)"""
    tried = passed = 0
    for seed, (lie, levels) in enumerate(lies):
        for phase in phases:
            if phase == "conservative" and "channels" not in levels:
                continue
            importance = told(made.importance, lie, seed)
            found = made.decide(0.2, phase, importance=importance, levels=levels)
            tried += found.safety.tried > 0
            passed += found.approved_for_application
    return tried, passed


@cache
def loud(name: str) -> Measured:
    planted = {"identity_layer": identity_layer, "busy_idler": busy_idler}[name](False)
    return measured(planted.model, planted.data, planted.objective)


@cache
def small() -> Measured:
    torch.manual_seed(0)
    model = Chain(16, 64, 64, 6)
    with torch.no_grad():
        for number in range(3):
            model.linear(number).weight *= 3
    return measured(model, POINTS)


def test_nothing_harmful_is_approved() -> None:
    """Twenty plants."""
    lies: list[Lie] = [("reversed", LEVELS), ("the best are free", LEVELS)]
    assert approved(small(), lies, PHASES) == (6, 0)
    lies = [("the best of one place are free", LEVELS)] * 14
    assert approved(small(), lies, ("aggressive",)) == (14, 0)


@pytest.mark.long
@pytest.mark.parametrize("name", ["identity_layer", "busy_idler"])
def test_nothing_harmful_is_approved_in_any_phase(name: str) -> None:
    tried, passed = approved(loud(name), LIES, PHASES)
    assert tried >= 14
    assert passed == 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "llama", "cnn", "vit"])
def test_nothing_harmful_is_approved_on_trained_models(name: str) -> None:
    tried, passed = approved(measured(*TRAINED[name]()), LIES[:3] + LIES[3:4], ("moderate",))
    assert tried >= 3
    assert passed == 0
