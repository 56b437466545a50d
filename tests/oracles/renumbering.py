"""Units under their first names: a model as lists of names, from which what is cut is deleted."""

from collections.abc import Sequence

from zsei.checkpoint.decide.numbering import Cut

Layers = list[tuple[str, dict[str, list[tuple[int, bool]]]]]
"""Layers that are there, by the path they had first: place -> (first number, held at zero)."""


def whole(layers: int, places: dict[str, int]) -> Layers:
    """A model nothing was cut from."""
    return [
        (f"h.{number}", {name: [(u, False) for u in range(size)] for name, size in places.items()})
        for number in range(layers)
    ]


def cut(model: Layers, step: Cut) -> Layers:
    """The model after one step: entries are deleted, or marked."""
    left: Layers = []
    for now, (first, places) in enumerate(model):
        layer_goes = f"h.{now}" in step.layers
        if layer_goes and not step.held:
            continue
        kept = {}
        for place, units in places.items():
            gone = set(step.units.get(f"h.{now}/{place}", ()))
            if step.held:
                kept[place] = [(u, h or layer_goes or i in gone) for i, (u, h) in enumerate(units)]
            else:
                kept[place] = [unit for i, unit in enumerate(units) if i not in gone]
        left.append((first, kept))
    return left


def after(model: Layers, steps: Sequence[Cut]) -> Layers:
    """The model after several."""
    for step in steps:
        model = cut(model, step)
    return model
