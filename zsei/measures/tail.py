"""What stands between the last layer of a language model and its logits, run on kept rows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsei.trace.view import View

SAME = 1e-3
"""Largest relative difference from the model's own logits at which the read-out counts as its."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Norms and the linear that turn the stream [r, d] into logits [r, v]."""

    layers: tuple[str, ...]
    """Layers whose stream it can read, in order."""
    head: str
    """Component of the linear that writes the logits."""
    norms: tuple[nn.Module, ...]
    linear: nn.Module
    weight: Tensor
    """[v, d]."""

    def read(self, stream: Tensor) -> Tensor:
        """What the head reads [r, d], from the stream [r, d]."""
        with torch.no_grad():
            for norm in self.norms:
                stream = norm(stream[None])[0]
            return stream

    def logits(self, read: Tensor) -> Tensor:
        """Logits [r, v] from what the head reads [r, d]."""
        with torch.no_grad():
            return self.linear(read)


def find_tail(view: View) -> Tail | None:
    """The read-out of a language model; None where what follows the last layer is no norms and one
    linear to a vocabulary, or does not give the model's own logits on the rows kept.
    """  # fmt: skip
    subject = view.subject
    components = subject.anatomy.components
    layers = [c for c in components if c.kind == "layer"]
    if subject.objective.output != "logits" or not layers:
        return None
    start = components.index(layers[-1])
    behind = [
        c for c in components[start + 1 :]
        if c.layer is None and c.kind in ("norm", "linear", "mlp", "conv", "pool")
    ]  # fmt: skip
    kinds = [c.kind for c in behind]
    if not kinds or kinds[-1] != "linear" or set(kinds[:-1]) - {"norm"}:
        return None
    modules = dict(subject.model.named_modules())
    found = [modules.get(c.path) for c in behind]
    weight = getattr(found[-1], "weight", None)
    if any(module is None for module in found) or not isinstance(weight, Tensor):
        return None
    vocabularies = {_table(modules.get(c.path)) for c in components if c.kind == "embedding"}
    if weight.ndim != 2 or weight.shape[0] not in vocabularies:
        return None
    outputs = subject.anatomy.outputs
    width = weight.shape[1]
    readable = [c.id for c in layers if _width(view, outputs[c.id]) == width]
    final = view.written(behind[-1].id)
    if final is None or layers[-1].id not in readable:
        return None
    tail = Tail(
        layers=tuple(readable),
        head=behind[-1].id,
        norms=tuple(module for module in found[:-1] if module is not None),
        linear=found[-1] or nn.Identity(),
        weight=weight,
    )
    stream = view.rows[outputs[layers[-1].id]]
    if len(stream) != len(final):
        return None
    few = slice(0, 16)
    again = tail.logits(tail.read(stream[few]))
    if again.shape != final[few].shape:
        return None
    same = (again - final[few]).abs().max() <= SAME * final[few].abs().max().clamp_min(1e-12)
    return tail if bool(same) else None


def _table(module: nn.Module | None) -> int:
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else 0


def _width(view: View, node: str) -> int:
    rows = view.rows.get(node)
    return 0 if rows is None else rows.shape[1]


def spread_rows(rows: int, most: int) -> Tensor:
    """At most `most` row numbers, evenly spread."""
    if rows <= most:
        return torch.arange(rows)
    return torch.linspace(0, rows - 1, most).round().long()


def by_sample(values: Tensor, samples: Tensor) -> Tensor:
    """Mean over each sample's rows: values [r, ...] and sample numbers [r] to [n, ...]."""
    numbers, place = samples.unique(return_inverse=True)
    total = torch.zeros(len(numbers), *values.shape[1:], dtype=values.dtype)
    total = total.index_add(0, place, values)
    count = torch.zeros(len(numbers), dtype=values.dtype)
    count = count.index_add(0, place, torch.ones(len(values), dtype=values.dtype))
    return total / count.view(-1, *[1] * (values.ndim - 1))
