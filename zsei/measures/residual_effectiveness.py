"""What a residual join brings together: does the branch matter, does the skip."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Measurement
from zsei.trace.rows import proximity_shares
from zsei.trace.taps import Join
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ResidualEffectiveness:
    """How much of a branch and of its skip reaches the output, and which of them gradients take.

    Measures: per residual join y = s + f, s the skip and f the branch, whether both operands do
    something for the output. ‖f‖ / ‖s‖ and the proximity shares say how large they are;
    this says what the output makes of them.

    Formula: g the gradient at y on the kept rows. branch_survival = √(Σ_r (f·g)² / Σ_r ‖f‖² ‖g‖²),
    the root mean square cosine of branch and gradient, by chance 1/√channels.
    branch_effect_share p = Σ (f·g)² / Σ ((f·g)² + (s·g)²). residual_effectiveness = 4 p (1 - p): 1
    where both operands move the output as much, 0 where one of them could be left out.
    skip_gradient_share: of g_s, the gradient that arrives at the skip operand, the L1 proximity
    share that came by the skip (g) rather than through the branch (g_s - g).

    Reading it: a low effectiveness with p near 0 is an idle branch (see low-effect and
    redundant-layers), with p near 1 an idle skip (useless-skip measures it). A skip gradient share
    near 1 says that the branch hardly bends what flows back through it.

    Misleads when: f and s cancel to first order but not beyond it; the output direction is one
    random draw (no labels) and samples are few; or the skip operand is read by no branch, where the
    share of its gradient cannot be told.

    References: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016;
    Balduzzi et al., "The shattered gradients problem: if resnets are the answer, then what is the
    question?", ICML 2017.
    """

    name: ClassVar[str] = "residual-effectiveness"

    fewest_rows: int = 8
    """Rows below which nothing is claimed."""

    def measure(self, view: View) -> Measured:
        """Four numbers per residual join."""
        found = {}
        for join in view.taps.joins:
            rows = tuple(self._rows(view, join))
            if rows:
                found[join.component] = rows
        return Measured(measurements=found)

    def _rows(self, view: View, join: Join) -> Iterator[Measurement]:
        skip, branch = view.rows.get(join.skip), view.rows.get(join.branch)
        gradient = view.gradient_rows.get(join.node)
        if skip is None or branch is None or gradient is None:
            return
        n = len(view.row_samples[join.node].unique())
        if not skip.shape == branch.shape == gradient.shape or len(skip) < self.fewest_rows:
            note = f"{len(skip)} rows; at least {self.fewest_rows} are needed, of one shape"
            yield Measurement(name="residual_effectiveness", value=None, unit="0 to 1",
                              state="could not tell", n=n, note=note)  # fmt: skip
            return
        along = (branch * gradient).sum(1).double().square()
        most = (branch.double().square().sum(1) * gradient.double().square().sum(1)).sum()
        skipped = (skip * gradient).sum(1).double().square()
        total = float(along.sum() + skipped.sum())
        note = f"by chance {branch.shape[1] ** -0.5:.3g}"
        if float(most) > 0:
            survival = float((along.sum() / most).sqrt())
            yield Measurement(name="branch_survival", value=survival, unit="share", n=n, note=note)
        if total > 0:
            share = float(along.sum()) / total
            effectiveness = 4 * share * (1 - share)
            yield Measurement(name="branch_effect_share", value=share, unit="share", n=n)
            yield Measurement(
                name="residual_effectiveness", value=effectiveness, unit="0 to 1", n=n
            )
        yield _skip_gradient(view, join, gradient, n)


def _skip_gradient(view: View, join: Join, gradient: Tensor, n: int) -> Measurement:
    arriving = view.gradient_rows.get(join.skip)
    if arriving is None or arriving.shape != gradient.shape:
        why = "the gradient at the skip operand was not kept"
    elif torch.equal(arriving, gradient):
        why = "nothing but the join reads the skip operand"
    else:
        value = proximity_shares(arriving, [gradient, arriving - gradient])[0]
        return Measurement(name="skip_gradient_share", value=value, unit="share", n=n)
    return Measurement(name="skip_gradient_share", value=None, unit="share",
                       state="could not tell", n=n, note=why)  # fmt: skip
