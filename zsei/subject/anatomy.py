"""Reads a model's anatomy off its program: components with stable ids, and the sites to tap.

No architecture is known by name. Attention is the attention call (or a softmax between two matrix
products); its head axis is read off shapes. A residual is an add that joins a stream with something
computed from it; blocks are the numbered modules that hold one. A module called twice is two
calls, `#1` and `#2`.
"""

from collections import Counter

from torch import fx

from zsei.records import ComponentKind
from zsei.subject.blocks import (
    AttentionBlock,
    HiddenUnits,
    behind,
    find_attentions,
    find_hidden_units,
    is_linear,
)
from zsei.subject.channels import find_channels
from zsei.subject.draft import Draft, Part, finish
from zsei.subject.experts import find_neurons, find_routing
from zsei.subject.program import Program
from zsei.subject.reading import (
    CONV,
    EXPERTS,
    LAYOUT,
    NORM,
    POOL,
    RECURRENT,
    Ancestry,
    channel_axis,
    find_residuals,
    is_float,
    layer_paths,
    operation,
    owner,
    parameter_names,
    places,
    shape,
)
from zsei.subject.streams import first_joins
from zsei.subject.types import Anatomy, Site


def read_anatomy(program: Program, family: str = "") -> Anatomy:
    """Components, the nodes they own, the values they write, and the sites where units are tapped.

    Args:
        program: A functional program (see `zsei.subject.program.export`).
        family: Name of the architecture family, carried along.
    """
    draft = Draft(ancestry=Ancestry(program))
    for node in draft.ancestry.nodes:
        for place in places(node):
            draft.calls[place.path] = max(draft.calls[place.path], place.call + 1)
    residuals = find_residuals(draft.ancestry)
    _find_layers(draft, layer_paths(residuals, draft.ancestry))
    attentions = find_attentions(draft.ancestry)
    _add_attentions(draft, attentions)
    _add_hidden_units(draft, find_hidden_units(draft.ancestry, attentions))
    _add_experts(draft)
    _add_leaves(draft)
    _add_channels(draft)
    streams = {join.node for join in first_joins(residuals)}
    for number, residual in enumerate(residuals):
        base = draft.layer_of(residual.node) or owner(residual.node).path
        name = f"{base}/residual" if base else f"residual.{number}"
        name = draft.unique(name)
        draft.add(
            Part(id=name, kind="residual", path=owner(residual.node).path,
                  nodes=[residual.node], output=residual.node)
        )  # fmt: skip
        if residual.node in streams:
            sizes = shape(residual.node)
            axis = channel_axis(residual.node) % len(sizes)
            draft.untapped.append(
                Site(component=name, kind="width", node=residual.node.name, axis=axis,
                     units=sizes[axis], unit_ids=(name,))
            )  # fmt: skip
    _add_ends(draft, program.input_names)
    parameters = program.graph_module.named_parameters(remove_duplicate=False)
    return finish(draft, family, {name for name, _ in parameters})


def _find_layers(draft: Draft, paths: dict[str, str]) -> None:
    nodes: dict[tuple[str, int], list[fx.Node]] = {}
    for node in draft.ancestry.nodes:
        for place in places(node):
            if place.path in paths:
                nodes.setdefault((place.path, place.call), []).append(node)
                break
    calls = Counter(path for path, _ in nodes)
    for number, ((path, call), inside) in enumerate(nodes.items()):
        name = path if calls[path] == 1 else f"{path}#{call + 1}"
        draft.layers[path, call] = name
        draft.numbers[name] = number
        ends = _boundary(draft, inside)
        output = ends[1] if ends else inside[-1]
        part = Part(id=name, kind="layer", path=path, nodes=inside, output=output, layer=number)
        draft.parts[name] = part
        if ends:
            draft.tap(name, "layer", output, None, source=ends[0].name)


def _boundary(draft: Draft, inside: list[fx.Node]) -> tuple[fx.Node, fx.Node] | None:
    """(stream that enters, stream that leaves) a block; None when it is no single stream."""
    members = set(inside)
    leaving = [
        node for node in inside if is_float(node) and any(u not in members for u in node.users)
    ]
    if len(leaving) != 1:
        return None
    output = leaving[0]
    for node in inside:
        for argument in node.all_input_nodes:
            outside = argument not in members and argument.op != "get_attr"
            if outside and is_float(argument) and shape(argument) == shape(output):
                return argument, output
    return None


def _add_attentions(draft: Draft, attentions: tuple[AttentionBlock, ...]) -> None:
    per_layer = Counter(draft.layer_of(block.core) for block in attentions)
    for block in attentions:
        layer = draft.layer_of(block.core)
        alone = layer is not None and per_layer[layer] == 1
        base = layer if alone else _called(draft, block.core)
        name = draft.unique(f"{base}/attention" if base else "attention")
        own = tuple(
            p for p in block.projections if draft.layer_of(p) == layer and p not in draft.owned
        )
        end = block.output or behind(block.core, LAYOUT)
        nodes = draft.swallow(name, own or (block.core,), end)
        output = behind(end, LAYOUT)
        path = owner(block.core).path
        draft.add(
            Part(id=name, kind="attention", path=path, nodes=nodes, output=output,
                  units=block.heads)
        )  # fmt: skip
        heads = tuple(f"{base}/head.{h}" if base else f"head.{h}" for h in range(block.heads))
        for index, head in enumerate(heads):
            draft.add(
                Part(id=head, kind="head", path=path, nodes=nodes, output=block.core,
                      parent=name, index=index, share=1 / block.heads)
            )  # fmt: skip
            draft.parts[head].layer = draft.parts[name].layer
        if heads:
            draft.tap(name, "head", block.core, 1, block.heads, heads)
        draft.tap(name, "branch", output, None)


def _called(draft: Draft, node: fx.Node) -> str:
    """Path of the innermost module, with its call number when it is called again."""
    place = owner(node)
    return draft.numbered(place.path, place)


def _add_hidden_units(draft: Draft, stretches: tuple[HiddenUnits, ...]) -> None:
    readers = {stretch.reader for stretch in stretches}
    per_layer = Counter(draft.layer_of(s.reader) for s in stretches)
    for stretch in stretches:
        layer = draft.layer_of(stretch.reader)
        chained = any(s in readers for s in stretch.sources) or any(
            stretch.reader in other.sources for other in stretches
        )
        width = shape(stretch.value)[-1]
        axis = len(shape(stretch.value)) - 1
        if layer is None or chained or any(draft.layer_of(s) != layer for s in stretch.sources):
            # Neurons of a plain chain of linears belong to the linear that writes them.
            name = _leaf_id(draft, stretch.sources[0])
            draft.tap(name, "neuron", stretch.value, axis, width)
            continue
        alone = per_layer[layer] == 1
        base = layer if alone else owner(stretch.reader).path.rpartition(".")[0]
        name = draft.unique(f"{base}/mlp")
        nodes = draft.swallow(name, stretch.sources, stretch.reader)
        output = behind(stretch.reader, LAYOUT)
        draft.add(
            Part(id=name, kind="mlp", path=owner(stretch.reader).path.rpartition(".")[0],
                  nodes=nodes, output=output, units=width)
        )  # fmt: skip
        draft.tap(name, "neuron", stretch.value, axis, width)
        draft.tap(name, "branch", output, None)


def _add_experts(draft: Draft) -> None:
    groups: dict[tuple[str, int], list[fx.Node]] = {}
    for node in draft.ancestry.nodes:
        if operation(node) in EXPERTS:
            place = owner(node)
            groups.setdefault((place.path, place.call), []).append(node)
    for (path, call), products in groups.items():
        inside = [
            node for node in draft.ancestry.nodes
            if any((p.path, p.call) == (path, call) for p in places(node))
        ]  # fmt: skip
        base = draft.layer_of(products[0]) or path
        name = draft.unique(f"{base}/experts")
        for node in inside:
            draft.owned[node] = name
        weight = max((shape(a) for p in products for a in p.all_input_nodes), key=len)
        output = behind(inside[-1], LAYOUT)
        draft.add(
            Part(id=name, kind="experts", path=path, nodes=inside, output=output,
                  units=weight[0] if len(weight) == 3 else 0)
        )  # fmt: skip
        draft.tap(name, "branch", output, None)
        _add_untapped(draft, name, products)


def _add_untapped(draft: Draft, name: str, products: list[fx.Node]) -> None:
    """Experts that can go whole, and neurons that can go from all experts of a block."""
    routing = find_routing(products[0])
    if routing is not None:
        ids = tuple(f"{name}/expert.{i}" for i in range(routing.experts))
        axis = len(shape(routing.logits)) - 1
        draft.untapped.append(
            Site(component=name, kind="expert", node=routing.logits.name, axis=axis,
                 units=routing.experts, unit_ids=ids)
        )  # fmt: skip
    for neurons in find_neurons(products):
        draft.untapped.append(
            Site(component=name, kind="neuron", node=neurons.value.name, axis=1,
                 units=shape(neurons.value)[1], unit_ids=(name,))
        )  # fmt: skip


def _leaf_kind(node: fx.Node) -> ComponentKind | None:
    name = operation(node)
    if name == "embedding" and parameter_names(node):
        return "embedding"
    if name in NORM:
        return "norm"
    if name in CONV and parameter_names(node):
        return "conv"
    if name in RECURRENT:
        return "recurrent"
    if name in POOL:
        return "pool"
    if is_linear(node) or (name in ("einsum", "bilinear") and parameter_names(node)):
        return "linear"
    if name == "rsqrt" and "norm" in owner(node).class_name.lower():
        return "norm"
    return None


def _leaf_id(draft: Draft, node: fx.Node) -> str:
    """Path of the module whose weight the call reads, with `#k` when it is called again.

    A tied weight carries the name of one owner only; the module that makes the call then counts.
    """
    place = owner(node)
    path = next((name.rpartition(".")[0] for name in parameter_names(node)), place.path)
    inside = path == place.path or path.startswith(f"{place.path}.") or not place.path
    base = (path if inside else place.path) or operation(node)
    return draft.numbered(base, place)


def _add_leaves(draft: Draft) -> None:
    for node in draft.ancestry.nodes:
        kind = _leaf_kind(node)
        if kind is None:
            continue
        nodes, output = [node], node
        if operation(node) == "rsqrt":
            # A root-mean-square norm written out: all calls of that module call are the norm.
            place = owner(node)
            nodes = [n for n in draft.ancestry.nodes if owner(n) == place]
            output = nodes[-1]
            name = draft.numbered(place.path, place)
        else:
            name = _leaf_id(draft, node)
        if kind in ("norm", "recurrent") and isinstance(node.meta.get("val"), tuple | list):
            taken = [u for u in node.users if operation(u) == "getitem"]
            output = next((u for u in taken if u.args[1] == 0), node)
            nodes = [node, *taken]
        units = shape(output)[1] if kind == "conv" else 0
        if kind == "linear":
            units = shape(output)[-1]
        draft.add(
            Part(id=draft.unique(name), kind=kind, path=owner(node).path, nodes=nodes,
                  output=output, parent=draft.owned.get(node), units=units)
        )  # fmt: skip
        if kind in ("linear", "conv", "recurrent") and node not in draft.owned:
            draft.tap(name, "branch", output, None)


def _add_channels(draft: Draft) -> None:
    by_node = {part.nodes[0]: part.id for part in draft.parts.values() if part.kind == "conv"}
    for channels in find_channels(draft.ancestry):
        name = by_node.get(channels.source)
        if name is not None:
            units, width = shape(channels.source)[1], shape(channels.value)[1]
            draft.tap(name, "channel", channels.value, 1, units, unit_size=width // units)


def _add_ends(draft: Draft, input_names: tuple[str, ...]) -> None:
    nodes = draft.ancestry.nodes
    entries = [node for node in nodes if node.op == "placeholder"]
    for name, node in zip(input_names, entries, strict=True):
        part = Part(id=f"input.{name}", kind="input", path="", nodes=[node], output=node)
        draft.parts[part.id] = part
    last = nodes[-1].all_input_nodes[0]
    draft.parts["output"] = Part(id="output", kind="output", path="", nodes=[last], output=last)
