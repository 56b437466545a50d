import copy
import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from zsei.gate.cost import live_nodes, measure_cost, parameter_targets
from zsei.gate.latency import measure_latency
from zsei.subject.program import Program, export, frozen_twin


class Tied(nn.Module):
    """Embedding and head share one matrix; a buffer takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.words.weight
        self.up, self.down = nn.Linear(6, 32), nn.Linear(32, 6)
        self.register_buffer("scale", torch.ones(6))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        x = x + self.down(torch.relu(self.up(x))) * self.scale
        return self.head(x)


N, T = 4, 5


@pytest.fixture
def program() -> Program:
    return export(frozen_twin(Tied().eval()), ["tokens"], [torch.zeros(N, T, dtype=torch.long)])


def bytes_alive(program: Program) -> Iterator[int]:
    """Slow oracle: run the graph on real tensors and add up the storages alive at each call."""
    module = program.graph_module
    nodes = list(module.graph.nodes)
    values: dict[fx.Node, Tensor] = {}
    weights = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    for i, node in enumerate(nodes):
        if node.op == "placeholder":
            values[node] = torch.zeros(N, T, dtype=torch.long)
        elif node.op == "get_attr":
            values[node] = module.state_dict()[str(node.target)]
        elif node.op == "call_function":
            arguments = fx.node.map_arg(node.args, lambda n: values[n])
            values[node] = node.target(*arguments, **node.kwargs)  # type: ignore[operator]
        used = {n for later in nodes[i + 1 :] for n in later.all_input_nodes}
        used |= {node, *node.all_input_nodes}
        used |= {n for n in nodes[i + 1 :] if n.op == "placeholder"}
        storages = {
            values[n].untyped_storage().data_ptr(): values[n].untyped_storage().nbytes()
            for n in used
            if n in values
        }
        yield sum(size for pointer, size in storages.items() if pointer not in weights)


def test_cost_by_hand(program: Program) -> None:
    cost = measure_cost(program)
    assert cost.parameters == 60 + (6 * 32 + 32) + (32 * 6 + 6)  # the tied matrix once
    assert cost.weight_bytes == 4 * (cost.parameters + 6)  # and the buffer
    assert cost.flops == T * 2 * (6 * 32 + 32 * 6 + 6 * 10)
    values = 6 + 32 + 32 + 6 + 6 + 6 + 10  # words, up, relu, down, times, plus, head
    assert cost.activation_bytes == T * 4 * values


def test_peak_memory_equals_what_is_alive_in_a_real_run(program: Program) -> None:
    assert measure_cost(program).peak_bytes == max(bytes_alive(program)) // N
    # The widest moment: words, up and relu at once; the tokens have been used.
    assert measure_cost(program).peak_bytes == T * 4 * (6 + 32 + 32)


def _later(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph, but `other` is ten times as wide: its moment is now the worst, and the big
    value is alive in it only through its views."""
    for node in module.graph.nodes:
        if node.name == "cat_1":
            node.meta["val"] = node.meta["val"].new_empty(10 * N)
    return module


class Views(nn.Module):
    """The big value lives on through its views."""

    def forward(self, x: Tensor) -> Tensor:
        big = torch.cat([x, x, x], dim=1)
        view = big.transpose(0, 1).unsqueeze(0)[0]
        small = x.sum(1)
        other = torch.cat([small, small])
        return view[0, :2] + other[:2]


def test_a_view_keeps_its_source_alive_and_costs_nothing() -> None:
    program = export(Views(), ["x"], [torch.zeros(N, T)])
    cost = measure_cost(program)
    big, small, other = 4 * N * 3 * T, 4 * N, 4 * 2 * N
    assert cost.activation_bytes == (big + small + other + 8) // N
    assert cost.peak_bytes == (4 * N * T + big + small) // N  # x, big and x's sum at once
    with_end = dataclasses.replace(program, graph_module=_later(program.graph_module))
    assert measure_cost(with_end).peak_bytes == (big + 40 * N + small) // N


def test_what_the_output_does_not_need_costs_nothing(program: Program) -> None:
    before = measure_cost(program)
    graph = program.graph_module.graph
    relu = next(node for node in graph.nodes if node.name == "relu")
    with graph.inserting_after(relu):
        spare = graph.call_function(torch.ops.aten.linear.default, relu.next.args)  # type: ignore[arg-type]
    spare.meta = dict(relu.next.meta)
    assert spare not in live_nodes(program)
    assert measure_cost(program) == before


def test_a_weight_turned_buffer_is_no_saving(program: Program) -> None:
    known = parameter_targets(program)
    before = measure_cost(program)
    up = program.graph_module.get_submodule("model.up")
    weight = up.weight.data  # type: ignore[union-attr]
    del up.weight
    up.register_buffer("weight", weight)  # type: ignore[arg-type]
    assert measure_cost(program).parameters == before.parameters - 6 * 32
    assert measure_cost(program, known) == before


def test_shared_storage_counts_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    program = export(frozen_twin(model), ["input"], [torch.zeros(2, 4)])
    assert measure_cost(program).parameters == 40
    layers = program.graph_module.get_submodule("model")
    second = layers.get_submodule("1")
    second.weight = nn.Parameter(layers.get_submodule("0").weight.detach(), requires_grad=False)  # type: ignore[operator, union-attr]
    assert measure_cost(program).parameters == 24
    assert measure_cost(program).weight_bytes == 4 * 24


class Sleeper:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.threads = seconds, set[int]()

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        time.sleep(self.seconds)
        return inputs[0]


def test_latency_is_a_ratio_of_pairs_on_one_thread() -> None:
    torch.set_num_threads(2)
    try:
        before, after = Sleeper(0.1), Sleeper(0.05)
        median, low, high = measure_latency(before, after, [torch.zeros(1)], pairs=5)
        assert low <= median <= high
        assert median == pytest.approx(0.5, abs=0.25)  # sleeping is only ever too long
        assert before.threads == after.threads == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            measure_latency(before, Broken(), [torch.zeros(1)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


class Broken:
    def __call__(self, *inputs: Tensor) -> Tensor:
        raise RuntimeError


def test_who_goes_first_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter(np.arange(100.0))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))

    def run(name: str):
        return lambda *inputs: order.append(name)

    result = measure_latency(run("before"), run("after"), [], pairs=4)  # type: ignore[arg-type]
    assert order[2:] == ["before", "after", "after", "before"] * 2
    assert result == (1.0, 1.0, 1.0)


def test_measuring_leaves_the_program_alone(program: Program) -> None:
    state = copy.deepcopy(program.graph_module.state_dict())
    code = program.graph_module.code
    measure_cost(program)
    assert program.graph_module.code == code
    assert all(torch.equal(state[k], v) for k, v in program.graph_module.state_dict().items())
