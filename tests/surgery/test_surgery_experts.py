"""Whole experts, and neurons inside all experts, of every way to route that is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_cuts import subject_of
from oracles import removal
from surgery_subjects import difference
from torch import Tensor
from torch.nn import functional as F

from zsei.subject.types import Site, Subject
from zsei.surgery.apply import apply_edits
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_form import run
from zsei.surgery.program_form import edit_program
from zsei.surgery.save import save


def untapped(found: Subject, kind: str) -> list[Site]:
    return [site for site in found.anatomy.untapped if site.kind == kind]


@pytest.mark.parametrize(
    "name", ["Mixtral", *(pytest.param(n, marks=pytest.mark.long) for n in ("Qwen2-MoE", "OLMoE"))]
)
def test_removed_experts_equal_experts_that_are_never_chosen(name: str) -> None:
    found = subject_of(name)
    program = found.program
    assert program is not None
    inputs = found.calibration[0].inputs
    experts, neurons = untapped(found, "expert"), untapped(found, "neuron")
    assert [len(experts), len(neurons)] == [2, 2]
    for cuts in (
        [(experts[0], (1,))],
        [(experts[0], (0, 3)), (experts[1], (2,))],
        [(neurons[1], (0, 3, 5))],
        [(experts[0], (2,)), (neurons[0], (1, 7))],
    ):
        edited = edit_program(program, [RemoveUnits(site=s, units=u) for s, u in cuts])
        wanted = removal.masked(program, inputs, cuts)
        assert difference(edited(*inputs), wanted) < 1e-5
        assert difference(program(*inputs), wanted) > 1e-4


def test_a_block_without_an_expert_is_the_sum_over_the_others() -> None:
    """An oracle that knows nothing of programs: one token and one expert at a time."""
    found = subject_of("Mixtral")
    assert found.program is not None
    block = found.model.get_submodule("model.layers.0.mlp")
    x = torch.randn(5, 48)
    weights = {name: tensor.detach() for name, tensor in block.named_parameters()}
    kept = (0, 2, 3)
    wanted = torch.zeros(5, 48)
    for token in range(5):
        logits = torch.stack([x[token] @ weights["gate.weight"][e] for e in kept])
        shares, chosen = logits.softmax(0).topk(2)
        for share, place in zip(shares / shares.sum(), chosen.tolist(), strict=True):
            wanted[token] += share * expert(weights, kept[place], x[token])
    edit = RemoveUnits(site=untapped(found, "expert")[0], units=(1,))
    smaller = apply_edits(found, [edit])
    with torch.no_grad():
        got = smaller.model.get_submodule("model.layers.0.mlp")(x[None])
    assert difference(got[0], wanted) < 1e-5


def expert(weights: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
    gate, up = (weights["experts.gate_up_proj"][number] @ x).chunk(2)
    return weights["experts.down_proj"][number] @ (F.silu(gate) * up)


def test_the_same_number_of_experts_everywhere_is_a_plain_folder(tmp_path: Path) -> None:
    import transformers

    found = subject_of("Mixtral")
    edits = [RemoveUnits(site=site, units=(2,)) for site in untapped(found, "expert")]
    smaller = apply_edits(found, edits)
    assert smaller.form == "module"
    assert experts_of(found.model) == 4
    assert save(smaller, tmp_path / "model").form == "huggingface"
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert experts_of(back) == 3
    assert torch.equal(run(back, smaller.input_names, smaller.inputs), smaller.output)


def experts_of(model: Any) -> int:
    return model.config.num_local_experts
