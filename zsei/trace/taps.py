"""Which values of a program to look at, worked out once per subject."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from zsei.subject.blocks import is_linear
from zsei.subject.reading import ATTENTION, Ancestry, Residual, find_residuals, operation
from zsei.subject.types import Site, Subject
from zsei.trace.activation_functions import ActivationTap, find_activations
from zsei.trace.edge_plan import EdgePlan, plan_edges
from zsei.trace.interpreter import ProgramEngine


@dataclass(frozen=True, kw_only=True)
class Join:
    """A residual join: `skip` and `branch` are the nodes it adds."""

    component: str
    node: str
    skip: str
    branch: str


@dataclass(frozen=True, kw_only=True)
class HeadTap:
    """An attention's call and how its heads are written out."""

    component: str
    core: str
    query: str
    key: str
    mask: str | None
    causal: bool
    scale: float | None
    heads: tuple[str, ...]
    fixed_mask: Tensor | None
    """A mask that is part of the model, such as a causal buffer [i, j]."""
    projection: Tensor | None
    """Output projection by head [h, d, c]; None when no single linear reads the heads."""
    value: str = ""
    """Node of the values; "" when they are not looked at."""


@dataclass(frozen=True, kw_only=True)
class Taps:
    """Everything the evidence pass watches."""

    values: dict[str, int]
    """Node -> axis of its channels (-1: last; attention values are unfolded)."""
    writers: dict[str, str]
    """Component -> node it writes."""
    sites: tuple[Site, ...]
    joins: tuple[Join, ...] = ()
    attentions: tuple[HeadTap, ...] = ()
    edges: EdgePlan = field(default_factory=EdgePlan)
    """Writers and readers of the residual stream."""
    activations: tuple[ActivationTap, ...] = ()
    tokens: int | None = None
    """Which input holds token ids, where the tokenizer tells delimiters."""
    delimiters: frozenset[int] = frozenset()
    """Ids of special and punctuation tokens."""
    no_gradient: frozenset[str] = frozenset()
    """Values whose gradient is not looked at, because it is undefined."""


def find_taps(subject: Subject, engine: object) -> Taps:
    """The taps of a subject; joins and attention weights only where there is a program."""
    anatomy = subject.anatomy
    writers: dict[str, str] = {}
    values: dict[str, int] = {}
    for component in anatomy.components:
        if component.kind in ("head", "layer"):
            continue
        node = anatomy.outputs[component.id]
        writers[component.id] = node
        values[node] = 1 if component.kind in ("conv", "pool") else -1
    for site in anatomy.sites:
        values.setdefault(site.node, 1 if site.kind == "channel" else -1)
        if site.source is not None:
            values.setdefault(site.source, -1)
    if subject.program is None or not isinstance(engine, ProgramEngine):
        return Taps(values=values, writers=writers, sites=anatomy.sites)

    nodes = {node.name: node for node in subject.program.graph_module.graph.nodes}
    ancestry = Ancestry(subject.program)
    residuals = {r.node.name: r for r in find_residuals(ancestry)}
    joins = tuple(
        _join(component.id, residuals[anatomy.outputs[component.id]])
        for component in anatomy.components
        if component.kind == "residual"
    )
    for join in joins:
        axis = 1 if len(nodes[join.node].meta["val"].shape) == 4 else -1
        for name in (join.node, join.skip, join.branch):
            values[name] = axis
    # A 4-d norm, a layer of a convolutional network: channels on axis 1, unlike attention's values.
    cores = {site.node for site in anatomy.sites if site.kind == "head"}
    for name in values:
        node = nodes[name]
        if name not in cores and getattr(node.meta.get("val"), "ndim", 0) == 4:
            values[name] = 1
    attentions = tuple(
        tap
        for site in anatomy.sites
        if site.kind == "head"
        and (tap := _attention(site, nodes, anatomy.nodes[site.component], engine)) is not None
    )
    values = {
        name: axis for name, axis in values.items() if _is_float(nodes[name])
    }  # fmt: skip
    writers = {component: node for component, node in writers.items() if node in values}
    heads = {
        tap.component: (tap.core, tap.heads, tap.projection)
        for tap in attentions
        if tap.projection is not None
    }
    seen = [
        nodes[name]
        for tap in attentions
        for name in (tap.query, tap.key, tap.value, tap.mask)
        if name and tap.component in heads
    ]
    return Taps(
        values=values, writers=writers, sites=anatomy.sites, joins=joins, attentions=attentions,
        edges=plan_edges(anatomy, ancestry, engine, [join.node for join in joins], heads, seen),
        activations=find_activations(subject.program, anatomy),
        tokens=_token_input(subject), delimiters=delimiter_ids(subject.tokenizer),
    )  # fmt: skip


def delimiter_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens and of plain punctuation; empty without a tokenizer."""
    if tokenizer is None:
        return frozenset()
    unknown = getattr(tokenizer, "unk_token_id", None)
    named = tokenizer.convert_tokens_to_ids([*".,;:!?", "Ċ", "\n", "<0x0A>"])
    return frozenset(i for i in (*tokenizer.all_special_ids, *named) if i is not None) - {unknown}


def _token_input(subject: Subject) -> int | None:
    """Number of the input that the tokenizer's ids go into; the encoder's, where there are two."""
    names = subject.input_names
    if subject.tokenizer is None or "input_ids" not in names:
        return None
    return names.index("input_ids")


def _is_float(node: fx.Node) -> bool:
    found = node.meta.get("val")
    return isinstance(found, Tensor) and found.is_floating_point()


def _join(component: str, residual: Residual) -> Join:
    # Not program order: a projected shortcut is often computed after the branch.
    return Join(
        component=component,
        node=residual.node.name,
        skip=residual.skip.name,
        branch=residual.branch.name,
    )


def _attention(
    site: Site, nodes: dict[str, fx.Node], owned: tuple[str, ...], engine: ProgramEngine
) -> HeadTap | None:
    core = nodes[site.node]
    if operation(core) not in ATTENTION:
        return None
    query, key, value = core.args[0], core.args[1], core.args[2]
    assert isinstance(query, fx.Node)
    assert isinstance(key, fx.Node)
    mask = core.args[3] if len(core.args) > 3 else core.kwargs.get("attn_mask")
    causal = core.args[5] if len(core.args) > 5 else core.kwargs.get("is_causal", False)
    scale = core.kwargs.get("scale")
    return HeadTap(
        component=site.component,
        core=site.node,
        query=query.name,
        key=key.name,
        mask=mask.name if isinstance(mask, fx.Node) and mask.op != "get_attr" else None,
        fixed_mask=engine.constants.get(mask.name) if isinstance(mask, fx.Node) else None,
        causal=bool(causal),
        scale=float(scale) if isinstance(scale, int | float) else None,
        heads=site.unit_ids,
        value=value.name if isinstance(value, fx.Node) else "",
        projection=_projection(site, core, [nodes[name] for name in owned], engine),
    )


def _projection(
    site: Site, core: fx.Node, owned: list[fx.Node], engine: ProgramEngine
) -> Tensor | None:
    """Weights [h, d, c] of the linear that reads all heads."""
    if core not in owned:
        return None
    behind = [node for node in owned[owned.index(core) + 1 :] if is_linear(node)]
    if not behind:
        return None
    name = operation(behind[-1])
    weights = [
        engine.constants[a.name]
        for a in behind[-1].all_input_nodes
        if a.op == "get_attr" and engine.constants[a.name].ndim == 2
    ]
    if len(weights) != 1:
        return None
    weight = weights[0].T if name == "linear" else weights[0]
    if weight.shape[0] % site.units:
        return None
    return weight.reshape(site.units, -1, weight.shape[1])
