"""Agreement of the cheap ranking with exact ablation."""

import numpy as np
import pytest
from oracles.ranking import kendall_tau_b

from zsei.checkpoint.measure.accuracy import ranking_accuracy

Rows = list[tuple[str, int, float, float]]


def test_it_is_kendalls_tau_of_each_kind_weighted_by_pairs() -> None:
    generator = np.random.default_rng(0)
    # Rounded, so that some are tied.
    cheap, exact = generator.normal(size=(2, 20)).round(1).tolist()
    rows: Rows = [
        (f"h.{u % 3}/mlp|neuron" if u < 14 else "h.0/attention|head", u, cheap[u], exact[u])
        for u in range(20)
    ]
    found = ranking_accuracy(rows)
    neurons = kendall_tau_b(cheap[:14], exact[:14])
    heads = kendall_tau_b(cheap[14:], exact[14:])
    expected = (neurons * 14 * 13 + heads * 6 * 5) / (14 * 13 + 6 * 5)
    assert found.value == pytest.approx(expected)
    assert (found.n, found.state) == (20, "measured")
    assert "14 neurons" in found.note
    assert ranking_accuracy(rows[::-1]).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "value"),
    [
        ([("a|neuron", u, float(u), u**2.0) for u in range(5)], 1.0),
        ([("a|neuron", u, float(u), -float(u)) for u in range(5)], -1.0),
    ],
)
def test_agreement_and_its_opposite(rows: Rows, value: float) -> None:
    assert ranking_accuracy(rows).value == pytest.approx(value)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("a|neuron", 0, 1.0, 1.0), ("a|head", 0, 2.0, 2.0)],
        [("a|neuron", 0, 1.0, 1.0), ("a|neuron", 1, 1.0, 2.0)],
        [("a|neuron", 0, 1.0, 1.0), ("a|neuron", 1, 2.0, 1.0)],
    ],
)
def test_what_cannot_be_told_is_not_zero(rows: Rows) -> None:
    found = ranking_accuracy(rows)
    assert found.value is None
    assert found.state == "could not tell"
