"""Fits done again with numpy on all rows at once: maps, low-rank factors, merged neurons."""

import numpy as np


def ridge_map(
    x: np.ndarray, y: np.ndarray, prior: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """(M, b) minimising |y - x M^T - b|^2 + strength |M - prior|^2 over rows, by one stacked lstsq.

    The strength is `ridge` times the mean squared centred column of x.
    """
    x, y = x.astype(float), y.astype(float)
    mean_x, mean_y = x.mean(0), y.mean(0)
    own, target = x - mean_x, y - mean_y
    root = np.sqrt(ridge * (own**2).sum(0).mean())
    rows = np.vstack([own, root * np.eye(x.shape[1])])
    wanted = np.vstack([target, root * prior.T])
    solved = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    return solved, mean_y - solved @ mean_x


def squared_error(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    """Sum over rows of |y - W x - b|^2."""
    return float(sum(np.sum((b - weight @ a - bias) ** 2) for a, b in zip(x, y, strict=True)))


def best_low_rank_outputs(x: np.ndarray, weight: np.ndarray, rank: int) -> np.ndarray:
    """Outputs x W^T (centred) at the nearest matrix of a rank: what no factors can beat."""
    outputs = (x - x.mean(0)) @ weight.T
    u, s, v = np.linalg.svd(outputs, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def merged(
    weight: np.ndarray, bias: np.ndarray, units: np.ndarray, groups: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) behind merged units: each unit's line in the one that stays by polyfit.

    Args:
        weight: [outputs, units].
        bias: [outputs].
        units: Values of the units, [rows, units].
        groups: Units that go together; the first stays.
    """
    left, shifted = weight.copy(), bias.copy()
    for stays, *others in groups:
        for other in others:
            scale, offset = np.polyfit(units[:, stays], units[:, other], 1)
            left[:, stays] += scale * weight[:, other]
            shifted += offset * weight[:, other]
    gone = [unit for group in groups for unit in group[1:]]
    return np.delete(left, gone, axis=1), shifted
