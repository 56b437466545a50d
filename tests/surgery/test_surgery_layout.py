"""Cuts through calls that move entries, against following every entry."""

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from oracles import moves
from surgery_subjects import program_of
from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program
from zsei.subject.reading import operation
from zsei.subject.reading import shape as shape_of
from zsei.surgery.layout import layout_axes, reshape_labels
from zsei.surgery.repeats import fold, whole_classes
from zsei.surgery.resize import prove_moves, resize
from zsei.surgery.search import Search
from zsei.surgery.symbolic import static_twin

Call = Callable[..., Tensor | tuple[Tensor, ...]]
MOVES: dict[str, tuple[Call, tuple[int, ...], int, tuple[int, ...]]] = {
    # name: (call, shape of the value it moves, axis that is cut, removed entries)
    "split a width into heads": (lambda x: x.reshape(2, 3, 4, 2), (2, 3, 8), 2, (2, 3, 6, 7)),
    "merge heads into a width": (lambda x: x.reshape(2, 3, 8), (2, 3, 4, 2), 2, (1, 3)),
    "merge within heads": (lambda x: x.reshape(2, 3, 8), (2, 3, 4, 2), 3, (1,)),
    "merge samples and heads": (lambda x: x.reshape(8, 3), (2, 4, 3), 1, (0, 2)),
    "regroup across": (lambda x: x.reshape(3, 8, 2), (3, 2, 8), 2, (0, 1, 6, 7)),
    "flatten maps": (lambda x: x.flatten(1), (2, 4, 2, 2), 1, (3,)),
    "transpose": (lambda x: x.transpose(1, -1), (2, 4, 3), 1, (1, 2)),
    "permute": (lambda x: x.permute(2, 0, 1), (2, 4, 3), 1, (0,)),
    "insert an axis": (lambda x: x[:, None], (2, 4), 1, (2,)),
    "drop an axis": (lambda x: x.squeeze(1), (2, 1, 4), 2, (2,)),
    "slice": (lambda x: x[:, 1:5], (2, 6), 1, (0, 3)),
    "slice from the end": (lambda x: x[:, -4:-1], (2, 6), 1, (3,)),
    "split evenly": (lambda x: x.split(3, 1), (2, 9), 1, (1, 4, 8)),
    "split unevenly": (lambda x: x.split([2, 5, 1], 1), (2, 8), 1, (0, 4)),
    "chunk": (lambda x: x.chunk(2, 1), (2, 8), 1, (0, 4, 5)),
    "unbind": (lambda x: x.unbind(0), (3, 4), 1, (1,)),
    "select": (lambda x: x[:, 1], (2, 3, 4), 2, (3,)),
    "expand": (lambda x: x[:, :, None].expand(2, 4, 3), (2, 4), 1, (1, 2)),
    "repeat": (lambda x: x.repeat(1, 2), (2, 4), 1, (1,)),
    "repeat interleaved": (lambda x: x.repeat_interleave(2, 1), (2, 4), 1, (1, 3)),
    "cat with itself": (lambda x: torch.cat([x, x], 1), (2, 4), 1, (1,)),
    "stack with itself": (lambda x: torch.stack([x, x], 1), (2, 4), 1, (1,)),
}


def chain(call: Call, shape: tuple[int, ...]) -> tuple[Program, fx.Node, list[fx.Node]]:
    """A program that moves a parameter: (program, the parameter, what the call gives)."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shape))

        def forward(self, x: Tensor) -> Tensor:
            found = call(self.weight)
            parts = found if isinstance(found, tuple | list) else (found,)
            return x + torch.stack([part.sum() for part in parts])

    count = len(results(call, torch.zeros(shape)))
    program, _ = program_of(Model().eval(), torch.randn(count))
    nodes = list(program.graph_module.graph.nodes)
    weight = next(n for n in nodes if n.op == "get_attr")
    ends = [n.args[0] for n in nodes if operation(n) == "sum"]
    return program, weight, [end for end in ends if isinstance(end, fx.Node)]


def results(call: Call, x: Tensor) -> list[Tensor]:
    found = call(x)
    return list(found) if isinstance(found, tuple | list) else [found]


def spread(start: fx.Node, axis: int, removed: tuple[int, ...]) -> dict[str, dict[int, list[int]]]:
    """Where a cut goes when only calls that move entries are followed."""
    search = Search(twins={}, active=set())
    mask = torch.zeros(shape_of(start)[axis], dtype=torch.bool)
    mask[list(removed)] = True
    search.cut(start, axis, mask)
    while search.queue:
        call = search.queue.popleft()
        if layout_axes(call) is not None:
            search.visit(call)
    return {
        node.name: {axis: mask.nonzero().flatten().tolist() for axis, mask in masks.items()}
        for node, masks in search.removed.items()
    }


@pytest.mark.parametrize("name", MOVES)
def test_a_cut_takes_exactly_the_entries_it_moves(name: str) -> None:
    call, shape, axis, removed = MOVES[name]
    program, weight, ends = chain(call, shape)
    found = spread(weight, axis, removed)
    operand = moves.numbers([shape])[0]
    wanted = moves.entries_that_go(call, [operand], [{axis: removed}])
    for end, gone in zip(ends, wanted, strict=True):
        assert moves.positions(shape_of(end), found.get(end.name, {})) == gone
    # Mended, every call moves what is kept to where it was, and backwards nothing else goes.
    assert found[weight.name] == {axis: list(removed)}
    mended = static_twin(program)
    entries = {n: {a: tuple(e) for a, e in axes.items()} for n, axes in found.items()}
    for before, after in zip(
        program.graph_module.graph.nodes, mended.graph_module.graph.nodes, strict=True
    ):
        if layout_axes(before) is not None:
            resize(after, entries)
            prove_moves(before, after, entries)


def test_a_wrongly_mended_call_is_found_out() -> None:
    call, shape, axis, removed = MOVES["split a width into heads"]
    program, weight, _ = chain(call, shape)
    view = next(n for n in program.graph_module.graph.nodes if layout_axes(n) is not None)
    entries = {
        n: {a: tuple(e) for a, e in axes.items()}
        for n, axes in spread(weight, axis, removed).items()
    }
    wrong = next(n for n in static_twin(program).graph_module.graph.nodes if n.name == view.name)
    wrong.args = (wrong.args[0], [2, 3, 1, 4])
    with pytest.raises(SurgeryRefused, match="other places"):
        prove_moves(view, wrong, entries)
    wrong.args = (wrong.args[0], [2, 3, 4, 2])
    with pytest.raises(SurgeryRefused, match="cannot be mended"):
        prove_moves(view, wrong, entries)


def test_what_is_no_whole_row_is_refused() -> None:
    _, weight, _ = chain(lambda x: x.reshape(3, 4, 2), (3, 8))
    with pytest.raises(SurgeryRefused, match="as 4 x 2; the removed ones are no whole rows"):
        spread(weight, 1, (1,))
    _, weight, _ = chain(lambda x: x.reshape(4, 6), (6, 4))
    with pytest.raises(SurgeryRefused, match="must stay whole"):
        spread(weight, 1, (1,))


def test_reshapes_share_the_factors_that_row_major_order_gives_them() -> None:
    generator = random.Random(0)
    seen = 0
    for _ in range(60):
        factors = [generator.choice([1, 2, 3]) for _ in range(4)]
        before, after = (_grouped(factors, generator) for _ in range(2))
        first, second = reshape_labels(before, after)
        for axis, size in enumerate(before):
            label = first[axis]
            if size < 2 or not isinstance(label, str) or label not in second:
                continue
            seen += 1
            other = second.index(label)
            operand = moves.numbers([before])[0]
            gone = moves.entries_that_go(
                lambda x, shape=after: x.reshape(shape), [operand], [{axis: [0]}]
            )[0]
            assert gone == moves.positions(after, {other: [0]})
    assert seen > 50


def _grouped(factors: list[int], generator: random.Random) -> tuple[int, ...]:
    sizes = [factors[0]]
    for factor in factors[1:]:
        if generator.random() < 0.5:
            sizes[-1] *= factor
        else:
            sizes.append(factor)
    return tuple(sizes)


@pytest.mark.parametrize("classes", [[0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 1, 0, 1], [0] * 4])
def test_copies_go_so_that_each_query_keeps_its_key(classes: list[int]) -> None:
    """Against trying all choices of copies."""
    of = torch.tensor(classes)
    size = len(classes)
    for removed in itertools.product([False, True], repeat=size):
        gone = torch.tensor(removed)
        found = fold(gone, of)
        serving = of[~gone].tolist()
        per_class = {c: serving.count(c) for c in set(serving)}
        even = len(set(per_class.values())) <= 1
        if found is None:
            in_order = serving == sorted(serving) and classes == sorted(classes)
            assert not even or not in_order
        else:
            assert of[~found].tolist() == serving
            assert even
        whole = whole_classes(gone, of).tolist()
        assert whole == [all(removed[j] for j in range(size) if classes[j] == c) for c in classes]
