"""Channels of residual streams: exact where no norm stands in the way, refused where one does."""

import copy
from dataclasses import replace

import pytest
import torch
from architecture_cuts import subject_of
from oracles.interpreter import run_with_edits
from surgery_subjects import difference, subject
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import export
from zsei.subject.types import Site, Subject
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_form import run
from zsei.surgery.program_form import edit_program, plan_edits

GONE = (0, 3, 7, 11)


def widths(found: Subject) -> list[Site]:
    return [site for site in found.anatomy.untapped if site.kind == "width"]


def silenced(model: nn.Module) -> nn.Module:
    """The model with every weight at zero that writes one of the channels."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                module.weight[:, list(GONE)] = 0
            if name.endswith(("o_proj", "down_proj")) and isinstance(module, nn.Linear):
                module.weight[list(GONE)] = 0
    return model


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Gemma"])
def test_a_narrower_stream_equals_channels_nobody_writes(name: str) -> None:
    """Llama's embedding is its own, Qwen2's and Gemma's is also the output's; all under RMSNorm."""
    found = subject_of(name)
    program = found.program
    assert program is not None
    inputs = found.calibration[0].inputs
    (site,) = widths(found)
    edited = edit_program(program, [RemoveUnits(site=site, units=GONE)])
    wanted = run(silenced(found.model), found.input_names, inputs)
    assert difference(edited(*inputs), wanted) < 1e-5
    assert difference(program(*inputs), wanted) > 1e-2
    weights = dict(edited.graph_module.named_parameters())
    tied = "model.model.embed_tokens.weight" not in weights
    assert weights[f"model.{'lm_head' if tied else 'model.embed_tokens'}.weight"].shape[1] == 44
    assert weights["model.model.norm.weight"].shape == (44,)


def test_heads_neurons_and_width_go_together() -> None:
    found = subject_of("Llama")
    program = found.program
    assert program is not None
    inputs = found.calibration[0].inputs
    width, own = widths(found)[0], found.anatomy.sites
    neurons = next(site for site in own if site.kind == "neuron")
    heads = next(site for site in own if site.kind == "head")
    cuts = [(width, GONE), (neurons, (2, 5)), (heads, (2, 3))]
    edited = edit_program(program, [RemoveUnits(site=site, units=units) for site, units in cuts])

    def zero(axis: int, units: tuple[int, ...]):
        return lambda value: value.index_fill(axis, torch.tensor(units), 0.0)

    silent = subject_like(found, silenced(found.model))
    assert silent.program is not None
    wanted = run_with_edits(
        silent.program, inputs, {neurons.node: zero(2, (2, 5)), heads.node: zero(1, (2, 3))}
    )
    assert difference(edited(*inputs), wanted) < 1e-5


def subject_like(found: Subject, model: nn.Module) -> Subject:
    program = export(model, found.input_names, found.calibration[0].inputs)
    return replace(found, model=model, program=program)


def test_a_stage_of_convolutions_gets_narrower() -> None:
    found = subject_of("ResNet")
    program = found.program
    assert program is not None
    inputs = found.calibration[0].inputs
    first, last = widths(found)
    edited = edit_program(program, [RemoveUnits(site=first, units=GONE)])

    def zero(value: Tensor) -> Tensor:
        return value.index_fill(1, torch.tensor(GONE), 0.0)

    held = [
        found.anatomy.outputs[part.id]
        for part in found.anatomy.components
        if part.kind == "residual" and part.id.startswith("encoder.stages.0.")
    ]
    entry = next(n.name for n in program.graph_module.graph.nodes if "max_pool2d" in n.name)
    wanted = run_with_edits(program, inputs, dict.fromkeys((entry, *held), zero))
    assert difference(edited(*inputs), wanted) < 1e-5
    with pytest.raises(SurgeryRefused, match=r"in `encoder\.stages\.1.*is the model's output"):
        plan_edits(program, [RemoveUnits(site=last, units=(0,))])


def test_a_norm_that_subtracts_the_mean_is_named() -> None:
    for family, norm in (("bert", "LayerNorm"), ("gpt2", "ln_2")):
        found = subject(family)
        assert found.program is not None
        with pytest.raises(
            SurgeryRefused, match=rf"`aten\.layer_norm\.default` in .*{norm}` on \["
        ):
            plan_edits(found.program, [RemoveUnits(site=widths(found)[0], units=(0,))])
