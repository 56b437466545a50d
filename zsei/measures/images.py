"""Values of a vision model that have a place in the image: feature maps and patch tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.subject.reading import shape
from zsei.trace.view import View

MOST_STAGES = 8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One component whose value lies over the image."""

    component: str
    node: str
    height: int
    width: int
    channels: int
    extra: int = 0
    """Tokens in front of the patches (CLS and the like)."""
    tokens: bool = False
    """Whether the value is [n, t, c] rather than [n, c, y, x]."""

    def unit(self, value: Tensor, y: int, x: int) -> Tensor:
        """The channels [n, c] at one place of the stage's value."""
        return value[:, self.extra + y * self.width + x] if self.tokens else value[:, :, y, x]


def stages(view: View) -> tuple[Stage, ...]:
    """Feature maps in order: what stands before the first block, then the blocks; without blocks
    all convolutions and pools. At most eight, evenly spread; maps of one place are left out.
    """  # fmt: skip
    components = view.subject.anatomy.components
    outputs = view.subject.anatomy.outputs
    blocks = [c for c in components if c.kind == "layer"]
    kinds = ("conv", "pool", "layer")
    found = [
        c for c in components
        if c.kind in kinds and (c.kind == "layer" or c.layer is None or not blocks)
    ]  # fmt: skip
    shapes = node_shapes(view, [outputs[c.id] for c in found])
    known: list[Stage] = []
    grid: tuple[int, int] | None = None
    for component in found:
        node = outputs[component.id]
        size = shapes.get(node, ())
        mapped = view.taps.values.get(node) == 1
        if len(size) == 4 and mapped and size[2] * size[3] > 1:
            grid = (size[2], size[3])
            known.append(
                Stage(component=component.id, node=node, height=size[2], width=size[3],
                      channels=size[1])
            )  # fmt: skip
        elif len(size) == 3 and grid is not None and 0 <= size[1] - grid[0] * grid[1] <= 2:
            known.append(
                Stage(component=component.id, node=node, height=grid[0], width=grid[1],
                      channels=size[2], extra=size[1] - grid[0] * grid[1], tokens=True)
            )  # fmt: skip
    if len(known) <= MOST_STAGES:
        return tuple(known)
    places = torch.linspace(0, len(known) - 1, MOST_STAGES).round().long().tolist()
    return tuple(known[i] for i in dict.fromkeys(places))


def node_shapes(view: View, nodes: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Shapes of values: read off the program, or seen in one run where there is none."""
    if view.subject.program is not None:
        known = {node.name: node for node in view.subject.program.graph_module.graph.nodes}
        return {name: shape(known[name]) for name in nodes if name in known}
    found: dict[str, tuple[int, ...]] = {}

    def seeing(name: str) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            found[name] = tuple(value.shape)

        return see

    with torch.no_grad():
        view.engine.run(view.subject.calibration[0], {name: seeing(name) for name in nodes})
    return found
