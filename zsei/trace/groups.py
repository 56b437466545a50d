"""Which samples of a batch belong together: by the group of their data, and by their class."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zsei.subject.objective import Objective
from zsei.subject.types import Batch

MOST_CLASSES = 64
"""Classes with a number below this are looked at one by one."""


def group_members(batch: Batch) -> Mapping[str, Tensor]:
    """Data group -> numbers of its samples within the batch, groups in order of their name."""
    names = batch.groups
    return {
        group: torch.tensor([i for i, name in enumerate(names) if name == group])
        for group in sorted(set(names))
    }


def class_members(objective: Objective, batch: Batch) -> Mapping[int, Tensor]:
    """Class -> numbers of its samples within the batch; empty where samples have no class."""
    labels = batch.labels
    if objective.name != "classification" or labels is None or labels.ndim != 1:
        return {}
    classes = sorted({int(label) for label in labels if 0 <= int(label) < MOST_CLASSES})
    return {label: (labels == label).nonzero().flatten() for label in classes}
