"""What a model's config must say after an edit, where one value can say it for all blocks."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from zsei.subject.program import Program
from zsei.subject.reading import shape
from zsei.subject.types import Anatomy, UnitKind
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.module_edit import ConfigValue, layer_number
from zsei.surgery.program_form import Plan
from zsei.surgery.repeats import key_value_classes

HEADS = (
    "num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads",
    "decoder_attention_heads",
)  # fmt: skip
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
WIDTHS = (
    "intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim",
    "decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size",
)  # fmt: skip
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
NAMES: Mapping[UnitKind, tuple[str, ...]] = {"head": HEADS, "neuron": WIDTHS, "expert": EXPERTS}
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def config_values(
    model: nn.Module,
    program: Program,
    plan: Plan,
    edits: Iterable[Edit],
    dropped: Iterable[str],
    anatomy: Anatomy,
) -> tuple[ConfigValue, ...]:
    """Config values to change; none for a model without a config or for uneven edits."""
    config = getattr(model, "config", None)
    if config is None:
        return ()
    found = (
        *_units(config, program, plan, tuple(edits), anatomy),
        *_layers(model, config, dropped),
    )
    return tuple({value.name: value for value in found}.values())


def units_left(edits: Iterable[Edit]) -> dict[str, tuple[RemoveUnits, set[int]]]:
    """Site's node -> (one edit of that site, all units that go there)."""
    found: dict[str, tuple[RemoveUnits, set[int]]] = {}
    for edit in edits:
        if isinstance(edit, RemoveUnits):
            found.setdefault(edit.site.node, (edit, set()))[1].update(edit.units)
    return found


def key_heads(node: fx.Node, plan: Plan) -> tuple[int, int]:
    """How many key/value heads an attention has before and after."""
    value, classes = key_value_classes(node)
    kept = torch.ones(len(classes), dtype=torch.bool)
    own = shape(value)[1] == len(classes)
    gone = list(plan.group.values.get((value if own else node).name, {}).get(1, ()))
    kept[gone] = False
    return len(classes.unique()), len(classes[kept].unique())


def _units(
    config: Any, program: Program, plan: Plan, edits: tuple[Edit, ...], anatomy: Anatomy
) -> Iterator[ConfigValue]:
    """Heads, widths and experts that all blocks of one size lost alike."""
    sizes: dict[tuple[UnitKind, int], int] = Counter(
        (site.kind, site.units) for site in (*anatomy.sites, *anatomy.untapped)
    )
    cut: dict[tuple[UnitKind, int], list[tuple[str, int]]] = {}
    for name, (edit, gone) in units_left(edits).items():
        cut.setdefault((edit.site.kind, edit.site.units), []).append((name, len(gone)))
    for (kind, old), own in cut.items():
        counts = {gone for _, gone in own}
        if kind not in NAMES or len(counts) != 1 or len(own) != sizes[kind, old]:
            continue
        new = old - counts.pop()
        changes = dict.fromkeys(NAMES[kind], (old, new))
        if kind == "head":
            node = program.node(own[0][0])
            changes = dict.fromkeys(KEY_HEADS, key_heads(node, plan)) | changes
            yield from _head_size(config, shape(node)[-1])
        for name, (before, after) in changes.items():
            value = getattr(config, name, 0)
            if before != after and (value == before or (name == "n_inner" and value is None)):
                yield ConfigValue(name=name, old=value, new=after)


def _head_size(config: Any, size: int) -> Iterator[ConfigValue]:
    """The size of a head, which would else follow from the new number of heads."""
    known = getattr(config, "head_dim", 0)
    computed = isinstance(getattr(type(config), "head_dim", None), property)
    if isinstance(known, int | None) and not computed:
        yield ConfigValue(name="head_dim", old=getattr(config, "head_dim", None), new=size)


def _layers(model: nn.Module, config: Any, dropped: Iterable[str]) -> Iterator[ConfigValue]:
    """Numbers of layers, and lists with one entry a layer."""
    lists: dict[str, list[int]] = {}
    for path in dropped:
        lists.setdefault(path.rpartition(".")[0], []).append(layer_number(path))
    for path, gone in lists.items():
        length = len(model.get_submodule(path))  # type: ignore[arg-type]
        stage = re.search(r"\.(\d+)\.\w+$", f".{path}")
        depths = getattr(config, "depths", None)
        if stage and depths and depths[int(stage[1])] == length:
            new = list(depths)
            new[int(stage[1])] -= len(gone)
            yield ConfigValue(name="depths", old=tuple(depths), new=tuple(new))
            continue
        sides = [side for side in ("encoder", "decoder") if side in path]
        own = [name for side in sides for name in (f"{side}_layers", f"num_{side}_layers")]
        name = next((n for n in (*own, *LAYERS) if getattr(config, n, None) == length), None)
        if name is not None:
            yield ConfigValue(name=name, old=length, new=length - len(gone))
        kinds = getattr(config, "layer_types", None)
        if kinds and len(kinds) == length:
            left = tuple(kind for i, kind in enumerate(kinds) if i not in gone)
            yield ConfigValue(name="layer_types", old=tuple(kinds), new=left)
