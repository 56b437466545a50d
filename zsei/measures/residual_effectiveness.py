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

OTHERS = 128
"""Rows whose operand is exchanged into all rows."""


@final
@dataclass(frozen=True, kw_only=True)
class ResidualEffectiveness:
    """How much of a branch and of its skip reaches the output, and which of them gradients take.

    Measures: per residual join y = s + f, s the skip and f the branch, whether both operands do
    something for the output. ‖f‖ / ‖s‖ and the proximity shares say how large they are;
    this says what the output makes of them.

    Formula: g_r the gradient at y of the kept row r, f'_q the branch of another row q less its mean
    over rows, s'_q the skip's: what would come in if the operand were another sample's. e_f = mean
    over pairs (f'_q · g_r)², e_s likewise. branch_effect_share p = e_f / (e_f + e_s).
    residual_effectiveness = 4 p (1 - p): 1 where the output depends on both operands as much, 0
    where one of them could be anyone's. branch_survival = √(e_f / (mean ‖f'‖² mean ‖g‖²)), the root
    mean square cosine of branch and gradient, by chance 1/√channels. skip_gradient_share: of g_s,
    the gradient that arrives at the skip operand, the L1 proximity share that came by the skip (g)
    rather than through the branch (g_s - g).

    Reading it: a low effectiveness with p near 0 is an idle branch (see low-effect and
    redundant-layers), with p near 1 an idle skip (useless-skip measures it). A skip gradient share
    near 1 says that the branch hardly bends what flows back through it. Rows are paired with others
    because y · g of one row is 0 wherever a norm follows: there both operands would always tie.

    Misleads when: the output direction is one random draw (no labels) and samples are few; an
    operand is constant, which no exchange shows; or the skip operand is read by no branch, where
    the share of its gradient cannot be told.

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
        entered, _ = _dependence(skip, gradient)
        added, most = _dependence(branch, gradient)
        if most > 0:
            survival = (added / most) ** 0.5
            note = f"by chance {branch.shape[1] ** -0.5:.3g}"
            yield Measurement(name="branch_survival", value=survival, unit="share", n=n, note=note)
        if added + entered > 0:
            share = added / (added + entered)
            effectiveness = 4 * share * (1 - share)
            yield Measurement(name="branch_effect_share", value=share, unit="share", n=n)
            yield Measurement(
                name="residual_effectiveness", value=effectiveness, unit="0 to 1", n=n
            )
        yield _skip_gradient(view, join, gradient, n)


def _dependence(operand: Tensor, gradient: Tensor) -> tuple[float, float]:
    """(mean over pairs of rows of (operand' · gradient)², the same with all cosines 1)."""
    centred = operand - operand.mean(0)
    centred = centred[:: max(1, len(centred) // OTHERS)]
    found = (centred @ gradient.T).double().square().mean()
    sizes = [float(x.double().square().sum(1).mean()) for x in (centred, gradient)]
    return float(found), sizes[0] * sizes[1]


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
