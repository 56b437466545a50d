"""Linear maps fitted in closed form from sums over the data: no activation is kept."""

import torch
from torch import Tensor


class LeastSquares:
    """The normal equations of y = W x + b, streamed.

    Keeps Σ x xᵀ, Σ y xᵀ, Σ x, Σ y and Σ y² in double precision, whatever the number of rows.

    Args:
        inputs: Size of x.
        outputs: Size of y.
    """

    def __init__(self, inputs: int, outputs: int):
        self.rows = 0
        self.xx = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.yx = torch.zeros(outputs, inputs, dtype=torch.float64)
        self.x = torch.zeros(inputs, dtype=torch.float64)
        self.y = torch.zeros(outputs, dtype=torch.float64)
        self.yy = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows x [r, inputs] and y [r, outputs]."""
        # The products of one batch are exact enough in float32; their sum over batches is not.
        self.xx += x.T @ x
        self.yx += y.T @ x
        self.x += x.sum(0, dtype=torch.float64)
        self.y += y.sum(0, dtype=torch.float64)
        self.yy += float(y.double().square().sum())
        self.rows += len(x)

    def solve(
        self, prior: Tensor, *, ridge: float, intercept: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """(W [outputs, inputs], b [outputs] or None) minimising Σ|y - W x - b|² + penalty.

        The penalty is ridge * mean diag(Σ x xᵀ) * |W - prior|²: what the data cannot tell stays
        as it was.

        Args:
            prior: The weights as they are, [outputs, inputs].
            ridge: Strength, in units of the mean variance of an input; above 0.
            intercept: Whether a bias is fitted too; without one x and y are not centred.
        """
        count = max(self.rows, 1)
        # In place from here on: for wide readers these matrices are most of what is in memory.
        damped, wanted = self.xx.clone(), self.yx.clone()
        if intercept:
            damped.addr_(self.x, self.x, alpha=-1 / count)
            wanted.addr_(self.y, self.x, alpha=-1 / count)
        strength = ridge * float(damped.diagonal().mean().clamp_min(1e-12))
        damped.diagonal().add_(strength)
        wanted.add_(prior.double(), alpha=strength)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            # Rounding of the rows' products outweighs so small a ridge.
            weight = torch.linalg.solve(damped, wanted.T).T
        else:
            weight = torch.cholesky_solve(wanted.T, factor).T
        bias = (self.y - weight @ self.x) / count if intercept else None
        return weight, bias
