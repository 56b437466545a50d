"""NaN and infinity on part of the data: named where they begin, and kept out of everything else."""

import math

import pytest
import torch
from prepared import analysed
from torch import Tensor, nn

from zsei import analyze
from zsei.errors import NumericalError
from zsei.measures import MEASURES
from zsei.measures.gradient_profile import GradientProfile
from zsei.measures.learning_efficiency import LearningEfficiency
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.screen import finite_samples, regrouped, without
from zsei.subject.types import Batch, Subject
from zsei.trace.ablation import Target, ablate, ablate_together
from zsei.trace.engine import engine_for
from zsei.trace.run import trace, without_undefined
from zsei.trace.summary import Trace

FEW = Settings(samples=48, batch_size=8, probes=2, ablation_sample=8, max_proposals=1)


class Broken(nn.Module):
    """Goes wrong in front of the second layer, in one of four ways, where feature 0 is negative."""

    def __init__(self, how: str):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 12)
            self.read = nn.Linear(12, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        sign = x[:, :1]
        entered = self.first(x)
        hidden = torch.relu(entered)
        if self.how == "nan":
            return self.read(torch.relu(self.second(hidden * sign.sqrt())))
        if self.how == "infinity":
            return self.read(torch.relu(self.second(hidden / (sign > 0))))
        if self.how == "inside":
            hidden = torch.relu(self.second(hidden * sign.sqrt()))
            return self.read(torch.nan_to_num(hidden))
        # A root at zero: the value is fine, the slope is infinite.
        return self.read(torch.relu(self.second((entered * (sign > 0)).square().sqrt())))


def data(bad: int, good: int) -> dict[str, Tensor]:
    """Groups: `fine` without, `ill` with negative features."""
    x = torch.randn((bad + good, 6), generator=torch.Generator().manual_seed(1))
    x[:, 0] = x[:, 0].abs() + 0.1
    x[:bad, 0] *= -1
    return {name: part for name, part in (("fine", x[bad:]), ("ill", x[:bad])) if len(part)}


def numbers(found: Trace) -> list[float]:
    listed = [m for rows in found.measurements.values() for m in rows.values()]
    listed += [m for g in found.groups.values() for rows in g.values() for m in rows]
    values = [m.value for m in listed if m.value is not None]
    values += [m.std for m in listed if m.std is not None]
    values += [float(v) for s in found.units.values() for v in s.sensitivity]
    return values + [float(v) for mean in found.means.values() for v in mean.flatten()]


def prepared(how: str, bad: int = 24, good: int = 24) -> Subject:
    return prepare(Broken(how), data(bad, good), "fidelity", FEW)


@pytest.mark.parametrize("how", ["nan", "infinity"])
def test_a_group_whose_output_is_undefined_leaves_the_other_alone(how: str) -> None:
    subject = prepared(how)
    groups = {g for b in (*subject.calibration, *subject.held_out) for g in b.groups}
    assert groups == {"fine"}
    assert "24 of 48 samples were left out" in subject.notes[-1]
    found = trace(subject, FEW, measures=MEASURES)
    assert found.failures == ()
    assert all(math.isfinite(value) for value in numbers(found))
    [undefined] = found.undefined
    assert undefined.component == "second"
    assert undefined.reaches_output
    assert undefined.groups == {"fine": (0, 24), "ill": (24, 24)}
    # The same numbers as if the ill group had never been there, apart from which samples were kept.
    assert found.measurements["first"]["rms"].n == sum(b.size for b in subject.calibration)


def test_a_value_that_does_not_reach_the_output_is_found_inside() -> None:
    subject = prepared("inside")
    assert subject.left_out == ()
    found = trace(subject, FEW, measures=MEASURES)
    [undefined] = found.undefined
    assert (undefined.component, undefined.what) == ("second", "value")
    assert not undefined.reaches_output
    ill = sum(g == "ill" for b in subject.calibration for g in b.groups)
    assert undefined.groups["ill"] == (ill, ill)
    assert undefined.groups["fine"][0] == 0
    assert len(found.left_out) == ill
    assert any(f"{ill} of" in note for note in found.notes)
    assert all(math.isfinite(value) for value in numbers(found))
    left = without_undefined(subject, found).calibration
    assert {g for b in left for g in b.groups} == {"fine"}
    plain = trace(prepare(Broken("inside"), {"fine": torch.cat([b.inputs[0] for b in left] * 2)},
                          "fidelity", FEW), FEW)  # fmt: skip
    assert plain.undefined == ()


def test_a_gradient_that_is_undefined_is_told_from_a_value() -> None:
    subject = prepared("root", bad=16, good=32)
    found = trace(subject, FEW, measures=MEASURES)
    [undefined] = found.undefined
    assert (undefined.component, undefined.what) == ("first", "gradient")
    assert undefined.left_out == "samples"
    assert undefined.groups["fine"][0] == 0
    assert all(math.isfinite(value) for value in numbers(found))


def test_a_gradient_undefined_nearly_everywhere_costs_the_gradient_only() -> None:
    subject = prepared("root", bad=36, good=12)
    found = trace(subject, FEW, measures=(GradientProfile(), LearningEfficiency()))
    assert found.failures == ()
    # A measure that takes gradients of its own on these samples says so and gives no number.
    assert found.measurements["first"]["update_to_weight"].state == "could not tell"
    [undefined] = [u for u in found.undefined if u.component == "first"]
    assert undefined.left_out == "component"
    assert found.left_out == ()
    assert "gradient_rms" not in found.measurements["first"]
    assert found.measurements["first"]["rms"].value is not None
    assert "gradient_rms" in found.measurements["second"]
    assert all(math.isfinite(value) for value in numbers(found))


def test_all_undefined_is_a_clear_error() -> None:
    with pytest.raises(NumericalError, match="on all samples"):
        prepared("nan", bad=48, good=0)
    with pytest.raises(NumericalError, match="on at least"):
        prepared("nan", bad=46, good=2)


@pytest.mark.parametrize("how", ["nan", "inside", "root"])
def test_a_whole_analysis_ends_and_says_so(how: str, tmp_path: object) -> None:
    settings = FEW.model_copy(update={"home": tmp_path})
    record = analyze(Broken(how), data(20, 28), objective="fidelity", settings=settings)
    [finding] = [f for f in record.findings if f.code == "undefined-values"]
    assert finding.components == (("first",) if how == "root" else ("second",))
    assert "of ill" in finding.message
    assert "fine" not in finding.message.partition("(")[2].partition(")")[0]
    assert not [f for f in record.failures if f.stage != "memory"]


def test_a_healthy_model_has_nothing_undefined() -> None:
    subject = prepared("nan", bad=0, good=48)
    found = trace(subject, FEW)
    assert (found.undefined, found.left_out, subject.left_out) == ((), (), ())
    analysis = analysed(subject, FEW)
    from zsei.analyzers.undefined_values import UndefinedValues

    assert list(UndefinedValues().find(analysis)) == []


def test_samples_are_known_by_their_place_in_any_layout() -> None:
    value = torch.zeros(6, 4, 3)
    value[3, 1] = torch.nan
    assert finite_samples(value, 6).tolist() == [True, True, True, False, True, True]
    assert finite_samples(value, 3).tolist() == [True, False, True]
    positions_first = torch.zeros(5, 4, 3)
    positions_first[2, 3, 0] = torch.inf
    assert finite_samples(positions_first, 4).tolist() == [True, True, True, False]
    shared = torch.zeros(1, 5, 3)
    assert finite_samples(shared, 4).tolist() == [True] * 4
    shared[0, 0, 0] = torch.nan
    assert finite_samples(shared, 4).tolist() == [False] * 4


def batches(sizes: int, count: int) -> tuple[Batch, ...]:
    return tuple(
        Batch(inputs=(torch.arange(sizes)[:, None] + sizes * i,), groups=(str(i),) * sizes)
        for i in range(count)
    )


def test_what_is_left_is_batched_anew_in_order() -> None:
    kept = without(batches(4, 3), {1, 2, 5}, 1)
    assert [b.inputs[0].flatten().tolist() for b in kept] == [[0, 3, 4, 6], [7, 8, 9, 10]]
    assert kept[0].groups == ("0", "0", "1", "1")
    pairs = without(batches(4, 2), {2}, 2)
    assert [b.inputs[0].flatten().tolist() for b in pairs] == [[0, 1, 4, 5]]


def test_too_few_for_a_batch_are_repeated() -> None:
    keep = torch.zeros(8, dtype=torch.bool)
    keep[[1, 6, 7]] = True
    [batch] = regrouped(batches(4, 2), keep, 4)
    assert batch.inputs[0].flatten().tolist() == [1, 6, 7, 1]
    assert regrouped(batches(4, 2), torch.zeros(8, dtype=torch.bool), 4) == ()


class Reciprocal(nn.Module):
    """Divides by what a branch writes, so that zero in its place gives infinity."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.up, self.down, self.read = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.up(x))
        size = torch.relu(self.down(hidden)).sum(1, keepdim=True)
        return self.read(hidden / (size > 0))


def test_an_ablation_that_breaks_the_output_counts_as_the_worst() -> None:
    subject = prepare(Reciprocal(), data(0, 48), "fidelity", FEW)
    sites = {s.component: s for s in subject.anatomy.sites if s.kind == "branch"}
    targets = [Target(site=sites[name], units=(0,)) for name in ("down", "read")]
    # What stands in for `down` is negative: nothing is left to divide by.
    means = {("down", "branch"): torch.full((1, 8), -1.0), ("read", "branch"): torch.zeros(1, 3)}
    engine = engine_for(subject)
    broken, mild = ablate(engine, subject.objective, subject.calibration, targets, means=means)
    samples = sum(batch.size for batch in subject.calibration)
    assert (broken.undefined, mild.undefined) == (samples, 0)
    assert float(mild.divergence.min()) == pytest.approx(1)
    assert torch.equal(broken.divergence, mild.divergence.max().expand(samples))
    alone = ablate_together(
        engine, subject.objective, subject.calibration, targets[:1], means=means
    )  # fmt: skip
    assert torch.equal(alone, torch.ones(samples))
