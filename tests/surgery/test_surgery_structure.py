"""Edits that bring new parameters: both forms agree, are saved, and can be cut like the rest."""

import tempfile
from pathlib import Path

import factories
import pytest
import torch
from surgery_subjects import difference, own_subject, parameters, subject
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.errors import SurgeryRefused
from zsei.strategies.fitted import together
from zsei.subject.program import export, frozen_twin
from zsei.subject.types import Subject
from zsei.surgery.apply import apply_edits, example_inputs
from zsei.surgery.calibration import inputs_of, layer_halves
from zsei.surgery.edits import (
    Edit,
    FactoriseLinear,
    RemoveUnits,
    ReplaceLayer,
    layer_site,
    linear_site,
    same_sites,
)  # fmt: skip
from zsei.surgery.factorise import fit_factors
from zsei.surgery.module_edit import apply_module_edit
from zsei.surgery.module_form import run
from zsei.surgery.program_form import edit_program, plan_edits
from zsei.surgery.replace_layer import find_ends, fit_map, map_values
from zsei.surgery.save import load, save
from zsei.surgery.structure import new_parameters, restructure
from zsei.surgery.symbolic import static_anatomy
from zsei.surgery.weights import Weights, put_in_program


def thin(found: Subject, component: str, rank: int) -> FactoriseLinear:
    site = linear_site(found.anatomy, component)
    assert site is not None
    return FactoriseLinear(site=site, rank=rank)


def mapped(found: Subject, component: str, form: str = "linear") -> ReplaceLayer:
    site = layer_site(found.anatomy, component)
    assert site is not None
    return ReplaceLayer(site=site, form=form)  # type: ignore[arg-type]


def values_for(found: Subject, edit: Edit) -> Weights:
    assert found.program is not None
    if isinstance(edit, FactoriseLinear):
        return fit_factors(found.program, [edit], inputs_of(found, [edit]))
    assert isinstance(edit, ReplaceLayer)
    (halves,) = layer_halves(found, [edit])
    weight, bias, _ = fit_map(halves)
    return map_values(edit, weight, bias, torch.float32)


class Plainly(nn.Module):
    """Holds a module's place and computes with the given values, in the most obvious way."""

    def __init__(self, values: list[Tensor], stride: int | None) -> None:
        super().__init__()
        self.values, self.stride = values, stride

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        x = inputs[0] if inputs else named["hidden_states"]
        if self.stride is not None:
            x = x[:, :, :: self.stride, :: self.stride].permute(0, 2, 3, 1)
        *matrices, bias = self.values
        for matrix in matrices:
            x = x @ matrix.flatten(1).T
        y = x + bias
        return y if self.stride is None else y.permute(0, 3, 1, 2)


CASES: dict[str, tuple[str, str, int | None, int | None, bool]] = {
    # family, component, rank (None: replaced), stride (None: tokens), whether it is saved too
    "bert layer": ("bert", "encoder.layer.1", None, None, True),
    "llama layer": ("llama", "model.layers.0", None, None, False),
    "gpt2 layer": ("gpt2", "transformer.h.1", None, None, False),
    "resnet layer": ("resnet", "resnet.encoder.stages.1.layers.1", None, 1, False),
    "resnet half": ("resnet", "resnet.encoder.stages.1.layers.0", None, 2, True),
    "bert linear": ("bert", "encoder.layer.0.intermediate.dense", 7, None, False),
    "gpt2 linear": ("gpt2", "transformer.h.0.mlp.c_fc", 5, None, True),
    "llama linear": ("llama", "model.layers.1.self_attn.o_proj", 6, None, False),
}


def found_id(made: Subject, wanted: str) -> str:
    """The component of this id, or the one that ends like it."""
    ids = [c.id for c in made.anatomy.components]
    return wanted if wanted in ids else next(i for i in ids if i.endswith(wanted))


@pytest.mark.parametrize("case", CASES)
def test_both_forms_compute_what_the_values_say(case: str) -> None:
    family, component, rank, stride, saved = CASES[case]
    made = subject(family)
    component = found_id(made, component)
    images = stride is not None
    edit = (
        mapped(made, component, "convolution" if images else "linear")
        if rank is None
        else thin(made, component, rank)
    )
    values = values_for(made, edit)
    assert made.program is not None
    assert set(new_parameters(made.program, [edit])) <= values.keys()
    edited = apply_edits(made, [edit], None, values)
    assert edited.form == "module", edited.note

    # The oracle: the user's class with a plain module in the place.
    plain = frozen_twin(made.model)
    order = [name for name in sorted(values) if not name.endswith("bias")]
    matrices = [values[name] for name in order]
    bias = [values[name] for name in values if name.endswith("bias")]
    own = getattr(plain.get_submodule(component), "bias", None)
    shift = bias[0] if bias else own if own is not None else torch.zeros(())
    plain.set_submodule(component, Plainly([*matrices, shift], stride))
    copied_attributes(made.model.get_submodule(component), plain.get_submodule(component))
    with torch.no_grad():
        wanted = output_of(plain, made)
    assert difference(edited.output, wanted) < 1e-5
    sizes = [sum(p.numel() for p in m.parameters()) for m in (edited.model, made.model)]
    assert sizes[0] < sizes[1]
    if not saved:
        return
    with tempfile.TemporaryDirectory() as work:
        recipe = save(edited, Path(work) / "smaller")
        loaded = load(Path(work) / "smaller")
    assert recipe.form == "module"
    assert torch.equal(output_of(loaded, made), edited.output)


def copied_attributes(old: nn.Module, new: nn.Module) -> None:
    for name in ("attention_type", "layer_type", "weight"):
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))


def output_of(model: nn.Module, made: Subject) -> Tensor:
    return run(model, made.input_names, example_inputs(made))


def test_a_decoder_still_generates_with_its_cache() -> None:
    """With the first layer replaced the others number their caches from 0 again."""
    made = subject("llama")
    edit = mapped(made, "model.layers.0")
    edited = apply_edits(made, [edit], None, values_for(made, edit)).model
    tokens = torch.tensor([[1, 5, 9, 4]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found = [
        edited.generate(tokens, use_cache=cached, **options)  # type: ignore[operator]
        for cached in (True, False)
    ]
    assert torch.equal(*found)


@pytest.mark.long
def test_a_decoder_whose_caches_differ_in_kind_stays_a_program() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"], max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    made = own_subject(Qwen2ForCausalLM(config), {"input_ids": torch.randint(0, 60, (8, 9))})
    edit = mapped(made, "model.layers.0")
    edited = apply_edits(made, [edit], None, values_for(made, edit))
    assert edited.form == "program"
    assert "several kinds (full_attention, sliding_attention)" in edited.note


def test_factors_are_cut_like_any_weight() -> None:
    """Neurons that a factorised linear writes and another reads: as if held at zero."""
    made = subject("bert")
    assert made.program is not None
    site = made.anatomy.site("encoder.layer.0/mlp", "neuron")
    assert site is not None
    both = [
        thin(made, f"encoder.layer.0.{name}", 6) for name in ("intermediate.dense", "output.dense")
    ]
    values: Weights = {}
    for edit in both:
        values = {**values, **values_for(made, edit)}
    whole = apply_edits(made, both, None, values).model
    units = RemoveUnits(site=site, units=(1, 4, 30))
    plan = plan_edits(made.program, [units, *both])
    gone = plan.group.parameters
    assert gone["encoder.layer.0.intermediate.dense.1.weight"] == {0: (1, 4, 30)}
    assert gone["encoder.layer.0.output.dense.0.weight"] == {1: (1, 4, 30)}
    edits = [units, *both]
    cut = apply_edits(made, edits, None, together(made.program, edits, [values], {}))
    assert cut.form == "module", cut.note

    def hold(module: nn.Module, given: tuple[Tensor]) -> Tensor:
        held = given[0].clone()
        held[..., [1, 4, 30]] = 0
        return (held,)  # type: ignore[return-value]

    whole.get_submodule("encoder.layer.0.output.dense").register_forward_pre_hook(hold)
    assert difference(cut.output, output_of(whole, made)) < 1e-5
    with tempfile.TemporaryDirectory() as work:
        save(cut, Path(work) / "smaller")
        assert torch.equal(output_of(load(Path(work) / "smaller"), made), cut.output)


def test_programs_of_any_length_can_be_restructured() -> None:
    """The same edit on an export with symbolic sizes, matched by component, at another length."""
    made = subject("bert")
    edits = [mapped(made, "encoder.layer.1"), thin(made, "encoder.layer.0.output.dense", 5)]
    values: Weights = {}
    for edit in edits:
        values = {**values, **values_for(made, edit)}
    inputs = made.calibration[0].inputs
    program = export(made.model, made.input_names, inputs, dynamic=True)
    here = same_sites(edits, static_anatomy(program, made.anatomy.family))
    edited = put_in_program(edit_program(program, here), values)
    whole = apply_edits(made, edits, None, values)
    assert difference(edited(*whole.inputs), whole.output) < 1e-5
    shorter = tuple(tensor[:2, :7] for tensor in inputs)
    with torch.no_grad():
        wanted = whole.model(**dict(zip(made.input_names, shorter, strict=True)))[0]
    assert difference(edited(*shorter), wanted) < 1e-5


def test_the_original_keeps_its_own() -> None:
    made = subject("bert")
    assert made.program is not None
    nodes = [node.name for node in made.program.graph_module.graph.nodes]
    before = parameters(made.program)
    edit = mapped(made, "encoder.layer.1")
    changed = restructure(made.program, [edit])
    assert [node.name for node in made.program.graph_module.graph.nodes] == nodes
    assert parameters(made.program) == before > parameters(changed)
    assert edit.site.node in [node.name for node in changed.graph_module.graph.nodes]
    assert restructure(made.program, []) is made.program
    plan = plan_edits(made.program, [edit])
    assert plan.parameters_removed == before - parameters(edit_program(made.program, [edit]))


class Tied(nn.Module):
    """Token embeddings that are the read-out's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 24), nn.Linear(24, 40, bias=False)
        self.mix = nn.Linear(24, 24)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.words(tokens))))


class Shared(nn.Module):
    """One linear called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(torch.tanh(self.mix(x)))))


def test_a_shared_linear_is_factorised_in_all_its_calls() -> None:
    torch.manual_seed(0)
    made = own_subject(Shared(), {"x": torch.randn(8, 24)})
    name = next(c.id for c in made.anatomy.components if c.id.startswith("mix"))
    edit = thin(made, name, 4)
    edited = apply_edits(made, [edit], None, values_for(made, edit))
    assert edited.form == "module", edited.note
    mix = edited.model.get_submodule("mix")
    x = edited.inputs[0]
    with torch.no_grad():
        for _ in range(2):
            x = torch.tanh(F.linear(F.linear(x, mix[0].weight), mix[1].weight, mix[1].bias))  # type: ignore[index]
        wanted = edited.model.get_submodule("head")(x)
    assert difference(edited.output, wanted) < 1e-5


def test_what_stands_in_the_way_is_named() -> None:
    torch.manual_seed(0)
    tied = own_subject(Tied(), {"tokens": torch.randint(0, 40, (8, 6))})
    assert tied.program is not None
    name = next(c.id for c in tied.anatomy.components if c.kind == "linear" and c.id != "mix")
    with pytest.raises(SurgeryRefused, match=r"aten\.embedding.* also reads the weight"):
        edit_program(tied.program, [thin(tied, name, 3)])
    with pytest.raises(SurgeryRefused, match="takes ranks 1 to 11"):
        edit_program(tied.program, [thin(tied, "mix", 12)])
    made = subject("bert")
    assert made.program is not None
    for edit in (mapped(made, "encoder.layer.1"), thin(made, "encoder.layer.0.output.dense", 5)):
        with pytest.raises(SurgeryRefused, match="values must come with them"):
            apply_edits(made, [edit])
        short = {name: value[:-1] for name, value in values_for(made, edit).items()}
        with pytest.raises(SurgeryRefused, match="its new value is"):
            apply_edits(made, [edit], None, short)
    with pytest.raises(SurgeryRefused, match="no counterpart"):
        same_sites([mapped(made, "encoder.layer.1")], tied.anatomy)


def test_an_edit_replayed_on_another_model_is_refused() -> None:
    made = subject("bert")
    edit = thin(made, "encoder.layer.0.output.dense", 5)
    module_edit = apply_edits(made, [edit], None, values_for(made, edit)).module_edit
    assert module_edit is not None
    model, _ = factories.tiny_mlp()
    with pytest.raises(SurgeryRefused, match="has no module `encoder"):
        apply_module_edit(model, module_edit)


def test_layers_that_return_tuples_are_replaced_by_what_returns_them() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)
            self.kind = "pair"

        def forward(self, x: Tensor, *, scale: float) -> tuple[Tensor, None]:
            return x + scale * self.two(F.relu(self.one(x))), None

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Pair() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                assert isinstance(layer.kind, str)
                x, nothing = layer(x=x, scale=0.7)
                assert nothing is None
                x = torch.tanh(x)
            return x

    torch.manual_seed(0)
    made = own_subject(Stack(), {"x": torch.randn(12, 8)})
    edit = mapped(made, "layers.0")
    values = values_for(made, edit)
    edited = apply_edits(made, [edit], None, values)
    assert edited.form == "module", edited.note
    assert edited.module_edit is not None
    assert edited.module_edit.replaced[0].returns == 2
    (x,) = edited.inputs
    inner = torch.tanh(x @ values["layers.0.map.weight"].T + values["layers.0.map.bias"])
    with torch.no_grad():
        wanted = torch.tanh(made.model.get_submodule("layers.1")(inner, scale=0.7)[0])
    assert difference(edited.output, wanted) < 1e-5


def test_a_layer_that_gives_back_something_else_stays_in_its_program() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x + self.two(F.relu(self.one(x)))}

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Odd() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x)["x"])
            return x

    torch.manual_seed(0)
    made = own_subject(Stack(), {"x": torch.randn(12, 8)})
    assert made.program is not None
    edit = mapped(made, "layers.1")
    assert find_ends(made.program, edit).inputs == 8
    edited = apply_edits(made, [edit], None, values_for(made, edit))
    assert edited.form == "program"
    assert "returns dict" in edited.note
