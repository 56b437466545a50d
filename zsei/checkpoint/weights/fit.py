"""Whether a checkpoint is of the model it is said to be of: told from names and shapes alone."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_BLOCK = re.compile(r"(?:[A-Za-z_]\w*\.)*\d+\.")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a model is made of, without its weights."""

    model_class: str
    parameters: int
    """Each counted once, however many names it has."""
    shapes: dict[str, tuple[int, ...]]
    """Parameter or buffer -> shape."""
    tied: tuple[frozenset[str], ...]
    """Names of one and the same tensor; a checkpoint may hold any one of them."""


def frame_of(model: nn.Module) -> Frame:
    """The frame of a model."""
    state = model.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    names: dict[tuple[int, tuple[int, ...]], set[str]] = defaultdict(set)
    for name, tensor in tensors.items():
        names[tensor.data_ptr(), tuple(tensor.shape)].add(name)
    return Frame(
        model_class=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tied=tuple(frozenset(same) for same in names.values() if len(same) > 1),
    )


def layers_of(frame: Frame) -> int:
    """How many numbered blocks its names show, such as `h.0.` to `h.11.`; lists inside of blocks
    are not counted. A guess, for estimates alone.
    """
    found = (_BLOCK.match(name) for name in frame.shapes)
    return len({match[0] for match in found if match})


def why_not_fit(frame: Frame, weights: Mapping[str, Tensor]) -> str:
    """What does not fit in a checkpoint's weights, in one sentence; empty when all does."""
    for name, tensor in weights.items():
        shape = frame.shapes.get(name)
        if shape is None:
            return f"it has `{name}`, which {frame.model_class} has not."
        if shape != tuple(tensor.shape):
            return f"`{name}` is {list(tensor.shape)} in it and {list(shape)} in the model."
    there = set(weights)
    for same in frame.tied:
        if same & there:
            there |= same
    missing = [name for name in frame.shapes if name not in there]
    if missing:
        return f"`{missing[0]}` of {frame.model_class} is missing in it ({len(missing)} in all)."
    return ""
