"""What a module's own code must be told after a cut: widths, head counts, list lengths, config.

Weights are cut by name; beside them a module keeps plain integers that its forward reads. They are
recognised by the names that torch and transformers use for them *and* by their old value, never by
the architecture. What is guessed wrong here cannot do harm: the mended model counts only when its
outputs equal those of the edited program.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import owner, shape
from zsei.subject.types import Anatomy
from zsei.surgery.calls import arguments
from zsei.surgery.edits import BypassLayer, Edit
from zsei.surgery.expert_cut import routing_at
from zsei.surgery.mend_config import EXPERTS, config_values, key_heads, units_left
from zsei.surgery.module_edit import Attribute, ModuleEdit, TensorCut, layer_number
from zsei.surgery.program_form import Plan

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
GROUPS = ("num_key_value_groups", "n_rep")
WIDTHS = ("all_head_size", "inner_dim", "split_size")
LOOSE_WIDTHS = ("embed_dim", "hidden_size")
"""Widths that some attentions read as "all heads together" and others as the model's width."""


def module_edits(
    model: nn.Module,
    program: Program,
    edited: Program,
    plan: Plan,
    edits: Iterable[Edit],
    anatomy: Anatomy,
) -> Iterator[ModuleEdit]:
    """What must change in the user's model, in the ways its code may mean it; likeliest first.

    Args:
        model: The user's model; only read.
        program: The program before the edits, with plain shapes.
        edited: The program after them.
        plan: The plan that led from one to the other.
        edits: The edits.
        anatomy: The anatomy of `program`.

    Raises:
        SurgeryRefused: When a layer is no entry of a list, so it cannot be dropped.
    """
    edits = tuple(edits)
    cuts = tuple(
        TensorCut(name=name, axis=axis, removed=removed)
        for name, entries in plan.group.parameters.items()
        for axis, removed in entries.items()
    )
    dropped = _dropped(model, edits)
    sizes = tuple(_sizes(model, cuts)) + tuple(_groups(edited, {cut.name for cut in cuts}))
    config = config_values(model, program, plan, edits, dropped, anatomy)
    experts = tuple(_experts(model, program, edits))
    for loose in ((), LOOSE_WIDTHS):
        heads = tuple(_heads(model, program, plan, edits, (*WIDTHS, *loose)))
        attributes = (*sizes, *heads, *experts)
        yield ModuleEdit(cuts=cuts, dropped=dropped, attributes=attributes, config=config)


def _kept(size: int, axis: int, cuts: Iterable[TensorCut]) -> int:
    return size - sum(len(cut.removed) for cut in cuts if cut.axis == axis)


def _sizes(model: nn.Module, cuts: Iterable[TensorCut]) -> Iterator[Attribute]:
    """Widths of the modules that hold cut weights, read off the weight that is left."""
    by_module: dict[str, list[TensorCut]] = {}
    for cut in cuts:
        path, _, name = cut.name.rpartition(".")
        if name == "weight":
            by_module.setdefault(path, []).append(cut)
    for path, own in sorted(by_module.items()):
        module = model.get_submodule(path)
        weight = module.weight
        assert isinstance(weight, Tensor)
        left = [_kept(size, axis, own) for axis, size in enumerate(weight.shape)]
        for name, axis in _width_names(module):
            value = left[axis]
            if name == "in_channels" and getattr(module, "groups", 1) > 1:
                # Grouped: as many inputs per group as the weight says, in the groups that stay.
                old = weight.shape[0] // int(getattr(module, "groups", 1))
                value = left[1] * (left[0] // max(old, 1))
            yield Attribute(module=path, name=name, value=value)


def _width_names(module: nn.Module) -> tuple[tuple[str, int], ...]:
    """(attribute, axis of the weight it is the size of) of the modules that state their widths."""
    if isinstance(module, nn.Linear):
        return (("out_features", 0), ("in_features", 1))
    if type(module).__name__ == "Conv1D":
        return (("nx", 0), ("nf", 1))
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return (("in_channels", 0), ("out_channels", 1))
    if isinstance(module, nn.modules.conv._ConvNd):
        return (("out_channels", 0), ("in_channels", 1))
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return (("num_features", 0),)
    if isinstance(module, nn.GroupNorm):
        return (("num_channels", 0),)
    if isinstance(module, nn.Embedding):
        return (("embedding_dim", 1),)
    return ()


def _groups(edited: Program, cut: set[str]) -> Iterator[Attribute]:
    """Numbers of groups of convolutions and group norms, as the edited program states them."""
    for node in edited.graph_module.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        given = arguments(node)
        weight = given.get("weight")
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        path, _, _ = strip_prefix(str(weight.target)).rpartition(".")
        for name in ("groups", "num_groups", "group"):
            if isinstance(given.get(name), int) and f"{path}.weight".lstrip(".") in cut:
                attribute = "groups" if name == "groups" else "num_groups"
                yield Attribute(module=path, name=attribute, value=given[name])


def _heads(
    model: nn.Module, program: Program, plan: Plan, edits: Iterable[Edit], widths: tuple[str, ...]
) -> Iterator[Attribute]:
    """Head counts and joint widths that attention modules read."""
    for name, (edit, gone) in sorted(units_left(edits).items()):
        if edit.site.kind != "head":
            continue
        node = program.node(name)
        old, new = edit.site.units, edit.site.units - len(gone)
        old_keys, new_keys = key_heads(node, plan)
        size = shape(node)[-1]
        changes: dict[str, tuple[int, int]] = {}
        changes |= dict.fromkeys(KEY_HEADS, (old_keys, new_keys))
        changes |= dict.fromkeys(GROUPS, (old // old_keys, new // new_keys))
        changes |= dict.fromkeys(HEADS, (old, new))
        changes |= dict.fromkeys(widths, (old * size, new * size))
        path = owner(node).path
        module = model.get_submodule(path)
        for attribute, (before, after) in changes.items():
            if module.__dict__.get(attribute) == before != after:
                yield Attribute(module=path, name=attribute, value=after)


def _experts(model: nn.Module, program: Program, edits: Iterable[Edit]) -> Iterator[Attribute]:
    """Numbers of experts that the router, the experts and the block around them read."""
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    for name, (edit, gone) in sorted(units_left(edits).items()):
        if edit.site.kind != "expert":
            continue
        routing = routing_at(nodes, name)
        inside = [owner(node).path for node in (routing.logits, routing.counts)]
        for path in sorted({*inside, *(path.rpartition(".")[0] for path in inside)}):
            module = model.get_submodule(path)
            for attribute in EXPERTS:
                if module.__dict__.get(attribute) == edit.site.units:
                    left = edit.site.units - len(gone)
                    yield Attribute(module=path, name=attribute, value=left)


def _dropped(model: nn.Module, edits: Iterable[Edit]) -> tuple[str, ...]:
    found = set()
    for edit in edits:
        if not isinstance(edit, BypassLayer):
            continue
        parent, _, number = edit.site.component.rpartition(".")
        listed = parent and isinstance(model.get_submodule(parent), nn.ModuleList | nn.Sequential)
        if "#" in number or not number.isdigit() or not listed:
            raise SurgeryRefused(
                f"`{edit.site.component}` is no entry of a module list, so it cannot be dropped "
                f"from the model's own class."
            )
        found.add(edit.site.component)
    return tuple(sorted(found, key=lambda path: (path.rpartition(".")[0], layer_number(path))))
