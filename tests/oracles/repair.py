"""Least-squares repair the slow way: every reader is a run of both whole programs and one lstsq."""

from collections.abc import Sequence

import numpy as np
import torch
from oracles.interpreter import all_values
from torch import Tensor
from torch.nn import functional as F

from zsei.subject.program import Program
from zsei.subject.reading import operation
from zsei.subject.types import Batch
from zsei.surgery.calls import arguments
from zsei.surgery.program_form import Plan
from zsei.surgery.readers import Reader


def ridge_fit(
    x: np.ndarray, y: np.ndarray, prior: np.ndarray, ridge: float, intercept: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """min Σ|y - W x - b|² + λ|W - prior|² as one stacked least-squares problem."""
    spread = x - x.mean(0) if intercept else x
    strength = np.sqrt(ridge * (spread**2).sum(0).mean())
    rows = np.hstack([x, np.ones((len(x), 1))]) if intercept else x
    pull = strength * np.eye(x.shape[1])
    if intercept:
        pull = np.hstack([pull, np.zeros((x.shape[1], 1))])
    found = np.linalg.lstsq(
        np.vstack([rows, pull]), np.vstack([y, strength * prior.T]), rcond=None
    )[0]
    return (found[:-1].T, found[-1]) if intercept else (found.T, None)


def reader_rows(
    original: Program, edited: Program, plan: Plan, reader: Reader, batches: Sequence[Batch],
    drift: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What a reader of the edited program gets, and what it should give, row by row."""
    node = edited.node(reader.node)
    xs, ys = [], []
    for batch in batches:
        clean, own = all_values(original, batch.inputs), all_values(edited, batch.inputs)

        def left(name: str, values: dict[str, Tensor] = clean) -> Tensor:
            value = values[name]
            for axis, gone in plan.group.values.get(reader.node, {}).items():
                stays = [i for i in range(value.shape[axis]) if i not in gone]
                value = value.index_select(axis, torch.tensor(stays))
            return value

        target = left(reader.node)
        if reader.join is not None and reader.skip is not None:
            target = target + drift * (left(reader.join) - own[reader.skip] - target)
        x = own[reader.source]
        if operation(node).startswith("conv"):
            given = arguments(node)
            kernel = given["weight"].meta["val"].shape[2:]
            x = F.unfold(x, kernel, given["dilation"], given["padding"], given["stride"])
            x = x.transpose(1, 2).reshape(-1, x.shape[1])
            target = target.flatten(2).transpose(1, 2).flatten(0, 1)
        x, target = x.flatten(0, -2), target.flatten(0, -2)
        if batch.mask is not None and batch.mask.numel() == len(x):
            x, target = x[batch.mask.flatten()], target[batch.mask.flatten()]
        xs.append(x.double().numpy())
        ys.append(target.double().numpy())
    return np.concatenate(xs), np.concatenate(ys)


def removal_cost(
    x: np.ndarray, weight: np.ndarray, metric: np.ndarray, gone: Sequence[int], damping: float
) -> float:
    """½ min over V of the mean over rows of (W x - V x')ᵀ M (W x - V x'), V without `gone`.

    The damping stands as further rows, so that it is an ordinary least-squares problem.
    """
    size = x.shape[1]
    scale = damping * (x**2).sum(0).mean()
    rows = np.vstack([x, np.sqrt(scale) * np.eye(size)])
    wanted = rows @ weight.T
    stays = [i for i in range(size) if i not in set(gone)]
    best = np.linalg.lstsq(rows[:, stays], wanted, rcond=None)[0]
    missed = wanted - rows[:, stays] @ best
    return float(np.einsum("ro,op,rp->", missed, metric, missed) / len(x) / 2)
