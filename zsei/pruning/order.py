"""In which order the units of a place should go, and what each costs once the rest makes up for it.

A unit that others can stand in for is cheap, however much it does. For a reader y = W x with the
covariance H of its inputs and the metric M of its outputs (what a change there does to the model's
output), removing the inputs S and solving W anew costs tr(M W_S (H⁻¹_SS)⁻¹ W_Sᵀ) / 2. Groups are
taken one after another, cheapest first, and W and H⁻¹ are brought up to date each time.
References: Hassibi and Stork, "Optimal brain surgeon", 1993; Kurtic et al., "ZipLM", 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.pruning.evidence import Moments, PlaceEvidence
from zsei.pruning.places import Place

STEPS = 48
"""A place is taken apart in about so many steps; groups of one step are chosen together."""
DAMPING = 1e-2
"""Added to the covariance, in units of its mean diagonal: what few rows cannot tell."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The groups of a place in the order in which they should go."""

    place: Place
    groups: tuple[int, ...]
    costs: tuple[float, ...]
    """Divergence that each is predicted to add, given those before it."""


def removal_curve(place: Place, evidence: PlaceEvidence, weights: Sequence[Tensor]) -> Curve:
    """The order in which a place's groups should go.

    Args:
        place: The place.
        evidence: What one pass says of it.
        weights: Per reader its weight as [outputs, inputs].

    Misleads when: rows hang together more in some samples than in others; the sum over rows is
    scaled to the measured sensitivity of the place as a whole.
    """
    single = evidence.sensitivity.view(place.groups, place.together).sum(1)
    most = (place.left.site.units - place.least) // place.together
    if not place.readers or most < 1:
        order = single.argsort(stable=True)[: max(most, 0)]
        return Curve(
            place=place,
            groups=tuple(order.tolist()),
            costs=tuple(single[order].tolist()),
        )
    parts = [
        _Part.of(moments, weight.double(), start, count, place.groups)
        for moments, weight, (start, count) in zip(
            evidence.moments, weights, place.inputs, strict=True
        )
    ]
    plain = sum(part.uncompensated for part in parts)
    # How much more (or less) a whole sample's rows do together than one by one.
    coherence = float(single.sum()) / max(float(plain), 1e-30)
    left = torch.arange(place.groups)
    step = max(1, place.groups // STEPS)
    groups: list[int] = []
    costs: list[float] = []
    while len(groups) < most:
        cost = torch.stack([part.costs(left) for part in parts]).sum(0)
        chosen = cost.argsort(stable=True)[: min(step, most - len(groups))]
        groups += left[chosen].tolist()
        costs += (cost[chosen] * coherence).tolist()
        for part in parts:
            part.remove(left[chosen])
        kept = torch.ones(len(left), dtype=torch.bool)
        kept[chosen] = False
        left = left[kept]
    return Curve(place=place, groups=tuple(groups), costs=tuple(costs))


class _Part:
    """One reader while its inputs are taken away: M^½ W [o, i] and H⁻¹ [i, i].

    Inverted in double precision; the damping keeps the updates safe in single precision.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, start: int, count: int):
        self.weight, self.inverse, self.start, self.count = weight, inverse, start, count
        self.uncompensated = 0.0

    @classmethod
    def of(cls, moments: Moments, weight: Tensor, start: int, count: int, groups: int) -> "_Part":
        """A reader from the sums of a pass."""
        damped = moments.products.double() / max(moments.rows, 1)
        damped.diagonal().add_(DAMPING * float(damped.diagonal().mean().clamp_min(1e-30)))
        values, vectors = torch.linalg.eigh(moments.metric.double() / max(moments.samples, 1))
        root = values.clamp_min(0).sqrt()[:, None] * vectors.T
        part = cls(root @ weight, damped, start, count)
        inside = part.inputs(torch.arange(groups))
        blocks = damped[inside[:, :, None], inside[:, None, :]]
        own = part.weight[:, inside].permute(1, 0, 2)
        part.uncompensated = float(((own @ blocks) * own).sum()) / 2
        # Symmetric and positive: by its Cholesky factor, in half the time of a plain inverse; in
        # place, as for wide readers this is most of what is in memory.
        torch.linalg.cholesky(damped, out=damped)
        part.inverse = torch.cholesky_inverse(damped).float()
        part.weight = part.weight.float()
        return part

    def inputs(self, groups: Tensor) -> Tensor:
        """The inputs of groups, [g, count]."""
        return self.start + groups[:, None] * self.count + torch.arange(self.count)

    def costs(self, groups: Tensor) -> Tensor:
        """What removing each group alone costs now, [g]."""
        inside = self.inputs(groups)
        if self.count == 1:
            flat = inside[:, 0]
            return self.weight[:, flat].square().sum(0) / self.inverse[flat, flat] / 2
        blocks = self.inverse[inside[:, :, None], inside[:, None, :]]
        own = self.weight[:, inside].permute(1, 2, 0)
        return (torch.linalg.solve(blocks, own) * own).sum((1, 2)) / 2

    def remove(self, groups: Tensor) -> None:
        """Take groups away, the others making up for them."""
        gone = self.inputs(groups).flatten()
        makes_up = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        self.weight -= self.weight[:, gone] @ makes_up
        self.inverse -= self.inverse[:, gone] @ makes_up
        self.weight[:, gone] = 0
        self.inverse[gone, :] = 0
        self.inverse[:, gone] = 0
        self.inverse[gone, gone] = 1
