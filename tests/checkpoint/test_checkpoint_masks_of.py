"""Entries held at zero make a model compute what it computes without them."""

import copy
from collections.abc import Sequence

import pytest
import torch
from prepared import family
from torch import Tensor, nn

from zsei.checkpoint.contracts import TensorMask
from zsei.checkpoint.decide.masks_of import hold, masked_copy, masks_of
from zsei.errors import SurgeryRefused
from zsei.pruning.places import find_places, sites_left
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.apply import example_inputs
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.module_form import run
from zsei.surgery.program_form import edit_program

FEW = Settings(min_channels=4, min_heads=1)
LONG = ("gpt2", "bert", "resnet", "llama", "t5", "vit", "patchtst", "encoder", "mixtral")
FAMILIES = ["mlp", *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]


def _difference(subject: Subject, edits: Sequence[Edit]) -> float:
    """Largest difference to the smaller program, over its largest output."""
    assert subject.program is not None
    inputs = example_inputs(subject)
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    masks = masks_of(subject, edits, inputs)
    held = run(masked_copy(subject.model, masks), subject.input_names, inputs)
    wanted = edit_program(subject.program, edits)(*inputs)
    assert all(torch.equal(p, before[n]) for n, p in subject.model.named_parameters())
    assert not torch.allclose(wanted, run(subject.model, subject.input_names, inputs)), "a no-op"
    return float((held - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_units_held_at_zero_are_units_removed(name: str) -> None:
    subject = family(name)
    assert subject.program is not None
    places, _ = find_places(subject.program, sites_left(subject.anatomy, ()), FEW)
    edits = [
        RemoveUnits(site=place.left.site, units=place.units(1 % place.groups)) for place in places
    ]
    assert edits
    assert _difference(subject, edits) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "resnet", "llama", "t5", "vit", "patchtst"])
def test_layers_held_at_zero_are_layers_removed(name: str) -> None:
    subject = family(name)
    layers = [s for s in subject.anatomy.sites if s.kind == "layer" and s.source]
    edits = [BypassLayer(site=layers[-1])]
    assert _difference(subject, edits) <= 1e-6


@pytest.mark.long
def test_units_and_a_layer_together() -> None:
    subject = family("gpt2")
    mlp = subject.anatomy.site("transformer.h.0/mlp", "neuron")
    layer = subject.anatomy.site("transformer.h.1", "layer")
    assert mlp is not None
    assert layer is not None
    edits = [RemoveUnits(site=mlp, units=(3, 90)), BypassLayer(site=layer)]
    assert _difference(subject, edits) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "encoder"])
def test_a_layer_behind_a_norm_is_refused(name: str) -> None:
    subject = family(name)
    layer = next(s for s in subject.anatomy.sites if s.kind == "layer")
    with pytest.raises(SurgeryRefused, match="layer_norm"):
        masks_of(subject, [BypassLayer(site=layer)], example_inputs(subject))


def test_a_batch_norm_is_silenced_with_its_channel() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())
    with torch.no_grad():
        for tensor in (norm.bias, norm.running_mean, norm.weight):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
    subject = prepare(model, torch.randn(16, 3, 6, 6))
    site = next(s for s in subject.anatomy.sites if s.kind == "channel")
    edits = [RemoveUnits(site=site, units=(1, 4))]
    masks = masks_of(subject, edits, example_inputs(subject))
    assert {(mask.name, mask.axis) for mask in masks} == {
        ("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("3.weight", 1),
    }, "and its statistics go on as they are"  # fmt: skip
    assert {mask.removed for mask in masks} == {(1, 4)}
    assert _difference(subject, edits) <= 1e-6


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(SurgeryRefused, match="no parameter"):
        hold(nn.Linear(2, 2), [TensorMask(name="wait", axis=0, removed=(0,))])


def _steps(model: nn.Module, masks: Sequence[TensorMask], x: Tensor, again: bool) -> float:
    """Largest held entry after Adam, its momenta from before the mask, has gone on for a while."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    worst = 0.0
    for step in range(6):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
        if step == 2 or (again and step > 2):
            hold(model, masks)
        if step > 2:
            held = copy.deepcopy(model)
            hold(held, masks)
            pairs = zip(model.parameters(), held.parameters(), strict=True)
            worst = max(worst, *(float((a - b).detach().abs().max()) for a, b in pairs))
    return worst


def _chain(activation: nn.Module) -> tuple[nn.Module, list[TensorMask]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3))
    masks = [TensorMask(name="0.weight", axis=0, removed=(1, 4)),
             TensorMask(name="0.bias", axis=0, removed=(1, 4)),
             TensorMask(name="2.weight", axis=1, removed=(1, 4))]  # fmt: skip
    return model, masks


def test_momentum_moves_what_is_held_unless_it_is_held_again() -> None:
    x = torch.randn(8, 4)
    model, masks = _chain(nn.GELU())
    assert _steps(copy.deepcopy(model), masks, x, again=False) > 1e-3
    assert _steps(model, masks, x, again=True) == 0


@pytest.mark.parametrize(("activation", "stays"), [(nn.GELU(), True), (nn.Sigmoid(), False)])
def test_own_gradients_leave_zeros_alone_where_the_activation_keeps_zero(
    activation: nn.Module, stays: bool
) -> None:
    model, masks = _chain(activation)
    hold(model, masks)
    model(torch.randn(8, 4)).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    own = [gradients[m.name].index_select(m.axis, torch.tensor(m.removed)) for m in masks]  # type: ignore[union-attr]
    assert all(float(g.abs().max()) == 0 for g in own) is stays
