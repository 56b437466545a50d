"""Half precision and tied weights survive being cut, saved and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from surgery_subjects import FEW, cut, difference, own_subject, sites
from torch import Tensor, nn

from zsei.errors import ModelError, SurgeryRefused
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.types import UnitKind
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.module_form import run
from zsei.surgery.recipe import Recipe
from zsei.surgery.save import load, save
from zsei.trace.run import trace


def half(made: factories.Made, dtype: torch.dtype) -> factories.Made:
    model, data = made

    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    if isinstance(data, dict):
        return model.to(dtype), {name: cast(value) for name, value in data.items()}
    return model.to(dtype), tuple(cast(value) for value in data)


def saved(
    made: factories.Made, kind: UnitKind, alike: bool, folder: Path
) -> tuple[EditedModel, Recipe, nn.Module]:
    """A model cut, saved and loaded; the original is proven untouched."""
    model, data = made
    before = model_hash(model)
    found = prepare(model, data, settings=FEW)
    own = sites(found.anatomy, kind)
    edited = apply_edits(found, [cut(site) for site in (own if alike else own[-1:])])
    recipe = save(edited, folder)
    assert model_hash(model) == before
    return edited, recipe, load(folder)


def same_bytes(found: nn.Module, wanted: nn.Module) -> bool:
    one, other = found.state_dict(), wanted.state_dict()
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


HALVES: list[tuple[Callable[[], factories.Made], UnitKind, bool, torch.dtype, str]] = [
    # model, what goes, from every block alike, precision, the folder that holds it
    (factories.tiny_bert, "neuron", True, torch.bfloat16, "huggingface"),
    (factories.tiny_gpt2, "head", False, torch.float16, "module"),
    (factories.tiny_mlp, "neuron", True, torch.bfloat16, "program"),
    (factories.tiny_resnet, "channel", False, torch.float16, "module"),
]


@pytest.mark.parametrize(("make", "kind", "alike", "dtype", "form"), HALVES)
def test_half_precision_keeps_class_and_bytes(
    make: Callable[[], factories.Made],
    kind: UnitKind,
    alike: bool,
    dtype: torch.dtype,
    form: str,
    tmp_path: Path,
) -> None:
    edited, recipe, back = saved(half(make(), dtype), kind, alike, tmp_path / "model")
    assert (recipe.form, recipe.difference) == (form, 0.0)
    assert {tensor.dtype for tensor in back.parameters()} == {dtype}
    if form != "program":
        assert same_bytes(back, edited.model)
    assert torch.equal(run(back, edited.input_names, edited.inputs), edited.output)


def test_a_half_model_is_a_plain_folder_in_its_precision(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = half(factories.tiny_llama(num_hidden_layers=1), torch.bfloat16)
    edited, recipe, _ = saved(made, "neuron", True, tmp_path / "model")
    assert recipe.form == "huggingface"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert {tensor.dtype for tensor in plain.parameters()} == {torch.bfloat16}
    assert same_bytes(plain, edited.model)
    # transformers keeps the rotary frequencies in full precision; `.to(bfloat16)` had cut them.
    found = difference(run(plain, edited.input_names, edited.inputs), edited.output)
    assert recipe.difference == pytest.approx(found)
    assert 0 < found < 0.01


def test_a_model_of_two_precisions_keeps_both(tmp_path: Path) -> None:
    model, data = half(factories.tiny_t5(num_layers=1), torch.bfloat16)
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.float()  # as transformers itself keeps it where half is float16
    edited, recipe, back = saved((model, data), "neuron", False, tmp_path / "model")
    assert recipe.form == "module"
    assert {tensor.dtype for tensor in back.parameters()} == {torch.bfloat16, torch.float32}
    assert same_bytes(back, edited.model)
    assert ties(model) == ties(edited.model) == ties(back) != set()


def ties(model: nn.Module) -> set[frozenset[str]]:
    """Names that stand for one parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(own) for own in names.values() if len(own) > 1}


def masked_bert() -> factories.Made:
    from transformers import BertForMaskedLM

    encoder, data = factories.tiny_bert()
    with torch.random.fork_rng(devices=[]):
        return BertForMaskedLM(encoder.config).eval(), data  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "alike", "form"),
    [
        (factories.tiny_gpt2, True, "huggingface"),
        (masked_bert, False, "module"),
    ],
)
def test_tied_names_stay_tied(
    make: Callable[[], factories.Made], alike: bool, form: str, tmp_path: Path
) -> None:
    made = make()
    edited, recipe, back = saved(made, "neuron", alike, tmp_path / "model")
    assert recipe.form == form
    assert ties(made[0]) == ties(edited.model) == ties(back) != set()
    assert same_bytes(back, edited.model)
    assert torch.equal(run(back, edited.input_names, edited.inputs), edited.output)


class TiedByHand(nn.Module):
    """A class of the user's own whose read-out is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)
        self.out = nn.Linear(16, 64, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.out(x + self.down(torch.relu(self.up(x))))


def test_a_tie_of_the_users_own_is_stored_once(tmp_path: Path) -> None:
    found = own_subject(TiedByHand().eval(), {"tokens": factories.token_ids()})
    edited = apply_edits(found, [cut(sites(found.anatomy, "neuron")[0])])
    assert ties(edited.model) == {frozenset(("embedding.weight", "out.weight"))}
    assert save(edited, tmp_path / "model").form == "program"
    back = load(tmp_path / "model")
    assert sum(p.numel() for p in back.parameters()) == sum(
        p.numel() for p in edited.model.parameters()
    )
    assert torch.equal(run(back, edited.input_names, edited.inputs), edited.output)


def test_ties_that_the_config_promises_and_the_model_broke_are_seen(tmp_path: Path) -> None:
    """A read-out set free by hand, which the config still calls tied, must not be tied again."""
    model: Any
    model, data = factories.tiny_gpt2()
    model.lm_head.weight = nn.Parameter(torch.randn(64, 32) * 0.1)
    edited, recipe, back = saved((model, data), "neuron", True, tmp_path / "model")
    assert recipe.difference == 0
    assert ties(back) == set()
    assert same_bytes(back, edited.model)
    assert torch.equal(run(back, edited.input_names, edited.inputs), edited.output)


def test_a_tied_parameter_takes_its_new_value_under_any_of_its_names() -> None:
    found = prepare(*factories.tiny_gpt2(n_layer=1), settings=FEW)
    edits = [cut(sites(found.anatomy, "neuron")[0])]
    value = torch.randn(64, 32)
    names = ("transformer.wte.weight", "lm_head.weight")
    for given in ({names[0]: value}, {names[1]: value}, dict.fromkeys(names, value)):
        edited = apply_edits(found, edits, weights=given)
        assert edited.form == "module"
        assert ties(edited.model) == {frozenset(names)}
        assert torch.equal(edited.model.get_parameter(names[0]), value)
    with pytest.raises(SurgeryRefused, match=r"wte.weight` and `lm_head.weight` are one parameter"):
        apply_edits(found, edits, weights={names[0]: value, names[1]: value + 1})


def test_measuring_in_half_precision_is_refused_with_the_way_out() -> None:
    model, data = half(factories.tiny_mlp(), torch.bfloat16)
    before = model_hash(model)
    found = prepare(model, data, settings=FEW)
    with pytest.raises(ModelError, match=r"0\.weight is bfloat16\. Pass a copy, copy\.deepcopy"):
        trace(found, FEW)
    assert model_hash(model) == before
