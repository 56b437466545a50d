"""What a model's config must say after an edit, where one value can say it for all blocks."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx, nn

from zsei.subject.program import Program
from zsei.subject.reading import shape
from zsei.subject.types import Anatomy
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
    "decoder_ffn_dim",
)  # fmt: skip
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
    """Heads and widths that every block lost alike."""
    left = units_left(edits)
    for kind in ("head", "neuron"):
        own = [(edit.site, len(gone)) for edit, gone in left.values() if edit.site.kind == kind]
        counts = {(site.units, gone) for site, gone in own}
        all_sites = [site for site in anatomy.sites if site.kind == kind]
        if len(counts) != 1 or len(own) != len(all_sites):
            continue
        old, gone = counts.pop()
        changes: dict[str, tuple[int, int]] = {}
        if kind == "head":
            node = program.node(own[0][0].node)
            changes |= dict.fromkeys(KEY_HEADS, key_heads(node, plan))
            changes |= dict.fromkeys(HEADS, (old, old - gone))
            if isinstance(getattr(config, "head_dim", 0), int | None):
                # Without it, the size of a head would follow from the new number of heads.
                size = getattr(config, "head_dim", None)
                yield ConfigValue(name="head_dim", old=size, new=shape(node)[-1])
        else:
            changes |= dict.fromkeys(WIDTHS, (old, old - gone))
        for name, (before, after) in changes.items():
            value = getattr(config, name, 0)
            if before != after and (value == before or (name == "n_inner" and value is None)):
                yield ConfigValue(name=name, old=value, new=after)


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
