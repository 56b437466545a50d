"""A step's batch in parts, one after the other, with one update."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from pydantic import Field

from zsei.errors import SpeedUpRefused
from zsei.speedups.speedup import Params
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import TrainingSetup, batch_norms
from zsei.speedups.workload import Workload


class AccumulationParams(Params):
    """Into how many parts."""

    micro_batches: int = Field(default=2, ge=2)


@final
@dataclass(frozen=True, kw_only=True)
class GradientAccumulation:
    """Gradients of k micro-batches, added up before one update.

    With n_i samples in part i of n, the gradient is Σ n_i/n ∇L_i = ∇L, the whole batch's.

    Exact: yes without dropout, up to the order of sums; with dropout the parts draw other masks of
    the same distribution. Not with batch norms, whose statistics would be of the parts: refused.
    Memory: activations of one part at a time.
    Misleads when: small batches keep the cores less busy, so that a step takes longer.
    """

    name: ClassVar[str] = "gradient-accumulation"
    title: ClassVar[str] = "Gradient accumulation"
    order: ClassVar[int] = 20
    exact: ClassVar[bool] = True
    gain: ClassVar[Gain] = "memory"
    params: ClassVar[type[Params]] = AccumulationParams

    def variants(self, workload: Workload) -> tuple[AccumulationParams, ...]:
        """In two and in four parts, as far as the batches have samples."""
        self._refuse(batch_norms(workload.model) != [])
        units = min(batch.size for batch in workload.calibration)
        if workload.objective.name == "similarity":
            units //= 2
        found = tuple(AccumulationParams(micro_batches=k) for k in (2, 4) if k <= units)
        if not found:
            raise SpeedUpRefused(
                "A batch needs two samples at least to be cut in parts; this one has one. Use "
                "--batch 2 or more."
            )
        return found

    def apply(
        self, setup: TrainingSetup, params: AccumulationParams, workload: Workload
    ) -> TrainingSetup:
        """Steps cut into parts."""
        del workload
        self._refuse(batch_norms(setup.module) != [])
        if setup.micro_batches != 1:
            raise SpeedUpRefused(
                f"A step is cut once; it is in {setup.micro_batches} parts already."
            )
        return replace(setup, micro_batches=params.micro_batches)

    def _refuse(self, mixes_samples: bool) -> None:
        if mixes_samples:
            raise SpeedUpRefused(
                "Parts of a batch must give the whole batch's gradient; the model has batch norms, "
                "whose statistics would be those of each part. Use smaller batches, or another "
                "norm."
            )
