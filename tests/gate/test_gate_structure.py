"""What an edit must leave alone, and what it leaves behind, on models nobody here made."""

import dataclasses

import pytest
import torch
from gate_subjects import hand_edited
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, T5Config
from transformers import T5ForConditionalGeneration as T5

from zsei.gate.artefact import artefact_difference, pt2_round_trip
from zsei.gate.evidence import Reach
from zsei.gate.reach import compare_reach, gradient_norms
from zsei.gate.structure import edited_components, lost_calls, same_output
from zsei.subject.anatomy import read_anatomy
from zsei.subject.objective import Objective
from zsei.subject.program import Program, export, frozen_twin
from zsei.subject.types import Anatomy, Batch
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.program_form import edit_program

LOGITS = Objective(name="fidelity", output="logits", reason="asked for")


def t5() -> tuple[nn.Module, tuple[str, ...], tuple[Tensor, ...]]:
    config = T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    tokens = torch.randint(2, 30, (3, 8))
    return T5(config), ("input_ids", "decoder_input_ids"), (tokens, tokens)


def resnet() -> tuple[nn.Module, tuple[str, ...], tuple[Tensor, ...]]:
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 12], depths=[2, 2], layer_type="basic",
        num_labels=3,
    )  # fmt: skip
    return ResNetForImageClassification(config), ("pixel_values",), (torch.randn(3, 1, 24, 24),)


@pytest.fixture(scope="module", params=[t5, resnet], ids=["t5", "resnet"])
def model(request: pytest.FixtureRequest) -> tuple[Program, Anatomy, tuple[Tensor, ...]]:
    module, names, inputs = request.param()
    program = export(frozen_twin(module.eval()), names, inputs)
    return program, read_anatomy(program), inputs


def every_edit(anatomy: Anatomy) -> list[Edit]:
    return [
        BypassLayer(site=site) if site.kind == "layer" else RemoveUnits(site=site, units=(1,))
        for site in anatomy.sites
        if site.kind != "branch"
    ]


def test_honest_edits_leave_the_rest_whole(
    model: tuple[Program, Anatomy, tuple[Tensor, ...]],
) -> None:
    program, anatomy, inputs = model
    batch = Batch(inputs=inputs)
    before = gradient_norms(program, LOGITS, batch, seed=0)
    assert sum(norm > 0 for norm in before.values()) > 0.9 * len(before)
    for edit in every_edit(anatomy):
        edited = edit_program(program, [edit])
        excused = edited_components([edit], anatomy)
        assert lost_calls(program, edited, anatomy, excused) == ()
        assert same_output(program, edited)
        reach, lost = compare_reach(before, gradient_norms(edited, LOGITS, batch, seed=0))
        assert (reach.lost, lost, reach.nonfinite) == (0, (), 0)
        assert 0 < reach.demanded <= len(before)
        # Seen with other eyes: the bypass of a layer costs that layer, and no other.
        elsewhere = lost_calls(program, edited, anatomy, ())
        if isinstance(edit, BypassLayer):
            assert edit.site.component in elsewhere
            assert set(elsewhere) <= excused
        else:
            assert elsewhere == ()


def test_an_edit_that_takes_more_than_it_names_is_seen(
    model: tuple[Program, Anatomy, tuple[Tensor, ...]],
) -> None:
    program, anatomy, _ = model
    bypasses = [edit for edit in every_edit(anatomy) if isinstance(edit, BypassLayer)]
    both = edit_program(program, bypasses[:2])
    excused = edited_components(bypasses[:1], anatomy)
    lost = lost_calls(program, both, anatomy, excused)
    assert bypasses[1].site.component in lost
    assert not set(lost) & excused


def test_names_that_changed_are_no_loss(
    model: tuple[Program, Anatomy, tuple[Tensor, ...]],
) -> None:
    program, anatomy, _ = model

    def rename(copied: Program) -> None:
        for node in copied.graph_module.graph.nodes:
            if node.op == "call_function":
                node.name = f"other_{node.name}"

    edited = hand_edited(rename)(program, [])
    assert lost_calls(program, edited, anatomy, ()) == ()


def test_a_call_that_no_longer_reaches_the_output_is_lost() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x)

    program = export(Two(), ["x"], [torch.zeros(2, 4)])

    def drop_second(copied: Program) -> None:
        graph = copied.graph_module.graph
        add = next(node for node in graph.nodes if node.name == "add")
        add.args = (add.args[0], add.args[0])

    edited = hand_edited(drop_second)(program, [])
    assert lost_calls(program, edited, read_anatomy(program), ()) == ("second",)
    assert same_output(program, edited)


def test_naming_more_components_excuses_nothing() -> None:
    """The excuse is read off the edits; one head's edit frees its attention and nothing else."""
    module, names, inputs = t5()
    anatomy = read_anatomy(export(frozen_twin(module.eval()), names, inputs))
    site = anatomy.site("encoder.block.0/attention", "head")
    assert site is not None
    excused = edited_components([RemoveUnits(site=site, units=(0,))], anatomy)
    assert "encoder.block.0/attention" in excused
    assert {f"encoder.block.0/head.{h}" for h in range(4)} <= excused
    assert not any("mlp" in name or "decoder" in name or "block.1" in name for name in excused)


def test_another_output_is_seen() -> None:
    linear = export(nn.Linear(4, 4), ["input"], [torch.zeros(2, 4)])
    wider = export(nn.Linear(4, 5), ["input"], [torch.zeros(2, 4)])
    double = export(nn.Linear(4, 4).double(), ["input"], [torch.zeros(2, 4).double()])
    assert same_output(linear, linear)
    assert not same_output(linear, wider)
    assert not same_output(linear, double)


def test_reach_counts_what_was_lost() -> None:
    before = {"a": 1.0, "b": 2.0, "gone": 1.0, "noise": 1e-9, "never": 0.0}
    after = {"a": 0.5, "b": 0.0, "noise": 0.0, "never": 0.0}
    assert compare_reach(before, after) == (Reach(demanded=2, lost=1, nonfinite=0), ("b",))
    spoilt = {**after, "a": float("nan"), "b": float("inf")}
    assert compare_reach(before, spoilt)[0].nonfinite == 2
    assert compare_reach({}, {}) == (Reach(demanded=0, lost=0, nonfinite=0), ())


def test_gradient_norms_equal_those_of_the_model_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    model[2].bias.requires_grad_(False)
    x = torch.randn(4, 3)
    program = export(frozen_twin(model), ["input"], [x])
    with torch.no_grad():
        norms = gradient_norms(program, LOGITS, Batch(inputs=(x,)), seed=3)
    direction = torch.randn(4, 2, generator=torch.Generator().manual_seed(3))
    twin = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    twin.load_state_dict(model.state_dict())
    (twin(x) * direction).sum().backward()
    expected = {name: p.grad.norm().item() for name, p in twin.named_parameters()}  # type: ignore[union-attr]
    assert norms == pytest.approx(expected, rel=1e-5)
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in program.graph_module.parameters())


def test_an_artefact_is_compared_with_what_was_saved() -> None:
    x = torch.randn(4, 3)
    program = export(nn.Linear(3, 2).eval(), ["input"], [x])
    assert artefact_difference(program, [x], pt2_round_trip) == 0

    def returns(value: object) -> float:
        return artefact_difference(program, [x], lambda p, inputs: lambda *given: value)  # type: ignore[arg-type, return-value]

    expected = program(x).detach()
    assert returns((expected,)) == 0
    top = float(expected.abs().max())
    assert returns(expected + 0.01 * top) == pytest.approx(0.01, rel=1e-4)
    assert returns(expected[:, :1]) == float("inf")
    assert returns(expected * float("nan")) == float("inf")


def test_a_program_is_never_changed_by_looking_at_it(
    model: tuple[Program, Anatomy, tuple[Tensor, ...]],
) -> None:
    program, anatomy, inputs = model
    with torch.no_grad():
        before = program(*inputs)
    names = [node.name for node in program.graph_module.graph.nodes]
    gradient_norms(program, LOGITS, Batch(inputs=inputs), seed=0)
    lost_calls(program, dataclasses.replace(program), anatomy, ())
    with torch.no_grad():
        assert torch.equal(program(*inputs), before)
    assert [node.name for node in program.graph_module.graph.nodes] == names
