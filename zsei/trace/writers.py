"""The residual stream as a sum of what was written into it, read off the program.

Going back from any value of the stream: an add splits into its summands, a norm is passed with its
statistics frozen at the clean run (`edge_norms`), a reshape is passed as it is, and whatever else
is met is a *writer*. What an attention writes is split by head, z_h W_O^h; its output bias, and the
bias (beta) of every norm on the way, are writers of their own, `<component>:bias`, constant over
inputs. A fused or written-out branch (an MLP, its experts) is one writer, its own bias included.

    value[n] = Σ_u carry_u(writer_u[n]),    n sample and position

exactly, up to rounding, before and behind norms alike: for pre-norm models (GPT-2, Llama, T5, ViT)
the carry is one norm, for post-norm ones (BERT) the norms of all later blocks.

Source: the frozen norm is that of Elhage et al., "A mathematical framework for transformer
circuits", 2021, and of attribution by local linearisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from zsei.subject.blocks import is_linear
from zsei.subject.reading import LAYOUT, channel_axis, is_float, operation, shape
from zsei.subject.types import Anatomy
from zsei.trace.edge_norms import FrozenNorm, channel_affine, frozen_norm, is_batch_norm
from zsei.trace.edge_stream import Place, Stream, Writer

MOST_TERMS = 20000
"""A value that falls into more summands than this is taken as one writer."""
PASSED = LAYOUT - {"getitem", "expand", "t", "permute", "detach"}


def find_stream(
    anatomy: Anatomy,
    nodes: Sequence[fx.Node],
    constants: Mapping[str, Any],
    joins: Sequence[str],
    heads: Mapping[str, tuple[str, tuple[str, ...], Tensor]],
) -> Stream:
    """The streams of a program; one without writers where values never add up along channels.

    Args:
        anatomy: Components and the nodes they own.
        nodes: The program's nodes, in order.
        constants: Weights and buffers by node.
        joins: Nodes that add a branch to the stream.
        heads: Attention -> (node of its heads, their ids, output projection [h, w, d]).
    """
    return _Finder(anatomy, nodes, constants, heads).find(joins)


class _Finder:
    """Goes back from every join, then forward to the norms that read what was found."""

    def __init__(
        self, anatomy: Anatomy, nodes: Sequence[fx.Node], constants: Mapping[str, Any],
        heads: Mapping[str, tuple[str, tuple[str, ...], Tensor]],
    ):  # fmt: skip
        self.nodes: dict[str, fx.Node] = {node.name: node for node in nodes}
        self.constants = constants
        self.heads = heads
        self.owner = owners(anatomy)
        self.writers: list[Writer] = []
        self.places: dict[str, Place] = {}
        self.size: dict[str, int] = {}
        self.same: dict[str, str] = {}
        self.norms: dict[str, tuple[FrozenNorm, set[str]]] = {}
        self.writing = {
            anatomy.outputs[c.id]: c.id
            for c in anatomy.components
            if c.kind not in ("norm", "residual", "layer", "head", "output")
            and (c.parent is None or anatomy.outputs[c.parent] != anatomy.outputs[c.id])
        }  # fmt: skip
        for c in anatomy.components:
            if c.kind == "norm":
                calls = tuple(self.nodes[name] for name in anatomy.nodes[c.id])
                output = self.nodes[anatomy.outputs[c.id]]
                self._add_norm(c.id, calls, output)

    def _add_norm(self, component: str, calls: tuple[fx.Node, ...], output: fx.Node) -> None:
        if not is_batch_norm(calls[0]):
            norm = frozen_norm(component, calls, output, self.constants)
            if norm is not None:
                self.norms[output.name] = (norm, {node.name for node in calls})
            return
        # Behind x.transpose(1, 2) and before the transpose back it acts on the last axis of x.
        before = calls[0].all_input_nodes[0]
        behind = list(output.users)
        if swaps(before, 1, 2) and behind and all(swaps(node, 1, 2) for node in behind):
            norm = channel_affine(component, calls[0], before.all_input_nodes[0], self.constants)
            inner = {before.name, output.name, *(node.name for node in calls)}
            for node in behind:
                self.norms[node.name] = (norm, inner | {node.name})

    def find(self, joins: Sequence[str]) -> Stream:
        """Everything reached from the joins."""
        for name in joins:
            node = self.nodes[name]
            if len(shape(node)) <= 3 and channel_axis(node) == -1:
                self._place(node)
        inside = self._forward() if self.places else set()
        order = {name: i for i, name in enumerate(self.nodes)}
        return Stream(
            writers=tuple(self.writers),
            places={
                name: self.places[name] for name in sorted(self.places, key=lambda n: order[n])
            },
            inside=frozenset(inside),
            same=self.same,
        )

    def _place(self, node: fx.Node) -> str:
        """Name of the place a value is, found now or before; reshapes stand for what they show."""
        passed = []
        while node.name not in self.places and self._passes(node):
            passed.append(node.name)
            node = node.all_input_nodes[0]
        if node.name not in self.places:
            self._settle(node)
        self.same.update((name, node.name) for name in passed)
        return node.name

    def _settle(self, node: fx.Node) -> None:
        found = self.norms.get(node.name)
        norm = found[0] if found is not None else self._scaled(node)
        sources = self._summands(node)
        if norm is not None:
            source = self._place(self.nodes[norm.source])
            bias: tuple[int, ...] = ()
            if norm.bias is not None:
                bias = (self._write(_bias(f"{norm.component}:bias", norm.bias, node)),)
            self.places[node.name] = Place(kind="norm", sources=(source,), norm=norm, writers=bias)
            self.size[node.name] = self.size[source] + len(bias)
        elif sources:
            inner = tuple(self._place(source) for source in sources)
            for name, source in zip(inner, sources, strict=True):
                if shape(source) != shape(node):
                    self._spread(name, shape(node)[:-1])
            self.places[node.name] = Place(kind="sum", sources=inner)
            self.size[node.name] = sum(self.size[name] for name in inner)
            if self.size[node.name] > MOST_TERMS:
                self._settle_writer(node)
        else:
            self._settle_writer(node)

    def _summands(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """What an add of the stream adds; nothing when the node is no such add."""
        if operation(node) != "add" or node.name in self.writing or node.kwargs.get("alpha"):
            return ()
        parts = node.all_input_nodes
        if len(node.args) < 2 or len(parts) != 2 or not all(is_float(part) for part in parts):
            return ()
        if any(shape(part)[-1:] != shape(node)[-1:] for part in parts):
            return ()
        return tuple(parts)

    def _settle_writer(self, node: fx.Node) -> None:
        component = self.writing.get(node.name)
        heads = self.heads.get(component or "")
        lead = shape(node)[:-1]
        if component is None or heads is None:
            name = component or self._named(node)
            constant = self.constants[node.name].detach() if node.op == "get_attr" else None
            written = None if node.op == "get_attr" else node.name
            numbers = [self._write(
                Writer(component=name, names=(name,), node=written, constant=constant, lead=lead)
            )]  # fmt: skip
        else:
            core, names, weight = heads
            numbers = [self._write(
                Writer(component=component, names=names, node=core, weight=weight, lead=lead)
            )]  # fmt: skip
            bias = self._output_bias(node, weight.shape[2])
            if bias is not None:
                numbers.append(self._write(_bias(f"{component}:bias", bias, node)))
        self.places[node.name] = Place(kind="writer", writers=tuple(numbers))
        self.size[node.name] = len(numbers)

    def _spread(self, name: str, lead: tuple[int, ...]) -> None:
        """Say that what is written at a place is repeated over the axes of the sum it enters."""
        for number in self.places[name].writers:
            self.writers[number] = replace(self.writers[number], lead=lead, shared=True)

    def _output_bias(self, node: fx.Node, width: int) -> Tensor | None:
        while not is_linear(node):
            node = node.all_input_nodes[0]
        found = [
            self.constants[a.name] for a in node.all_input_nodes
            if a.op == "get_attr" and tuple(shape(a)) == (width,)
        ]  # fmt: skip
        return found[0].detach() if found else None

    def _write(self, writer: Writer) -> int:
        self.writers.append(writer)
        return len(self.writers) - 1

    def _named(self, node: fx.Node) -> str:
        """Id of the nearest component a value comes from, or the parameter it is made of."""
        seen = [node]
        for found in seen:
            if found.name in self.owner:
                return self.owner[found.name]
            seen += [a for a in found.all_input_nodes if a not in seen]
        parameters = [found for found in seen if found.op == "get_attr"]
        return str(parameters[0].target).removeprefix("model.") if parameters else node.name

    def _passes(self, node: fx.Node) -> bool:
        """Whether a call shows its one input in another shape, each position still a row."""
        if node.name in self.writing or node.name in self.norms or operation(node) not in PASSED:
            return False
        inputs = node.all_input_nodes
        if len(inputs) != 1 or not is_float(inputs[0]) or not is_float(node):
            return False
        same_rows = shape(node)[-1:] == shape(inputs[0])[-1:]
        swapped = operation(node) == "transpose"
        return same_rows and not swapped and len(shape(node)) > 1

    def _forward(self) -> set[str]:
        """Place the norms and reshapes that read the stream; returns all that belongs to it."""
        inside = {*self.places, *self.same}
        for name in self.places:
            if name in self.norms:
                inside |= self.norms[name][1]
        starts = {call: output for output, (_, calls) in self.norms.items() for call in calls}
        for node in self.nodes.values():
            if node.name in inside or not any(a.name in inside for a in node.all_input_nodes):
                continue
            output = starts.get(node.name)
            if output is not None and self.norms[output][0].source in inside:
                self._place(self.nodes[output])
                inside |= self.norms[output][1] | {output}
            elif self._passes(node) or self._scaled(node) is not None or self._joins(node, inside):
                self._place(node)
                inside.add(node.name)
        return inside

    def _joins(self, node: fx.Node, inside: set[str]) -> bool:
        summands = self._summands(node)
        return bool(summands) and all(a.name in inside for a in summands)

    def _scaled(self, node: fx.Node) -> FrozenNorm | None:
        """A product with a number or with one weight per channel, which is linear as it is."""
        if operation(node) not in ("mul", "div") or node.name in self.owner:
            return None
        data = [a for a in node.all_input_nodes if a.op != "get_attr" and is_float(a)]
        if len(data) != 1 or shape(data[0]) != shape(node) or len(node.args) != 2:
            return None
        other = node.args[0] if node.args[1] is data[0] else node.args[1]
        width = shape(node)[-1]
        factor = self.constants.get(other.name) if isinstance(other, fx.Node) else other
        if isinstance(factor, Tensor) and factor.ndim and tuple(factor.shape) != (width,):
            return None
        if not isinstance(factor, Tensor | float | int):
            return None
        if operation(node) == "div":
            if node.args[0] is not data[0]:
                return None
            factor = 1 / factor
        weight = torch.as_tensor(factor).detach().float().expand(width)
        return FrozenNorm(component=node.name, source=data[0].name, weight=weight)


def owners(anatomy: Anatomy) -> dict[str, str]:
    """Node -> the component it belongs to; the outermost where one holds another."""
    found: dict[str, str] = {}
    for component in anatomy.components:
        if component.kind in ("layer", "head", "output", "input"):
            continue
        for node in anatomy.nodes[component.id]:
            if component.parent is None or node not in found:
                found[node] = component.id
    return found


def _bias(name: str, value: Tensor, node: fx.Node) -> Writer:
    lead = shape(node)[:-1]
    return Writer(component=name, names=(name,), constant=value, lead=lead, shared=True)


def swaps(node: fx.Node, first: int, second: int) -> bool:
    """Whether a call only exchanges two axes."""
    if operation(node) != "transpose" or len(node.args) != 3:
        return False
    size = len(shape(node))
    axes = {int(axis) % size for axis in node.args[1:] if isinstance(axis, int)}
    return axes == {first, second}
