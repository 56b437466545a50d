"""Edits in the user's own class: equal to the program form, or refused."""

import copy

import factories
import pytest
import torch
from surgery_subjects import cut, difference, own_subject, sites, storages, subject, unchanged
from torch import nn

from zsei.errors import SurgeryRefused
from zsei.subject.types import UnitKind
from zsei.surgery.apply import ProgramModel, apply_edits, example_inputs, input_sizes
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_edit import ModuleEdit, TensorCut, apply_module_edit
from zsei.surgery.module_form import edit_module, equal, run
from zsei.surgery.program_form import edit_program, plan_edits

OWN: list[tuple[str, UnitKind]] = [
    ("bert", "head"), ("bert", "neuron"), ("bert", "layer"), ("gpt2", "head"), ("gpt2", "neuron"),
    ("gpt2", "layer"), ("llama", "head"), ("llama", "neuron"), ("llama", "layer"),
    ("mixtral", "head"), ("t5", "neuron"), ("vit", "head"), ("resnet", "channel"),
    ("patchtst", "head"), ("mlp", "neuron"),
    ("encoder", "neuron"), ("encoder", "layer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(f, k, marks=pytest.mark.long if f in ("mixtral", "t5", "patchtst") else ())
        for f, k in OWN
    ],
)
def test_the_own_class_computes_what_the_edited_program_computes(
    family: str, kind: UnitKind
) -> None:
    found = subject(family)
    assert found.program is not None
    inputs = example_inputs(found)
    before = storages(found.model)
    # Uneven: only one of the sites, so that no config value could say it.
    edits = [cut(sites(found.anatomy, kind)[-1], family)]
    edited, data = edit_module(found.model, found.program, edits, found.anatomy, inputs)
    assert type(edited) is type(found.model)
    wanted = edit_program(found.program, edits)(*inputs)
    assert difference(run(edited, found.input_names, inputs), wanted) < 1e-5
    removed = sum(p.numel() for p in found.model.parameters()) - sum(
        p.numel() for p in edited.parameters()
    )
    assert removed == plan_edits(found.program, edits).parameters_removed
    assert unchanged(found.model, before)
    replayed = apply_module_edit(
        found.model, ModuleEdit.model_validate_json(data.model_dump_json())
    )
    assert difference(run(replayed, found.input_names, inputs), wanted) < 1e-5


def test_stated_widths_are_those_of_the_weights() -> None:
    found = subject("gpt2")
    assert found.program is not None
    edits = [cut(site) for site in sites(found.anatomy, "head", "neuron")]
    edited, _ = edit_module(found.model, found.program, edits, found.anatomy, example_inputs(found))
    for module in edited.modules():
        if type(module).__name__ == "Conv1D":
            assert (module.nx, module.nf) == tuple(module.weight.shape)
    assert edited.config.n_inner == 125
    assert edited.config.n_head == 3
    assert found.model.config.n_head == 4
    assert found.model.config.n_inner is None


def test_the_rest_of_a_shortened_list_is_numbered_anew() -> None:
    found = subject("llama")
    assert found.program is not None
    layer = sites(found.anatomy, "layer")[0]
    edited, data = edit_module(
        found.model, found.program, [cut(layer)], found.anatomy, example_inputs(found)
    )
    assert data.dropped == ("model.layers.0",)
    assert [layer.self_attn.layer_idx for layer in edited.model.layers] == [0]
    assert edited.config.num_hidden_layers == 1
    # The cache asks every layer for its number.
    ids = example_inputs(found)[0]
    with torch.no_grad():
        cached = edited(input_ids=ids, use_cache=True).logits
    assert difference(cached, run(edited, found.input_names, example_inputs(found))) < 1e-5


@pytest.mark.parametrize("family", ["t5", "encoder"])
def test_a_class_that_cannot_follow_is_left_to_the_program(family: str) -> None:
    """T5's later layers get the first one's position bias; torch's attention checks its width."""
    found = subject(family)
    assert found.program is not None
    inputs = example_inputs(found)
    edits = [cut(sites(found.anatomy, "head")[0])]
    before = storages(found.model)
    with pytest.raises(SurgeryRefused, match="cannot be edited in its own class"):
        edit_module(found.model, found.program, edits, found.anatomy, inputs)
    assert unchanged(found.model, before)


def test_the_program_stands_in_for_the_class() -> None:
    found = subject("encoder")
    assert found.program is not None
    inputs = example_inputs(found)
    edits = [cut(sites(found.anatomy, "head")[0])]
    edited = apply_edits(found, edits)
    assert edited.form == "program"
    assert isinstance(edited.model, ProgramModel)
    assert "cannot be edited in its own class" in edited.note
    assert [sizes[0] for sizes in input_sizes(edited.program)] == [None] * len(inputs)
    wanted = edit_program(found.program, edits)(*inputs)
    assert difference(run(edited.model, found.input_names, inputs), wanted) < 1e-5
    few = tuple(tensor[:2] for tensor in inputs)
    named = dict(zip(found.input_names, few, strict=True))
    assert difference(edited.model(**named), wanted[:2]) < 1e-4
    with pytest.raises(TypeError, match="takes"):
        edited.model(few[0], few[0], few[0], few[0], few[0])
    assert all(p.requires_grad for p in edited.model.parameters())
    copied = copy.deepcopy(edited.model)
    assert torch.equal(
        run(copied, found.input_names, few), run(edited.model, found.input_names, few)
    )


class Stubborn(nn.Module):
    """Its code states a width as a number that no module holds."""

    def __init__(self, lies: bool) -> None:
        super().__init__()
        self.up, self.down, self.lies = nn.Linear(6, 20), nn.Linear(20, 4), lies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.up(x))
        if self.lies:
            # The same number for every width of the hidden layer but the original one.
            return self.down(hidden) * (20 / hidden.shape[-1])
        return self.down(hidden.view(-1, 20))


@pytest.mark.parametrize(("lies", "reason"), [(True, "outputs differ"), (False, "RuntimeError")])
def test_what_a_class_does_with_its_widths_is_measured_not_believed(
    lies: bool, reason: str
) -> None:
    found = own_subject(Stubborn(lies).eval(), {"x": torch.randn(12, 6), "y": torch.randn(12, 4)})
    assert found.program is not None
    site = sites(found.anatomy, "neuron")[0]
    with pytest.raises(SurgeryRefused, match=reason):
        edit_module(
            found.model, found.program, [RemoveUnits(site=site, units=(3,))], found.anatomy,
            example_inputs(found),
        )  # fmt: skip


def test_a_model_the_edit_was_not_made_for_is_refused() -> None:
    model, _ = factories.tiny_mlp()
    with pytest.raises(SurgeryRefused, match="no parameter `nowhere`"):
        apply_module_edit(
            model, ModuleEdit(cuts=(TensorCut(name="nowhere", axis=0, removed=(1,)),))
        )


def test_equality_looks_at_shape_type_and_what_is_not_finite() -> None:
    one = torch.tensor([1.0, float("-inf")])
    assert equal(one, one.clone())
    assert equal(one, one + torch.tensor([1e-6, 0.0]))
    assert not equal(one, one + torch.tensor([1e-4, 0.0]))
    assert not equal(one, torch.tensor([1.0, float("inf")]))
    assert not equal(one, one.double())
    assert not equal(one, one[:1])
    assert not equal(torch.tensor([float("nan")]), torch.tensor([1.0]))
