"""What one pass over the calibration data keeps: running sums, and a fixed sample of rows."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zsei.trace.attention_evidence import AttentionEvidence
from zsei.trace.edge_values import Whole


@dataclass
class Moments:
    """Running count, sum and sum of squares over samples; values may have further axes."""

    n: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Take in values [n, ...]."""
        values = values.detach().double()
        self.n += values.shape[0]
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def mean(self) -> Tensor:
        """Mean over samples."""
        return self.total / max(self.n, 1)

    def std(self) -> Tensor:
        """Standard deviation over samples (n - 1)."""
        variance = self.squares - self.total.square() / max(self.n, 1)
        return (variance.clamp_min(0) / max(self.n - 1, 1)).sqrt()


@dataclass
class ValueEvidence:
    """What is kept of one value."""

    rms: Moments = field(default_factory=Moments)
    gradient_rms: Moments = field(default_factory=Moments)
    largest: float = 0.0
    rows: list[Tensor] = field(default_factory=list)
    gradient_rows: list[Tensor] = field(default_factory=list)
    """Gradient at the same rows: of the loss, without labels of the last probe."""
    row_samples: list[Tensor] = field(default_factory=list)
    """Sample each row belongs to, counted over all batches."""


@dataclass
class SiteEvidence:
    """What is kept of the units at one site."""

    sensitivity: Moments = field(default_factory=Moments)
    """Squared probe response when its mean stands in for each unit, [U]."""
    grouped: dict[str, Moments] = field(default_factory=dict)
    """`sensitivity` by the data group of the sample."""
    labelled: dict[int, Moments] = field(default_factory=dict)
    """`sensitivity` by the class of the sample, where samples have one."""
    zeroing: Moments = field(default_factory=Moments)
    """The same when zero stands in for the unit, [U]."""
    taylor: Moments = field(default_factory=Moments)
    """|Σ a · g| of the loss per unit; empty without labels."""
    attribution: Moments = field(default_factory=Moments)
    """Signed Σ a · g of the loss per unit; empty without labels."""
    bypass: Moments = field(default_factory=Moments)
    """|Σ (a - x) · g| of the loss, x what enters a layer: first-order effect of leading around it;
    empty without labels and for all but layers."""
    largest: Tensor | None = None
    """max |a| per unit over all data, [U]."""


@dataclass
class FlatRows:
    """Where an activation function is flat, at a fixed sample of rows."""

    rows: list[Tensor] = field(default_factory=list)
    """Bool [r, c]: |slope| is below `FLAT`."""
    samples: list[Tensor] = field(default_factory=list)
    """Sample each row belongs to, counted over all batches."""


@dataclass
class Evidence:
    """Everything one pass keeps."""

    values: dict[str, ValueEvidence] = field(default_factory=dict)
    sites: dict[tuple[str, str], SiteEvidence] = field(default_factory=dict)
    means: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    attention: dict[str, AttentionEvidence] = field(default_factory=dict)
    """Attention -> what its heads look at."""
    saturated: dict[str, FlatRows] = field(default_factory=dict)
    """Node that leaves an activation function -> where the function is flat."""
    join_gradients: dict[str, Moments] = field(default_factory=dict)
    """"operand->join" -> Σ a · g of the loss, or its square over probes: exact for that edge."""
    samples: int = 0
    undefined: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """("value" or "gradient", node) -> samples on which it is NaN or infinite."""
    whole: list[Whole] = field(default_factory=list)
    """What edges are worked out from: whole values of some samples, by batch, then joined."""
