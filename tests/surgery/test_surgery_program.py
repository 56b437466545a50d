"""Removed from the program means held at zero in the original, on every family."""

from dataclasses import replace

import factories
import pytest
import torch
from oracles import removal
from surgery_subjects import (
    UNITS,
    cut,
    difference,
    parameters,
    program_of,
    sites,
    some_units,
    storages,
    subject,
    unchanged,
)
from torch import nn

from zsei.errors import SurgeryRefused
from zsei.surgery.apply import example_inputs
from zsei.surgery.edits import BypassLayer, RemoveUnits, same_sites
from zsei.surgery.program_form import edit_program, plan_edits
from zsei.surgery.symbolic import static_anatomy

FAMILIES = ("bert", "gpt2", "llama", "mixtral", "t5", "vit", "resnet", "patchtst", "mlp", "encoder")
EXPECTED = {
    "bert": {"head": 2, "neuron": 2}, "gpt2": {"head": 2, "neuron": 2},
    "llama": {"head": 2, "neuron": 2}, "mixtral": {"head": 2}, "t5": {"head": 6, "neuron": 4},
    "vit": {"head": 2, "neuron": 2}, "resnet": {"channel": 5}, "mlp": {"neuron": 2},
    "patchtst": {"head": 2, "neuron": 2}, "encoder": {"head": 2, "neuron": 2},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_units_equal_units_held_at_zero(family: str) -> None:
    found = subject(family)
    program = found.program
    assert program is not None
    inputs = example_inputs(found)
    own = sites(found.anatomy, *UNITS)
    counts = {kind: sum(s.kind == kind for s in own) for kind in UNITS}
    assert {k: n for k, n in counts.items() if n} == EXPECTED[family]
    original = program(*inputs)
    before = storages(program.graph_module)
    for site in own:
        units = some_units(site, family)
        edit = RemoveUnits(site=site, units=units)
        edited = edit_program(program, [edit])
        wanted = removal.masked(program, inputs, [(site, units)])
        found_difference = difference(edited(*inputs), wanted)
        assert found_difference < 1e-5, site.component
        assert difference(original, wanted) > 1e-6 + 10 * found_difference, site.component
        plan = plan_edits(program, [edit])
        assert parameters(program) - parameters(edited) == plan.parameters_removed > 0
        assert 0 < plan.flops_removed_share < 1
    assert unchanged(program.graph_module, before)


@pytest.mark.parametrize("family", ["gpt2", "llama", "encoder"])
def test_all_edits_at_once_and_on_a_program_of_any_size(family: str) -> None:
    found = subject(family)
    assert found.program is not None
    inputs = example_inputs(found)
    own = sites(found.anatomy, *UNITS)
    edits = [cut(site, family) for site in own]
    wanted = removal.masked(found.program, inputs, [(s, some_units(s, family)) for s in own])
    assert difference(edit_program(found.program, edits)(*inputs), wanted) < 1e-5
    model, data = factories.FAMILIES[family]()
    columns = tuple(data[name] for name in found.input_names if name in data)
    if len(columns) < len(found.input_names):
        columns = (columns[0], torch.ones_like(columns[0]))
    dynamic, anatomy = program_of(model, *(c[:4] for c in columns), dynamic=True)
    edited = edit_program(dynamic, same_sites(edits, anatomy))
    other = tuple(c[:3, :9] if family in ("gpt2", "llama") else c[:3] for c in columns)
    again = [(anatomy.site(s.component, s.kind), some_units(s, family)) for s in own]
    assert all(site is not None for site, _ in again)
    held = removal.masked(dynamic, other, [(site, units) for site, units in again if site])
    assert difference(edited(*other), held) < 1e-5


def test_untouched_parameters_share_their_storage() -> None:
    found = subject("bert")
    assert found.program is not None
    site = sites(found.anatomy, "neuron")[0]
    edited = edit_program(found.program, [RemoveUnits(site=site, units=(0,))])
    before = {n: p.data_ptr() for n, p in found.program.graph_module.named_parameters()}
    after = {n: p.data_ptr() for n, p in edited.graph_module.named_parameters()}
    own = [name for name in after if after[name] != before[name]]
    assert sorted(name.split("layer.0.")[1] for name in own) == [
        "intermediate.dense.bias", "intermediate.dense.weight", "output.dense.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_a_bypassed_layer_equals_the_class_without_it(family: str) -> None:
    found = subject(family)
    assert found.program is not None
    inputs = example_inputs(found)
    site = sites(found.anatomy, "layer")[0]
    edited = edit_program(found.program, [BypassLayer(site=site)])
    model, _ = factories.FAMILIES[family]()
    layers = model.get_submodule(site.component.rpartition(".")[0])
    del layers[0]  # type: ignore[attr-defined]
    model.config.num_hidden_layers = 1
    named = dict(zip(found.input_names, inputs, strict=True))
    with torch.no_grad():
        wanted = model(**named, **({"use_cache": False} if family == "llama" else {}))[0]
    assert difference(edited(*inputs), wanted) < 1e-6
    assert difference(found.program(*inputs), wanted) > 1e-3


def test_neighbouring_layers_can_go_together_with_units_of_others() -> None:
    model, x = residual_chain()
    program, anatomy = program_of(model, x)
    first, second = sites(anatomy, "layer")[:2]
    neuron = next(s for s in sites(anatomy, "neuron") if s.component.startswith("2"))
    edits = [
        BypassLayer(site=second),
        BypassLayer(site=first),
        RemoveUnits(site=neuron, units=(4,)),
    ]
    edited = edit_program(program, edits)
    kept = model[2:]
    rest, rest_anatomy = program_of(kept, x)
    same = next(s for s in sites(rest_anatomy, "neuron") if s.component.startswith("2"))
    wanted = removal.masked(rest, (x,), [(same, (4,))])
    assert difference(edited(x), wanted) < 1e-6
    assert parameters(edited) == parameters(rest) - (8 + 1 + 8)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def residual_chain() -> tuple[nn.Sequential, torch.Tensor]:
    return nn.Sequential(*(Residual() for _ in range(4))).eval(), torch.randn(3, 8)


def test_the_hand_written_sums_agree() -> None:
    """An oracle that knows nothing of programs: sums over the units that stay."""
    width, size = 12, 3
    parts = {name: nn.Linear(width, width) for name in ("query", "key", "value", "output")}

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict(parts)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (
                self.parts[n](x).unflatten(-1, (-1, size)).transpose(1, 2)
                for n in ("query", "key", "value")
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.parts["output"](mixed.transpose(1, 2).flatten(2))

    x = torch.randn(2, 5, width)
    program, anatomy = program_of(Attention().eval(), x)
    edited = edit_program(program, [RemoveUnits(site=sites(anatomy, "head")[0], units=(0, 2))])
    wanted = removal.attention_of_heads(x, parts, (1, 3), size)
    assert difference(edited(x), wanted) < 1e-5

    up, down = nn.Linear(width, 20), nn.Linear(20, 7)
    program, anatomy = program_of(nn.Sequential(up, nn.ReLU(), down), x)
    edited = edit_program(program, [RemoveUnits(site=sites(anatomy, "neuron")[0], units=(0, 19))])
    wanted = removal.mlp_of_neurons(x, up, down, range(1, 19))
    assert difference(edited(x), wanted) < 1e-5

    image = torch.randn(2, 3, 6, 6)
    norm = nn.BatchNorm2d(8)
    for tensor in (norm.running_mean, norm.bias.data, norm.weight.data):
        assert tensor is not None
        tensor.normal_()
    stack = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
    ).eval()
    program, anatomy = program_of(stack, image)
    edited = edit_program(program, [RemoveUnits(site=sites(anatomy, "channel")[0], units=(2, 7))])
    wanted = removal.convolution_of_channels(image, stack, (0, 1, 3, 4, 5, 6))
    assert difference(edited(image), wanted) < 1e-5


def test_channels_through_pooling_depthwise_and_flattening() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    ).eval()  # fmt: skip
    image = torch.randn(2, 1, 8, 8)
    program, anatomy = program_of(model, image)
    site = sites(anatomy, "channel")[0]
    # Each of the 8 channels is two behind the depthwise convolution, whose bias goes with it.
    assert (site.node, site.units, site.unit_size) == ("relu_1", 8, 2)
    edited = edit_program(program, [RemoveUnits(site=site, units=(1, 6))])
    shapes = {n: tuple(p.shape) for n, p in edited.graph_module.named_parameters()}
    assert shapes["model.4.weight"] == (12, 1, 3, 3)
    assert shapes["model.7.weight"] == (5, 192)
    wanted = removal.masked(program, (image,), [(site, (1, 6))])
    assert difference(edited(image), wanted) < 1e-5


def test_a_module_called_twice_is_cut_in_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Residual(), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.block(self.block(x)))

    x = torch.randn(3, 8)
    program, anatomy = program_of(Twice().eval(), x)
    first, second = sites(anatomy, "neuron")
    edited = edit_program(program, [RemoveUnits(site=first, units=(2, 5))])
    wanted = removal.masked(program, (x,), [(first, (2, 5)), (second, (2, 5))])
    assert difference(edited(x), wanted) < 1e-6


def test_a_position_bias_shared_by_layers_is_selected_from_not_cut() -> None:
    found = subject("t5")
    assert found.program is not None
    first, second = sites(found.anatomy, "head")[:2]
    plan = plan_edits(found.program, [RemoveUnits(site=first, units=(1,))])
    assert [s.kept for s in plan.group.selections] == [(0, 2, 3)]
    assert second.node not in plan.group.values
    assert not [n for n in plan.group.parameters if "relative_attention_bias" in n]
    model, data = factories.tiny_t5(num_layers=1)
    ids = data["input_ids"][:2]
    program, anatomy = program_of_t5(model, ids)
    plan = plan_edits(program, [RemoveUnits(site=sites(anatomy, "head")[0], units=(1,))])
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert plan.group.parameters[name] == {1: (1,)}
    assert not plan.group.selections


def program_of_t5(model: nn.Module, ids: torch.Tensor):
    from zsei.subject.anatomy import read_anatomy
    from zsei.subject.program import export, frozen_twin

    program = export(frozen_twin(model), ("input_ids", "decoder_input_ids"), (ids, ids))
    return program, read_anatomy(program)


def test_a_fixed_program_and_its_twin_name_the_same_sites() -> None:
    found = subject("resnet")
    model, data = factories.tiny_resnet()
    program, anatomy = program_of(model, data["pixel_values"][:4], dynamic=True)
    wanted = [(s.component, s.kind, s.units) for s in found.anatomy.sites]
    assert [(s.component, s.kind, s.units) for s in anatomy.sites] == wanted
    assert static_anatomy(program).sites == anatomy.sites
    lost = replace(found.anatomy, sites=())
    with pytest.raises(SurgeryRefused, match="no counterpart"):
        same_sites([cut(sites(found.anatomy, "channel")[0])], lost)
