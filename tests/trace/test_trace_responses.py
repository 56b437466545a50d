"""Sensitivity, Taylor and attribution against explicit Jacobians and finite differences."""

from typing import Any

import numpy as np
import pytest
import torch
from oracles.interpreter import run_with_edits
from oracles.statistics_responses import (
    probe_directions,
    read_output,
    responses_by_loops,
    site_jacobian,
)
from prepared import seeded, subject_of
from torch import Tensor, nn
from zoo import Chain, Transformer

from zsei.subject.objective import Objective, divergence, loss, readout
from zsei.subject.types import Batch, Site, Subject
from zsei.trace.engine import engine_for
from zsei.trace.evidence import Evidence, collect, collect_means
from zsei.trace.responses import per_unit, unit_mean
from zsei.trace.taps import find_taps


def evidence_of(subject: Subject, probes: int = 3) -> tuple[Evidence, dict[Any, Tensor]]:
    engine = engine_for(subject)
    taps = find_taps(subject, engine)
    means = collect_means(engine, taps.sites, subject.calibration)
    found = collect(
        engine, taps, subject.objective, subject.calibration, probes=probes, seed=5, rows=32,
        means=means,
    )  # fmt: skip
    return found, means


class TinyTransformer(nn.Module):
    """The zoo's transformer on fewer positions and one block, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        whole = Transformer(6)
        self.blocks, self.norm, self.head = whole.blocks, whole.norm, whole.head

    def forward(self, x: Tensor) -> Tensor:
        return Transformer.forward(self, x)  # type: ignore[arg-type]


def _tiny(output: str) -> Subject:
    """Two batches of three samples; labels would add nothing here."""
    if output == "logits per position":
        model = nn.Sequential(Chain(5, 6, 4), nn.Softplus(), nn.Linear(4, 7)).double()
        inputs = seeded(6, 3, 5, dtype=torch.float64)
    else:
        model = TinyTransformer().double()
        inputs = seeded(6, 2, 32, dtype=torch.float64)
    kind = "logits" if output.startswith("logits") else output
    objective = Objective(name="fidelity", output=kind, reason="")
    return subject_of(model.eval(), [inputs], objective, batch_size=3)


@pytest.mark.parametrize("output", ["embedding", "values", "logits", "logits per position"])
def test_sensitivity_is_the_squared_probe_response_of_an_explicit_jacobian(output: str) -> None:
    subject = _tiny(output)
    found, means = evidence_of(subject)
    objective = subject.objective
    for site in subject.anatomy.sites:
        generator = torch.Generator().manual_seed(5)
        squares: dict[str, list[list[float]]] = {"removed": [], "zeroed": []}
        for batch in subject.calibration:
            clean = read_output(objective, batch, subject.program)
            value, jacobian = site_jacobian(
                subject.program, batch, site.node,
                lambda out, b=batch: readout(objective, out, b),
            )  # fmt: skip
            substitute = _substitute(subject, batch, site, means)
            for direction in probe_directions(objective, clean, batch, 3, generator):
                zero = substitute if site.kind == "layer" else torch.zeros_like(substitute)
                for name, other in (("removed", substitute), ("zeroed", zero)):
                    rows = responses_by_loops(value, jacobian, direction, other, site)
                    squares[name] += [[r**2 for r in row] for row in rows]
        kept = found.sites[site.component, site.kind]
        for name, moments in (("removed", kept.sensitivity), ("zeroed", kept.zeroing)):
            assert moments.n == 18
            expected = np.array(squares[name]).mean(0)
            assert np.allclose(moments.mean(), expected, rtol=1e-6, atol=1e-12), (site, name)


def _substitute(subject: Subject, batch: Batch, site: Site, means: dict[Any, Tensor]) -> Tensor:
    """What removing a unit puts in: the mean, or what entered the layer."""
    if site.kind != "layer":
        return means[site.component, site.kind]
    entered: list[Tensor] = []
    engine_for(subject).run(batch, {site.source or "": entered.append})
    return entered[0]


@pytest.mark.parametrize("output", ["embedding", "values", "logits"])
def test_many_probes_give_the_divergence_of_a_small_change(output: str) -> None:
    """E (vᵀ J dz)² / 2 (or its root for relative L2) is what a small dz really does."""
    generator = torch.Generator().manual_seed(2)
    clean = seeded(4, 5, seed=3, dtype=torch.float64)
    if output == "embedding":
        clean = torch.nn.functional.normalize(clean, dim=1)
    objective = Objective(name="fidelity", output=output, reason="")
    change = 1e-3 * seeded(4, 5, seed=4, dtype=torch.float64)
    batch = Batch(inputs=(clean,), groups=("data",) * 4)
    quadratic = torch.zeros(4, dtype=torch.float64)
    for _ in range(1500):
        for direction in probe_directions(objective, clean, batch, 2, generator):
            quadratic += (direction * change).sum(1).square() / 3000
    moved = clean + change
    if output == "embedding":
        moved = torch.nn.functional.normalize(moved, dim=1)
    measured = divergence(objective, moved, clean, batch)
    predicted = quadratic.sqrt() if output == "values" else quadratic / 2
    assert torch.allclose(predicted, measured, rtol=0.12)


def _classifier() -> Subject:
    """Heads, neurons and branches in double precision, with labels."""
    model = TinyTransformer().double().eval()
    inputs = seeded(8, 2, 32, dtype=torch.float64)
    labels = torch.arange(8) % 6
    objective = Objective(name="classification", output="logits", reason="")
    return subject_of(model, [inputs], objective, labels=labels, batch_size=4)


def test_taylor_is_the_slope_of_the_loss_when_a_unit_is_scaled() -> None:
    """Σ a·g of a unit is d loss / d s at s = 1 when its value is multiplied by s."""
    subject = _classifier()
    found, _ = evidence_of(subject)
    step = 1e-5
    for site in (s for s in subject.anatomy.sites if s.kind != "layer"):
        slopes = []
        for batch in subject.calibration:
            per_unit_slopes = [
                (_loss(subject, batch, site, unit, 1 + step)
                 - _loss(subject, batch, site, unit, 1 - step)) / (2 * step)
                for unit in range(site.units)
            ]  # fmt: skip
            slopes.append(torch.stack(per_unit_slopes, 1))
        expected = torch.cat(slopes)
        kept = found.sites[site.component, site.kind]
        assert torch.allclose(kept.attribution.mean(), expected.mean(0), rtol=1e-5, atol=1e-9)
        assert torch.allclose(kept.taylor.mean(), expected.abs().mean(0), rtol=1e-5, atol=1e-9)
        assert float(kept.taylor.mean().abs().max()) > 1e-4


def _loss(subject: Subject, batch: Batch, site: Site, unit: int, scale: float) -> Tensor:
    def edit(value: Tensor) -> Tensor:
        if site.axis is None:
            return value * scale
        scaled = value.clone()
        scaled.select(site.axis, unit).mul_(scale)
        return scaled

    output = run_with_edits(subject.program, batch.inputs, {site.node: edit})
    return loss(subject.objective, readout(subject.objective, output, batch), batch)


def test_an_edge_into_a_join_carries_the_slope_of_its_summand() -> None:
    subject = _classifier()
    found, _ = evidence_of(subject)
    joins = [n for n in found.join_gradients if n]
    assert len(joins) == 4
    step = 1e-5
    for name in joins:
        operand, join = name.split("->")
        total = torch.zeros((), dtype=torch.float64)
        for batch in subject.calibration:
            for sign in (1, -1):
                kept: dict[str, Tensor] = {}
                edits = {
                    operand: lambda v, k=kept: k.setdefault("v", v),
                    join: lambda v, k=kept, s=sign: v + s * step * k["v"],
                }
                output = run_with_edits(subject.program, batch.inputs, edits)
                total += sign * loss(subject.objective, output, batch).sum() / (2 * step)
        assert float(found.join_gradients[name].mean()) == pytest.approx(float(total) / 8, abs=1e-8)


def test_first_order_scores_are_refused_where_they_would_be_zero() -> None:
    found, _ = evidence_of(_tiny("values"))
    assert all(kept.taylor.n == 0 for kept in found.sites.values())


def test_values_with_folded_samples_are_unfolded() -> None:
    """Six rows of three samples: rows 2i and 2i + 1 belong to sample i."""
    site = Site(component="c", kind="neuron", node="n", axis=2, units=2, unit_size=2)
    product = seeded(6, 5, 4)
    expected = torch.zeros(3, 2)
    for row in range(6):
        for position in range(5):
            for channel in range(4):
                expected[row // 2, channel // 2] += product[row, position, channel]
    assert torch.allclose(per_unit(product, site, 3), expected, atol=1e-5)


def test_a_shared_value_belongs_to_every_sample() -> None:
    site = Site(component="c", kind="branch", node="n", axis=None, units=1)
    product = seeded(1, 5, 4)
    expected = float(product.sum()) / 3
    assert torch.allclose(per_unit(product, site, 3), torch.full((3, 1), expected))


@pytest.mark.parametrize(
    ("shape", "kind", "positions"),
    [((3, 2, 5, 4), "head", 2), ((3, 5, 4), "neuron", 1), ((3, 5, 4), "branch", 1)],
)
def test_means_leave_padding_out(shape: tuple[int, ...], kind: str, positions: int) -> None:
    value, mask = seeded(*shape), torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:], mask[2, 1:] = False, False
    site = Site(component="c", kind=kind, node="n", axis=1, units=shape[1])
    total, count = unit_mean(value, site, mask)
    real = [(n, t) for n in range(3) for t in range(5) if mask[n, t]]
    rows = [value[n, t] if positions == 1 else value[n, :, t] for n, t in real]
    assert count == len(real) == 9
    assert torch.allclose(total.squeeze(), torch.stack(rows).sum(0).squeeze(), atol=1e-5)


def test_convolution_means_are_over_samples_and_space() -> None:
    value = seeded(3, 4, 5, 5)
    site = Site(component="c", kind="channel", node="n", axis=1, units=4)
    total, count = unit_mean(value, site, None)
    expected = [float(value[:, c].sum()) for c in range(4)]
    assert count == 75
    assert total.shape == (1, 4, 1, 1)
    assert torch.allclose(total.flatten(), torch.tensor(expected), atol=1e-4)
