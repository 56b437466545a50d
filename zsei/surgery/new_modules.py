"""Modules that edits put into a model of the user's own class, and the edits as data."""

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.records import Record


class Factorised(Record):
    """A linear that became two."""

    module: str
    rank: int


class Replaced(Record):
    """A layer that became one linear map."""

    module: str
    form: Literal["linear", "convolution"]
    inputs: int
    outputs: int
    stride: int = 1
    returns: int | None = None
    """How many values the layer returned as a tuple, the first of them its output and the others
    now None; None: it returned its output alone."""


class LowRank(nn.Sequential):
    """y = A (B x) + b in the place of a linear y = W x + b.

    Args:
        inputs: Size of x.
        rank: Size of B x.
        outputs: Size of y.
        bias: Whether there is a b.
    """

    def __init__(self, inputs: int, rank: int, outputs: int, *, bias: bool, dtype: torch.dtype):
        super().__init__(
            nn.Linear(inputs, rank, bias=False, dtype=dtype),
            nn.Linear(rank, outputs, bias=bias, dtype=dtype),
        )
        self.in_features, self.out_features = inputs, outputs

    @property
    def weight(self) -> Tensor:
        """The product A B [o, i]; some models ask a linear for its weight's type."""
        down, up = self[0].weight, self[1].weight
        assert isinstance(down, Tensor)
        assert isinstance(up, Tensor)
        return up @ down

    @property
    def bias(self) -> Any:
        """The bias b [o], or None."""
        return self[1].bias


class Projection(nn.Module):
    """One linear map in the place of a layer; takes and returns what the layer did.

    Args:
        edit: What it stands in for, and its sizes.
        dtype: Of its parameters.
    """

    def __init__(self, edit: Replaced, dtype: torch.dtype):
        super().__init__()
        self.returns = edit.returns
        self.map: nn.Module = nn.Linear(edit.inputs, edit.outputs, dtype=dtype)
        if edit.form == "convolution":
            self.map = nn.Conv2d(edit.inputs, edit.outputs, 1, edit.stride, dtype=dtype)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The map of the first tensor; all else that the layer was given goes unread."""
        x = next(value for value in (*inputs, *named.values()) if isinstance(value, Tensor))
        y = self.map(x)
        return y if self.returns is None else (y, *[None] * (self.returns - 1))


def with_new_modules(
    model: nn.Module, factorised: Iterable[Factorised], replaced: Iterable[Replaced]
) -> nn.Module:
    """A copy of the model's tree with these modules in place; it shares the model's tensors.

    Raises:
        SurgeryRefused: When the model has no such module, or none that can be factorised.
    """
    factorised, replaced = tuple(factorised), tuple(replaced)
    if not factorised and not replaced:
        return model
    tensors = [*model.parameters(), *model.buffers()]
    changed = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for layer in replaced:
        old = _module(changed, layer.module)
        weight = next(old.parameters(), None)
        new = Projection(layer, torch.float32 if weight is None else weight.dtype)
        for name, value in vars(old).items():
            # What the code around a layer asks it for: its kind of attention and the like.
            if isinstance(value, str | int) and not name.startswith("_") and name != "training":
                setattr(new, name, value)
        new.returns = layer.returns
        changed.set_submodule(layer.module, _like(new, old))
    for linear in factorised:
        old = _module(changed, linear.module)
        weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise SurgeryRefused(f"`{linear.module}` is no linear module, so it stays as it is.")
        turned = type(old).__name__ == "Conv1D"
        outputs, inputs = weight.shape[::-1] if turned else weight.shape
        low = LowRank(inputs, linear.rank, outputs, bias=bias is not None, dtype=weight.dtype)
        if isinstance(bias, nn.Parameter):
            low[1].bias = bias
        changed.set_submodule(linear.module, _like(low, old))
    return changed


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SurgeryRefused(
            f"The model has no module `{path}`; is it the model the edit was made for?"
        ) from error


@torch.no_grad()
def _like(new: nn.Module, old: nn.Module) -> nn.Module:
    """In the old module's mode and on its device, with parameters that are zero until given."""
    weight = next(old.parameters(), None)
    kept = {id(tensor) for tensor in old.parameters()}
    for parameter in new.parameters():
        if id(parameter) not in kept:
            parameter.zero_()
    if weight is not None:
        new = new.to(weight.device)
    return new.train(old.training)
