"""Plain second ways to the numbers of a profile: everything kept, walked with a dictionary."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor, fx

from zsei.subject.program import Program


def bytes_alive(program: Program, values: dict[str, Any], inputs: Sequence[Tensor]) -> list[int]:
    """Bytes alive right after each call: storages of values made so far that are still read.

    Args:
        program: The program.
        values: The value of every node of one run, all kept, so that no address is used twice.
        inputs: What the run was given.
    """
    nodes = list(program.graph_module.graph.nodes)
    outside = {t.untyped_storage().data_ptr() for t in inputs}
    for node in nodes:
        if node.op == "get_attr":
            outside |= {t.untyped_storage().data_ptr() for t in _tensors(values[node.name])}
    found = []
    for now, node in enumerate(nodes):
        if node.op != "call_function":
            continue
        alive: dict[int, int] = {}
        for made, earlier in enumerate(nodes[: now + 1]):
            readers = [nodes.index(user) for user in earlier.users]
            if made != now and max(readers, default=-1) < now:
                continue
            for tensor in _tensors(values[earlier.name]):
                storage = tensor.untyped_storage()
                alive[storage.data_ptr()] = storage.nbytes()
        found.append(sum(size for place, size in alive.items() if place not in outside))
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


def bytes_of_call(node: fx.Node, values: dict[str, Any]) -> int:
    """Bytes of all tensors a call reads and makes, each argument once, from the values themselves;
    right for calls that make their own memory and look nothing up.
    """
    read = {argument.name for argument in node.all_input_nodes}
    return sum(
        tensor.numel() * tensor.element_size()
        for name in (*read, node.name)
        for tensor in _tensors(values[name])
    )


def slope(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Exponent with its 90 % interval, by numpy's fit and its covariance."""
    x, y = np.log(np.array(sizes)), np.log(np.array(values))
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    reach = stats.t.interval(0.9, len(values) - 2)[1] * math.sqrt(covariance[0, 0])
    return coefficients[0], coefficients[0] - reach, coefficients[0] + reach
