"""Operations, bytes, attention's memory and parallel work, each against a count of its own."""

from typing import Any

import factories
import pytest
import torch
from factories import FAMILIES
from oracles import flops as by_hand
from oracles.graph import bytes_by_running, heaviest_chain_by_walking
from prepared import SMALL, family, seeded, subject_of
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.graph.attention_memory import attention_memory
from zsei.graph.costs import cost_measurements
from zsei.graph.span import operations, recurrences, sequential_steps, span
from zsei.graph.traffic import bytes_moved, owners
from zsei.subject.cost import flops, total_flops
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.program import Program, export, frozen_twin
from zsei.subject.types import Subject

VALUES = Objective(name="fidelity", output="values", reason="")

FLOPS: dict[str, Any] = {
    "bert": lambda c: by_hand.bert(c, factories.LENGTH),
    "gpt2": lambda c: by_hand.gpt2(c, factories.LENGTH),
    "llama": lambda c: by_hand.llama(c, factories.LENGTH),
    "mixtral": lambda c: by_hand.mixtral(c, factories.LENGTH),
    "t5": lambda c: by_hand.t5(c, factories.LENGTH),
    "vit": by_hand.vit,
    "resnet": lambda c: by_hand.resnet(c, 32),
    "patchtst": by_hand.patchtst,
    "mlp": lambda c: by_hand.mlp([8, 24, 24, 3]),
    "lstm": lambda c: by_hand.lstm(factories.LENGTH, 16, 24, 2, 3),
    "encoder": lambda c: by_hand.encoder(10, factories.WIDTH, 64, 2, 4),
}


class Calling(nn.Module):
    """Any function of tensors as a module, with parameters of its own if it needs some."""

    def __init__(self, call: Any, *weights: tuple[int, ...]) -> None:
        super().__init__()
        self.call = call
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(*size)) for size in weights])

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs, *self.weights)


def program(model: nn.Module, *shapes: tuple[int, ...]) -> Program:
    inputs = [torch.ones(*shape) for shape in shapes]
    return export(frozen_twin(model.eval()), [f"x{i}" for i in range(len(inputs))], inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_operations_of_every_family_by_hand(name: str) -> None:
    """The family's formula covers all its products but rotary angles (at most 0.1 %)."""
    subject = family(name)
    assert subject.program is not None
    expected = FLOPS[name](getattr(subject.model, "config", None)) * subject.calibration[0].size
    rotary = 2 * factories.LENGTH * 8 * 2 if name in ("llama", "mixtral") else 0
    slack = 1e-3 * expected + rotary * subject.calibration[0].size
    assert abs(total_flops(subject.program) - expected) <= slack


@pytest.mark.parametrize(
    ("equation", "sizes"),
    [
        ("ab,bc->ac", {"a": 3, "b": 4, "c": 5}),
        ("btd,hde->bhte", {"b": 2, "t": 3, "d": 4, "h": 2, "e": 5}),
        ("bthd,bshd->bhts", {"b": 2, "t": 3, "s": 4, "h": 2, "d": 5}),
        ("ij,j->i", {"i": 3, "j": 4}),
    ],
)
def test_einsum_is_every_index_counted(equation: str, sizes: dict[str, int]) -> None:
    left, right, out = equation.replace("->", ",").split(",")
    shapes = [tuple(sizes[letter] for letter in term) for term in (left, right)]
    found = program(Calling(lambda a, b: torch.einsum(equation, a, b)), *shapes)
    assert total_flops(found) == by_hand.products_by_counting(left, right, out, sizes)


def test_einsum_of_three_goes_from_left_to_right_and_takes_ellipses() -> None:
    chain = Calling(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
    expected = 2 * (3 * 4 * 5 + 3 * 5 * 6)
    assert total_flops(program(chain, (3, 4), (4, 5), (5, 6))) == expected
    dots = Calling(lambda a, b: torch.einsum("...ij,...jk->...ik", a, b))
    assert total_flops(program(dots, (2, 7, 3, 4), (2, 7, 4, 5))) == 2 * 14 * 3 * 4 * 5
    alone = Calling(lambda a, b: torch.einsum("ij,ij->ij", a, b))
    assert total_flops(program(alone, (3, 4), (3, 4))) == 0


@pytest.mark.parametrize(
    ("groups", "channels", "padding", "stride"), [(1, 8, 1, 1), (2, 8, 0, 2), (4, 4, 1, 2)]
)
def test_convolutions_place_by_place(groups: int, channels: int, padding: int, stride: int) -> None:
    conv = nn.Conv2d(4, channels, 3, groups=groups, padding=padding, stride=stride)
    expected = by_hand.convolution_by_counting(
        (2, 4, 6, 6), channels, 3, groups=groups, padding=padding, stride=stride
    )
    assert total_flops(program(conv, (2, 4, 6, 6))) == expected


def test_a_transposed_convolution_writes_what_the_plain_one_reads() -> None:
    """Its products are those of the convolution that takes its output back to its input."""
    found = program(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5))
    expected = by_hand.convolution_by_counting((2, 6, 11, 11), 4, 3, groups=2, padding=0, stride=2)
    assert total_flops(found) == expected


class Recurrent(nn.Module):
    """A recurrent layer that gives its states."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.layer = kind(6, 5, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("kind", "gates", "options"),
    [
        (nn.RNN, 1, {"num_layers": 2}),
        (nn.GRU, 3, {"num_layers": 2, "bidirectional": True}),
        (nn.LSTM, 4, {"num_layers": 2, "proj_size": 3}),
        (nn.LSTM, 4, {"num_layers": 1}),
    ],
)
def test_recurrent_layers_step_by_step(kind: Any, gates: int, options: dict[str, Any]) -> None:
    subject = subject_of(Recurrent(kind, **options).eval(), [seeded(4, 9, 6)], VALUES, batch_size=2)
    assert subject.program is not None
    total, waiting = by_hand.recurrence_by_steps(
        2, 9, 6, 5, gates=gates, layers=options["num_layers"],
        directions=2 if options.get("bidirectional") else 1,
        projection=options.get("proj_size", 0),
    )  # fmt: skip
    assert total_flops(subject.program) == total
    [loop] = recurrences(subject, 2)
    assert loop.operations == waiting
    assert loop.steps == 9 * options["num_layers"]


def test_cells_bilinear_and_batched_products() -> None:
    cell = Calling(lambda x, i, h: torch.gru_cell(x, torch.zeros(2, 5), i, h), (15, 6), (15, 5))
    assert total_flops(program(cell, (2, 6))) == 2 * 2 * (15 * 6 + 15 * 5)
    assert total_flops(program(Calling(F.bilinear, (5, 6, 4)), (2, 6), (2, 4))) == (
        2 * 2 * 5 * (6 * 4 + 4)
    )
    added = Calling(lambda c, a, b: torch.baddbmm(c, a, b))
    assert total_flops(program(added, (2, 3, 5), (2, 3, 4), (2, 4, 5))) == 2 * 2 * 3 * 4 * 5


def test_attention_with_grouped_heads_counts_its_queries() -> None:
    grouped = Calling(
        lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    )
    assert total_flops(program(grouped, (2, 4, 3, 8), (2, 2, 3, 8))) == 2 * 2 * 4 * 3 * 3 * 16


def test_a_weight_in_an_einsum_belongs_to_a_component() -> None:
    model = Calling(lambda x, w: torch.einsum("btd,do->bto", x, w).relu(), (6, 5))
    subject = subject_of(model, [seeded(8, 3, 6)], VALUES)
    [part] = [c for c in subject.anatomy.components if c.kind == "linear"]
    assert part.flops == 2 * 3 * 6 * 5


@pytest.mark.parametrize("name", FAMILIES)
def test_bytes_moved_are_those_of_the_tensors_of_a_real_run(name: str) -> None:
    subject = family(name)
    whole = owners(subject)
    expected: dict[str, int] = {}
    for node, moved in bytes_by_running(subject).items():
        if node in whole:
            expected[whole[node]] = expected.get(whole[node], 0) + moved
    found = bytes_moved(subject)
    assert set(expected) <= set(found)
    for component, moved in expected.items():
        assert found[component] == pytest.approx(moved, rel=1e-3), component


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit", "lstm", "resnet"])
def test_work_and_span_are_those_of_all_chains(name: str) -> None:
    subject = family(name)
    assert subject.program is not None
    nodes = list(subject.program.graph_module.graph.nodes)
    weight = {node.name: operations(node) for node in nodes}
    found = span(subject.program)
    assert found.work == sum(weight.values())
    assert found.span == heaviest_chain_by_walking(subject, weight)
    steps = {n.name: sequential_steps(n) if operations(n) else 0 for n in nodes}
    assert found.steps == heaviest_chain_by_walking(subject, steps)
    assert found.parallelism == pytest.approx(found.work / found.span)
    assert total_flops(subject.program) <= found.work


def _at(factor: int, written_out: bool) -> Subject:
    how = {"attn_implementation": "eager"} if written_out else {}
    model, _ = factories.tiny_bert(max_position_embeddings=128, **how)
    tokens = factories.token_ids(length=factor * factories.LENGTH)
    return prepare(model, {"input_ids": tokens}, "fidelity", SMALL)


@pytest.mark.parametrize("written_out", [False, pytest.param(True, marks=pytest.mark.long)])
def test_memory_at_twice_and_four_times_the_length_is_as_foretold(written_out: bool) -> None:
    """What is worked out at one length against the same model prepared at the other."""
    now = attention_memory(_at(1, written_out))
    assert [bool(a.written_out) for a in now] == [written_out] * 2
    for factor in (2, 4):
        then = attention_memory(_at(factor, written_out))
        assert [a.held(factor) for a in now] == [a.held() for a in then]
        assert [a.scores(factor) for a in now] == [a.score_bytes for a in then]


def test_only_causal_attention_keeps_keys_and_values() -> None:
    for name, expected in {
        "gpt2": 2 * 16 * 32 * 4, "llama": 2 * 16 * 2 * 8 * 4, "mixtral": 2 * 16 * 2 * 8 * 4,
        "bert": 0, "vit": 0, "patchtst": 0, "encoder": 0,
    }.items():  # fmt: skip
        assert {a.cache_bytes for a in attention_memory(family(name))} == {expected}, name
    parts = {a.component: a.cache_bytes for a in attention_memory(family("t5"))}
    assert {c for c, size in parts.items() if size} == {
        f"decoder.block.{i}.layer.0.SelfAttention/attention" for i in range(2)
    }


def test_costs_stand_beside_every_part_and_the_whole_at_the_output() -> None:
    subject = family("llama")
    found = {c: {m.name: m.value for m in rows} for c, rows in cost_measurements(subject).items()}
    assert found["output"]["kv_cache_bytes"] == 2 * 2048
    for component in subject.anatomy.components:
        if component.kind in ("attention", "mlp"):
            rows = found[component.id]
            moved, samples = rows["bytes_moved"] or 0, subject.calibration[0].size
            expected = component.flops * samples / moved
            assert rows["arithmetic_intensity"] == pytest.approx(expected)
            assert (rows["parallelism"] or 0) > 1


def test_steps_without_waiting_are_no_recurrence() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.part(x[:, t]) for t in range(9)], 1)

    class Waiting(Apart):
        def forward(self, x: Tensor) -> Tensor:
            state = x[:, 0]
            for _ in range(9):
                state = self.part(state).tanh()
            return state

    made = [subject_of(kind(), [seeded(8, 9, 6)], VALUES) for kind in (Apart, Waiting)]
    assert recurrences(made[0], 2) == ()
    [loop] = recurrences(made[1], 2)
    assert (loop.steps, loop.rows, loop.operations) == (9, 1, 8 * 2 * 8 * 36)
    for subject, depth in zip(made, (1, 9), strict=True):
        assert subject.program is not None
        products = {n.name: flops(n) for n in subject.program.graph_module.graph.nodes}
        assert heaviest_chain_by_walking(subject, products) == depth * 2 * 8 * 36
