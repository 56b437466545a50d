"""Ranks, similarities, shares and running moments against slow second implementations."""

import numpy as np
import pytest
import torch
from oracles.statistics import cka_by_kernels, effective_rank_by_svd, proximity_by_loops
from prepared import seeded

from zsei.trace.evidence import Moments
from zsei.trace.responses import root_mean_square
from zsei.trace.rows import (
    effective_rank,
    linear_cka,
    proximity_shares,
    row_indices,
    take_rows,
)
from zsei.trace.summary import _correlation, _duplicates


@pytest.mark.parametrize("shape", [(40, 6), (9, 30), (12, 12)])
@pytest.mark.parametrize("standardise", [False, True])
def test_effective_rank_is_the_entropy_of_singular_values(
    shape: tuple[int, int], standardise: bool
) -> None:
    rows = seeded(*shape) * torch.linspace(0.1, 3, shape[1])
    rank, cap = effective_rank(rows, standardise=standardise)
    expected = effective_rank_by_svd(rows, standardise=standardise)
    assert rank == pytest.approx(expected, rel=1e-4)
    assert cap == min(shape[0] - 1, shape[1])
    assert 1 <= rank <= cap + 1e-6


def test_effective_rank_of_known_values() -> None:
    line = torch.arange(20.0)[:, None] * torch.tensor([[1.0, -2, 0.5]])
    assert effective_rank(line)[0] == pytest.approx(1, abs=1e-4)
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert effective_rank(square)[0] == pytest.approx(2)
    assert effective_rank(torch.ones(10, 4)) == (0.0, 4)


def test_one_channel_of_huge_scale_hides_the_others_unless_standardised() -> None:
    rows = seeded(200, 10)
    rows[:, 0] *= 1000
    assert effective_rank(rows)[0] < 1.1
    assert effective_rank(rows, standardise=True)[0] > 9
    rows[:, 3] = 7.3
    assert 8 < effective_rank(rows, standardise=True)[0] <= 9


def test_cka_is_normalised_hsic_of_linear_kernels() -> None:
    first = seeded(15, 4)
    second = seeded(15, 7, seed=2) + first @ seeded(4, 7, seed=3)
    assert linear_cka(first, second) == pytest.approx(cka_by_kernels(first, second), rel=1e-9)
    rotation = torch.linalg.qr(seeded(4, 4, seed=5))[0]
    assert linear_cka(first, 3 * first @ rotation + 2) == pytest.approx(1)
    assert linear_cka(first, torch.ones(15, 3)) == 0.0


def test_proximity_shares_are_those_of_plain_loops() -> None:
    parts = [seeded(9, 5, seed=s) * scale for s, scale in ((1, 1.0), (2, 0.5), (3, 0.1))]
    total = torch.stack(parts).sum(0)
    shares = proximity_shares(total, parts)
    assert shares == pytest.approx(proximity_by_loops(total, parts), rel=1e-5)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > shares[1] > shares[2]


def test_summands_of_nothing_share_it_evenly() -> None:
    assert proximity_shares(torch.zeros(3, 2), [torch.zeros(3, 2)] * 2) == [0.5, 0.5]


def test_running_moments_are_those_of_all_values_at_once() -> None:
    values = seeded(17, 3).double()
    moments = Moments()
    for part in values.split([5, 1, 11]):
        moments.add(part)
    assert moments.n == 17
    assert np.allclose(moments.mean(), values.numpy().mean(0), rtol=1e-12)
    assert np.allclose(moments.std(), values.numpy().std(0, ddof=1), rtol=1e-10)


def test_root_mean_square_is_over_everything_but_the_sample() -> None:
    value = seeded(3, 2, 4, 5)
    expected = [float(v.double().square().mean().sqrt()) for v in value]
    assert root_mean_square(value).tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_are_spread_over_what_is_not_padding() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, :3], mask[3] = True, True
    allowed = {(1, 0), (1, 1), (1, 2), *((3, t) for t in range(6))}
    chosen = list(zip(*(i.tolist() for i in row_indices((4, 6), mask, 99)), strict=True))
    assert set(chosen) == allowed
    few = list(zip(*(i.tolist() for i in row_indices((4, 6), mask, 3)), strict=True))
    assert len(few) == 3
    assert few[0] == (1, 0)
    assert few[-1] == (3, 5)
    assert set(few) <= allowed


def test_rows_have_channels_last_whatever_the_layout() -> None:
    heads = seeded(2, 3, 4, 5)  # n, h, t, d
    rows = take_rows(heads, -1, None, 99)
    assert rows.shape == (8, 15)
    assert torch.equal(rows[5], torch.cat([heads[1, h, 1] for h in range(3)]))
    image = seeded(2, 3, 4, 5)  # n, c, height, width
    pixels = take_rows(image, 1, None, 99)
    assert pixels.shape == (40, 3)
    assert torch.equal(pixels[21], image[1, :, 0, 1])
    assert take_rows(seeded(6), -1, None, 4).shape == (1, 6)


def test_duplicates_are_pairs_of_high_correlation_of_either_sign() -> None:
    columns = seeded(50, 6)
    columns[:, 4] = -2 * columns[:, 1] + 3
    columns[:, 5] = columns[:, 0] + 0.02 * columns[:, 2]
    columns[:, 3] = 1.0
    correlation = _correlation(columns)
    assert torch.allclose(correlation, correlation.T, atol=1e-6)
    assert not correlation.diagonal().any()
    found = _duplicates(correlation)
    expected = np.corrcoef(columns[:, [0, 1, 2, 4, 5]].double().numpy().T)
    assert [(i, j) for i, j, _ in found] == [(1, 4), (0, 5)]
    assert found[0][2] == pytest.approx(-1, abs=1e-5)
    assert found[1][2] == pytest.approx(expected[0, 4], abs=1e-5)
