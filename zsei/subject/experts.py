"""Reads off a program how a mixture of experts chooses among its experts, and the neurons in them.

What is read is the way from the router to the experts: a linear gives every token one logit per
expert; after a softmax or the like `topk` keeps the k largest; their numbers, sorted, are counted
per expert, and the running count tells the grouped products which rows go to which expert.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from zsei.subject.blocks import PIECES, is_linear
from zsei.subject.reading import ELEMENTWISE, EXPERTS, LAYOUT, Ancestry, operation, shape

SCORES = {"softmax", "_softmax", "sigmoid"}


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How tokens find the experts of one block."""

    logits: fx.Node
    """Value [tokens, experts] of the router."""
    along: tuple[fx.Node, ...]
    """Calls behind it that work along the experts: softmax, and `chosen` as the last."""
    chosen: fx.Node
    """The `topk` call."""
    counts: fx.Node
    """Tokens per expert [experts] (`histc`)."""
    running: fx.Node
    """Their running sum [experts], which the grouped products read."""

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return shape(self.logits)[-1]

    @property
    def least(self) -> int:
        """How many experts every token needs (k)."""
        found = self.chosen.args[1]
        assert isinstance(found, int)
        return found


@dataclass(frozen=True, kw_only=True)
class ExpertNeurons:
    """Neurons inside all experts of a block: the value [rows, neurons] the last product reads."""

    value: fx.Node
    reader: fx.Node


def find_routing(product: fx.Node) -> Routing | None:
    """The routing behind a grouped product; None where it is chosen in another way."""
    running = product.args[2] if len(product.args) > 2 else None
    if not isinstance(running, fx.Node):
        return None
    counts = _back(running, {"cumsum"} | LAYOUT)
    if operation(counts) != "histc" or not _counts_numbers(counts):
        return None
    ordered = _back(_first(counts), LAYOUT)
    if operation(ordered) != "sort":
        return None
    numbers = _back(_first(ordered), LAYOUT)
    if operation(numbers) != "topk":
        return None
    way = _way_to_logits(_first(numbers))
    if way is None or shape(way[-1])[-1] != shape(counts)[0]:
        return None
    along = tuple(n for n in reversed(way) if operation(n) in SCORES - {"sigmoid"})
    sums = [n for n in _between(running, counts) if operation(n) == "cumsum"]
    if len(sums) != 1:
        return None
    return Routing(
        logits=way[-1], along=(*along, numbers), chosen=numbers, counts=counts, running=sums[0]
    )


def find_neurons(products: Iterable[fx.Node]) -> tuple[ExpertNeurons, ...]:
    """Neurons between two grouped products of one block."""
    products = tuple(products)
    found = []
    for reader in products:
        value = _first(reader)
        seen, stack = set(), [value]
        sources: set[fx.Node] = set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in products:
                sources.add(node)
            elif operation(node) in ELEMENTWISE | PIECES:
                stack.extend(a for a in node.all_input_nodes if a.op == "call_function")
            else:
                break
        else:
            if sources and reader not in sources:
                found.append(ExpertNeurons(value=value, reader=reader))
    return tuple(found)


def grouped_products(ancestry: Ancestry) -> list[fx.Node]:
    """All products of rows with the weights of their expert."""
    return [node for node in ancestry.nodes if operation(node) in EXPERTS]


def _first(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _back(node: fx.Node, passed: Iterable[str]) -> fx.Node:
    """The first call that is none of `passed`, going back along first arguments."""
    while operation(node) in passed and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _between(node: fx.Node, start: fx.Node) -> list[fx.Node]:
    found = []
    while node is not start:
        found.append(node)
        node = _first(node)
    return found


def _counts_numbers(counts: fx.Node) -> bool:
    """Whether `histc` counts the whole numbers 0 to bins - 1, one each."""
    bins, low, high = (*counts.args[1:], None, None, None)[:3]
    if not (isinstance(bins, int) and isinstance(low, int) and isinstance(high, int)):
        return False
    return low == 0 and high == bins - 1


def _way_to_logits(node: fx.Node) -> list[fx.Node] | None:
    """The calls from what `topk` reads back to the router's linear, which is the last."""
    way = [node]
    while not is_linear(node):
        name = operation(node)
        inputs = [a for a in node.all_input_nodes if a.op == "call_function"]
        if name not in SCORES | LAYOUT | ELEMENTWISE or len(inputs) != 1:
            return None
        node = inputs[0]
        way.append(node)
    return way
