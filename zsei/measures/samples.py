"""What several measures need: rows by sample and by data group, and how not to tell."""

from collections.abc import Iterator

import torch
from torch import Tensor

from zsei.records import Measurement
from zsei.trace.view import View


def could_not_tell(name: str, unit: str, why: str, n: int = 0) -> Measurement:
    """A measurement without a value; `why` says what is missing and how much is needed."""
    return Measurement(name=name, value=None, unit=unit, n=n, state="could not tell", note=why)


def sample_means(rows: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean row of every sample [n, c], and the samples' numbers [n], in order.

    Args:
        rows: [r, c].
        samples: Sample of each row [r].
    """
    numbers, place = samples.unique(return_inverse=True)
    total = torch.zeros(len(numbers), rows.shape[1]).index_add_(0, place, rows.float())
    count = torch.bincount(place, minlength=len(numbers))
    return total / count[:, None], numbers


def group_rows(view: View, node: str) -> Iterator[tuple[str, Tensor]]:
    """(data group, bool [r]: which rows of a node are of it), by name; none for one group."""
    groups = view.sample_groups
    names = sorted(set(groups))
    if len(names) < 2:
        return
    samples = view.row_samples[node]
    for name in names:
        members = torch.tensor([group == name for group in groups])
        chosen = members[samples]
        if bool(chosen.any()):
            yield name, chosen


def working_parts(view: View) -> list[str]:
    """Components of coarse grain that write a value: what stands beside each other in a model.

    Attentions, MLPs, experts, convolutions, recurrences, pools and embeddings; linears only outside
    of those; no norms, joins, heads and layers, which repeat what these write.
    """
    components = view.subject.anatomy.components
    kinds = ("embedding", "attention", "mlp", "experts", "conv", "pool", "recurrent", "module")
    inside = {c.id for c in components if c.kind in ("attention", "mlp", "experts")}
    return [
        c.id
        for c in components
        if (c.kind in kinds or (c.kind == "linear" and c.parent not in inside))
        and view.taps.writers.get(c.id) in view.rows
    ]
