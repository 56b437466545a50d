"""What cannot be proven is refused, and the message names the call, its module and its shape."""

from dataclasses import replace

import factories
import pytest
import torch
from oracles import removal
from surgery_subjects import difference, program_of, sites, subject
from torch import nn

from zsei.errors import SurgeryRefused
from zsei.subject.types import Site
from zsei.surgery.edits import BypassLayer, RemoveUnits
from zsei.surgery.program_form import edit_program, plan_edits


def site_at(node: str, axis: int, units: int, size: int = 1) -> Site:
    return Site(component=node, kind="neuron", node=node, axis=axis, units=units, unit_size=size)


def refusal(model: nn.Module, x: torch.Tensor, node: str, axis: int, units: int) -> str:
    program, _ = program_of(model.eval(), x)
    with pytest.raises(SurgeryRefused) as caught:
        plan_edits(program, [RemoveUnits(site=site_at(node, axis, units), units=(1,))])
    return str(caught.value)


def test_a_recurrent_cell_is_named() -> None:
    found = subject("lstm")
    assert found.program is not None
    taken = next(n for n in found.program.graph_module.graph.nodes if n.name == "getitem")
    width = taken.meta["val"].shape[-1]
    with pytest.raises(SurgeryRefused, match=r"`aten\.lstm\.input` in `lstm` on \["):
        plan_edits(found.program, [RemoveUnits(site=site_at("getitem", 2, width), units=(0,))])


def test_fewer_experts_than_a_token_is_sent_to_are_named() -> None:
    found = subject("mixtral")
    assert found.program is not None
    site = next(site for site in found.anatomy.untapped if site.kind == "expert")
    with pytest.raises(SurgeryRefused, match=r"`aten\.topk.*in `model\.layers\.0\.mlp\.gate` on "):
        plan_edits(found.program, [RemoveUnits(site=site, units=(0, 1, 3))])
    with pytest.raises(SurgeryRefused, match=r"would leave 1\. Keep at least 2"):
        plan_edits(found.program, [RemoveUnits(site=site, units=(0, 1, 3))])
    chosen = replace(site, node="linear")
    with pytest.raises(SurgeryRefused, match="`linear` is no such linear"):
        plan_edits(found.program, [RemoveUnits(site=chosen, units=(0,))])


def test_a_reader_that_saw_the_units_before_they_were_zero_is_named() -> None:
    """Squeeze and excitation: behind the gate the channels are zero, the gate itself saw them."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.squeeze = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1)
            self.excite, self.down = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.relu(self.up(x))
            gate = torch.relu(self.squeeze(hidden.mean((2, 3), keepdim=True)))
            return self.down(hidden * torch.sigmoid(self.excite(gate)))

    image = torch.randn(2, 2, 4, 4)
    message = refusal(Gated(), image, "mul", 1, 6)
    assert "`aten.conv2d.default` in `squeeze` on [2, 6, 1, 1]" in message
    assert "not zero yet" in message
    program, anatomy = program_of(Gated().eval(), image)
    site = sites(anatomy, "channel")[0]
    assert (site.component, site.node) == ("up", "relu")
    edited = edit_program(program, [RemoveUnits(site=site, units=(1, 4))])
    wanted = removal.masked(program, (image,), [(site, (1, 4))])
    assert difference(edited(image), wanted) < 1e-6


def test_a_norm_over_the_cut_axis_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    message = refusal(model, torch.randn(2, 4), "linear", 1, 6)
    assert "`aten.layer_norm.default` in `1` on [2, 6]" in message
    assert "must stay whole" in message


def test_a_softmax_over_the_cut_axis_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2))
    assert "`aten.softmax.int` in `1`" in refusal(model, torch.randn(2, 4), "linear", 1, 6)


def test_inputs_and_the_output_keep_their_shape() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 6), nn.ReLU())
    x = torch.randn(2, 4)
    assert "is an input of the model" in refusal(model, x, "relu", 1, 4)
    assert "is the model's output" in refusal(model, x, "relu_1", 1, 6)


def test_half_a_group_of_a_group_norm_stays() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 1)).eval()
    x = torch.randn(2, 2, 4, 4)
    assert "whole" in refusal(model, x, "conv2d", 1, 8)
    program, _ = program_of(model, x)
    site = site_at("group_norm", 1, 4, size=2)
    edited = edit_program(program, [RemoveUnits(site=site, units=(2,))])
    assert difference(edited(x), removal.masked(program, (x,), [(site, (2,))])) < 1e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_grouped_queries_go_in_whole_groups_or_evenly(attention: str) -> None:
    model, data = factories.tiny_llama(
        num_attention_heads=6, hidden_size=48, attn_implementation=attention
    )
    ids = data["input_ids"][:2]
    from zsei.subject.anatomy import read_anatomy
    from zsei.subject.program import export, frozen_twin

    program = export(frozen_twin(model), ("input_ids",), (ids,))
    site = sites(read_anatomy(program), "head")[0]
    for units, widths in {
        (0, 1, 2): (24, 8), (0, 4): (32, 16), (2, 3): (32, 16), (0, 1, 2, 5): (16, 8),
    }.items():  # fmt: skip
        edited = edit_program(program, [RemoveUnits(site=site, units=units)])
        wanted = removal.masked(program, (ids,), [(site, units)])
        assert difference(edited(ids), wanted) < 1e-5, units
        shapes = {n: p.shape[0] for n, p in edited.graph_module.named_parameters()}
        found = [shapes[f"model.model.layers.0.self_attn.{p}_proj.weight"] for p in "qk"]
        assert tuple(found) == widths, units
    for units in ((0,), (0, 1), (0, 1, 3)):
        with pytest.raises(SurgeryRefused, match="whole groups, or the same number from every"):
            plan_edits(program, [RemoveUnits(site=site, units=units)])


def test_keys_shared_inside_the_attention_call_follow_the_same_rule() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv, self.o = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.q(x).unflatten(-1, (6, 4)).transpose(1, 2)
            k, v = self.kv(x).unflatten(-1, (2, 3, 4)).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.o(mixed.transpose(1, 2).flatten(2))

    x = torch.randn(2, 5, 8)
    program, anatomy = program_of(Shared().eval(), x)
    site = sites(anatomy, "head")[0]
    for units, rows in (((2, 3), 16), ((0, 3, 4), 24)):
        edited = edit_program(program, [RemoveUnits(site=site, units=units)])
        assert difference(edited(x), removal.masked(program, (x,), [(site, units)])) < 1e-5
        assert dict(edited.graph_module.named_parameters())["model.kv.weight"].shape[0] == rows
    with pytest.raises(SurgeryRefused, match="key/value heads"):
        plan_edits(program, [RemoveUnits(site=site, units=(0,))])


def test_nothing_and_everything_are_refused() -> None:
    found = subject("bert")
    assert found.program is not None
    head = sites(found.anatomy, "head")[0]
    with pytest.raises(SurgeryRefused, match="removes no parameter"):
        plan_edits(found.program, [])
    with pytest.raises(SurgeryRefused, match="removes no parameter"):
        plan_edits(found.program, [RemoveUnits(site=head, units=())])
    with pytest.raises(SurgeryRefused, match="keep at least one"):
        plan_edits(found.program, [RemoveUnits(site=head, units=(0, 1, 2, 3))])
    with pytest.raises(SurgeryRefused, match="units 0 to 3"):
        plan_edits(found.program, [RemoveUnits(site=head, units=(4,))])


def test_layers_that_change_the_shape_cannot_be_led_around() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    program, _ = program_of(model, torch.randn(2, 4))
    wide = Site(component="0", kind="layer", node="linear", axis=None, units=1, source="inputs_0")
    with pytest.raises(SurgeryRefused, match=r"`0` as \(2, 6\), but \(2, 4\) enters it"):
        plan_edits(program, [BypassLayer(site=wide)])
    with pytest.raises(SurgeryRefused, match="no value that could stand in"):
        plan_edits(program, [BypassLayer(site=replace(wide, source=None))])


def test_units_of_a_bypassed_layer_are_gone() -> None:
    found = subject("bert")
    assert found.program is not None
    layer = sites(found.anatomy, "layer")[0]
    head = sites(found.anatomy, "head")[0]
    with pytest.raises(SurgeryRefused, match="There is no value"):
        plan_edits(found.program, [BypassLayer(site=layer), RemoveUnits(site=head, units=(0,))])


def test_a_read_entry_and_a_rolled_axis_are_named() -> None:
    class Reads(nn.Module):
        def __init__(self, read: bool) -> None:
            super().__init__()
            self.up, self.down, self.read = nn.Linear(4, 6), nn.Linear(6, 2), read

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.relu(self.up(x))
            extra = hidden[:, 1:2] if self.read else hidden.roll(1, -1)
            return self.down(hidden) + extra.sum()

    x = torch.randn(2, 4)
    assert "`aten.slice.Tensor`" in refusal(Reads(True), x, "relu", 1, 6)
    assert "`aten.roll.default`" in refusal(Reads(False), x, "relu", 1, 6)
