"""What attention holds, and what it would hold at other lengths, from shapes alone.

Only one kind of value grows with the square of the length: one number for every query and key. What
an attention keeps besides (queries, keys, values, what it writes) grows with the length itself.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from zsei.graph.traffic import views
from zsei.subject.cost import value_bytes
from zsei.subject.reading import ATTENTION, LAYOUT, Ancestry, is_float, operation, shape, value
from zsei.subject.types import Subject

_HIDDEN = -1e4
"""What is added to a score to hide a key is at most this."""


@dataclass(frozen=True, kw_only=True)
class AttentionMemory:
    """One attention, per sample."""

    component: str
    queries: int
    keys: int
    score_bytes: int
    """Bytes of one number per head, query and key."""
    written_out: int
    """How many values of that shape its calls make; 0 where a fused call holds none."""
    linear_bytes: int
    """Bytes of all other values its calls make."""
    cache_bytes: int
    """Bytes of the keys and values kept for the next token, at this length; 0 if not causal."""

    @property
    def grows(self) -> bool:
        """Whether both sides are the sequence, so that the scores grow with its square."""
        return self.queries == self.keys

    def held(self, factor: int = 1) -> int:
        """Bytes its calls make at `factor` times the length: f² · scores + f · all else."""
        quadratic = self.score_bytes * self.written_out
        return factor * self.linear_bytes + factor**2 * quadratic

    def scores(self, factor: int = 1) -> int:
        """Bytes of one set of scores at `factor` times the length, held or not."""
        return factor**2 * self.score_bytes


class _Masks:
    """Values of masks on the first batch; only what computes the mask is run, no weights."""

    def __init__(self, subject: Subject):
        assert subject.program is not None
        module = subject.program.graph_module
        self.ancestry = Ancestry(subject.program)
        inputs = iter(subject.calibration[0].inputs)
        self.values: dict[fx.Node, Any] = {}
        for node in self.ancestry.nodes:
            if node.op == "placeholder":
                self.values[node] = next(inputs)
            elif node.op == "get_attr":
                self.values[node] = operator.attrgetter(str(node.target))(module)

    def causal(self, mask: fx.Node) -> bool:
        """Whether every key behind its query is hidden, and the query's own is not."""
        last = self.ancestry.index[mask]
        bits = self.ancestry.bits[last] | 1 << last
        if bits & self.ancestry.weighted or shape(mask)[-1:] != shape(mask)[-2:-1]:
            return False
        with torch.no_grad():
            for i, node in enumerate(self.ancestry.nodes[: last + 1]):
                if bits >> i & 1 and node not in self.values:
                    assert callable(node.target)
                    args, kwargs = map_arg((node.args, node.kwargs), lambda a: self.values[a])
                    self.values[node] = node.target(*args, **kwargs)
        found = self.values[mask]
        size = found.shape[-1]
        later = found[..., torch.ones(size, size, dtype=torch.bool).triu(1)]
        own = found.diagonal(dim1=-2, dim2=-1)
        if not later.numel():
            return False
        if found.dtype == torch.bool:
            return bool((later == later.flatten()[0]).all() and (own != later.flatten()[0]).any())
        return bool((later <= _HIDDEN).all() and (own > _HIDDEN).any())


def attention_memory(subject: Subject) -> tuple[AttentionMemory, ...]:
    """Every attention of a subject whose scores can be read off its program, in its order."""
    if subject.program is None:
        return ()
    samples = subject.calibration[0].size
    nodes = {node.name: node for node in subject.program.graph_module.graph.nodes}
    masks = _Masks(subject)
    return tuple(
        found
        for component in subject.anatomy.components
        if component.kind == "attention"
        and (
            found := _one(
                component.id, [nodes[n] for n in subject.anatomy.nodes[component.id]], samples,
                masks,
            )
        )
    )  # fmt: skip


def _one(
    component: str, owned: list[fx.Node], samples: int, masks: _Masks
) -> AttentionMemory | None:
    scores: list[fx.Node] = []
    fused = next((node for node in owned if operation(node) in ATTENTION), None)
    if fused is not None:
        query, key, values = (a for a in fused.args[:3] if isinstance(a, fx.Node))
        lead = shape(query)[:-1]
        queries, keys = lead[-1], shape(key)[-2]
        entry = value(query)
        assert entry is not None
        size = entry.element_size()
        heads = 1
        for axis in lead[:-1]:
            heads *= axis
        score_bytes = heads * queries * keys * size
        causal = _causal_call(fused, masks)
    else:
        softmax = next((n for n in owned if operation(n) in ("softmax", "_softmax")), None)
        if softmax is None:
            return None
        scores = [node for node in _scores(softmax, owned) if views(node) is None]
        queries, keys = shape(softmax)[-2:]
        score_bytes = value_bytes(softmax)
        product = next((n for n in scores if operation(n) in ("matmul", "bmm", "baddbmm")), None)
        reader = next((n for n in owned if n.all_input_nodes and _reads(n, softmax)), None)
        if product is None or reader is None:
            return None
        key = product.all_input_nodes[-1]
        values = reader.all_input_nodes[-1]
        causal = any(_masked(node, masks) for node in scores)
    made = {node for node in owned if views(node) is None and is_float(node)}
    cache = (_unexpanded(key) + _unexpanded(values)) if causal else 0
    return AttentionMemory(
        component=component,
        queries=queries,
        keys=keys,
        score_bytes=score_bytes // samples,
        written_out=len(scores),
        linear_bytes=sum(value_bytes(node) for node in made - set(scores)) // samples,
        cache_bytes=cache // samples,
    )


def _scores(softmax: fx.Node, owned: list[fx.Node]) -> Iterator[fx.Node]:
    """The calls from the product of queries and keys to the product with the values."""
    wanted, members = shape(softmax)[-2:], set(owned)
    before, after = [softmax], [softmax]
    found = {softmax}
    while before:
        node = before.pop()
        if operation(node) in ("matmul", "bmm", "baddbmm"):
            continue
        for argument in node.all_input_nodes:
            if argument in members and shape(argument)[-2:] == wanted and argument not in found:
                found.add(argument)
                before.append(argument)
    while after:
        for user in after.pop().users:
            product = operation(user) in ("matmul", "bmm", "baddbmm")
            if user in members and not product and user not in found:
                found.add(user)
                after.append(user)
    return (node for node in owned if node in found)


def _reads(node: fx.Node, softmax: fx.Node) -> bool:
    """Whether a product reads the weights, past calls that only look at or copy them."""
    if operation(node) not in ("matmul", "bmm"):
        return False
    first = node.all_input_nodes[0]
    while first is not softmax and operation(first) in LAYOUT | {"mul"} and first.all_input_nodes:
        first = first.all_input_nodes[0]
    return first is softmax


def _unexpanded(node: fx.Node) -> int:
    """Bytes of keys or values before heads are repeated for groups of queries."""
    least = value_bytes(node)
    while operation(node) in LAYOUT and node.all_input_nodes:
        node = node.all_input_nodes[0]
        if value(node) is None:
            break
        least = min(least, value_bytes(node))
    return least


def _causal_call(fused: fx.Node, known: _Masks) -> bool:
    causal = fused.args[5] if len(fused.args) > 5 else fused.kwargs.get("is_causal", False)
    mask = fused.args[3] if len(fused.args) > 3 else fused.kwargs.get("attn_mask")
    return bool(causal) or (isinstance(mask, fx.Node) and known.causal(mask))


def _masked(node: fx.Node, known: _Masks) -> bool:
    """Whether a call on the way to the weights takes in a mask that hides what comes later."""
    return any(known.causal(a) for a in node.all_input_nodes if shape(a)[-2:] == shape(node)[-2:])
