"""Parameters one by one: which are followed, how important each is, and which are dead.

Of every parameter a fixed choice of entries is followed from checkpoint to checkpoint. Their names
in the sketch carry the parameter's shape: what is cut begins anew, and after a rollback the sums of
before go on. Letters: p entry that is followed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.history.masks import DeadLimits, mask_from_sketch
from zsei.checkpoint.history.sketch import Sketch, add, parameter_keys
from zsei.checkpoint.tasks import GroupMeasure


def entries_of(count: int, parameters: int, config: CheckpointConfig) -> Tensor:
    """Which entries of a parameter are followed, [p], spread evenly over it.

    At most `statistical_samples`, and of all parameters together no more than the sketch is wide:
    beside more live ones than that a dead one can hardly be told (`clean_share`).

    Args:
        count: Entries of the parameter.
        parameters: How many parameters the model has.
        config: `statistical_samples` and `sketch_width`.
    """
    fair = max(1, config.elesh.sketch_width // max(parameters, 1))
    most = min(count, config.elesh.statistical_samples, fair)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()


def followed_entries(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], parameters: int,
    config: CheckpointConfig,
) -> dict[str, bytes]:  # fmt: skip
    """Name with shape -> |w · g| of the entries that are followed, float32 [p].

    Formula: |w ∂L/∂w|, the first-order change of the loss when the entry becomes zero. Parameters
    whose gradient is no number are left out.
    References: Molchanov et al., "Importance estimation for neural network pruning", 2019.

    Args:
        weights: Parameter -> value.
        gradients: Parameter -> gradient of the mean loss.
        parameters: How many parameters the whole model has.
        config: See `entries_of`.
    """
    found = {}
    for name, gradient in sorted(gradients.items()):
        weight = weights[name].detach()
        chosen = entries_of(weight.numel(), parameters, config)
        scores = (weight.flatten()[chosen] * gradient.flatten()[chosen]).abs().float()
        if bool(scores.isfinite().all()):
            found[followed_name(name, weight.shape)] = scores.numpy().tobytes()
    return found


def followed_name(name: str, shape: Sequence[int]) -> str:
    """Name of a parameter of this shape: `h.0.mlp.c_fc.weight[768,3072]`."""
    return f"{name}[{','.join(str(size) for size in shape)}]"


def parameter_of(followed: str) -> str:
    """The parameter's own name."""
    return followed.rpartition("[")[0]


def followed_sizes(groups: Sequence[GroupMeasure]) -> dict[str, int]:
    """Name with shape -> how many entries were followed; a parameter of two groups counts once."""
    return {name: len(data) // 4 for name, data in sorted(_merged(groups).items())}


def observe_parameters(sketch: Sketch, groups: Sequence[GroupMeasure]) -> Sketch:
    """The sketch with the entries followed at one checkpoint added, each once."""
    merged = sorted(_merged(groups).items())
    if not merged:
        return sketch
    keys = np.concatenate([parameter_keys(name, len(data) // 4) for name, data in merged])
    amounts = np.concatenate([np.frombuffer(data, dtype=np.float32) for _, data in merged])
    return add(sketch, keys, amounts)


def dead_parameters(
    sketch: Sketch,
    sizes: Mapping[str, int],
    observations: Mapping[str, int] | int,
    config: CheckpointConfig,
) -> dict[str, int]:
    """Parameter -> how many of the entries followed are dead (`zsei.checkpoint.history.masks`).

    Args:
        sketch: Sums over the checkpoints.
        sizes: Name with shape -> entries followed (`followed_sizes`).
        observations: Checkpoints at which each was followed, by the same names; one number where
            that holds for all.
        config: `marking_threshold` and `confidence_threshold`.

    Misleads when: live entries are many beside the sketch's width, or checkpoints are few: 59 are
    needed for a confidence of 0.95. What is not shown to be dead is not in it.
    """
    limits = DeadLimits(
        threshold=config.elesh.marking_threshold, confidence=config.elesh.confidence_threshold
    )
    found = {}
    for name, size in sorted(sizes.items()):
        seen = observations if isinstance(observations, int) else observations.get(name, 0)
        mask = mask_from_sketch(sketch, parameter_keys(name, size), seen, limits)
        dead = int(mask.dead.sum())
        if dead:
            found[parameter_of(name)] = dead
    return found


def _merged(groups: Sequence[GroupMeasure]) -> dict[str, bytes]:
    return {name: data for group in groups for name, data in group.followed.items()}
