"""Bottlenecks of every kind: what the numbers are, and where nothing may be said."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from factories import FAMILIES, LENGTH
from prepared import SMALL, analysed, family, seeded, subject_of
from torch import Tensor, nn
from zoo import WIDTH, Chain, Transformer

from zsei.analyzers import Analysis
from zsei.analyzers.dynamic_bottleneck import DynamicBottleneck
from zsei.analyzers.machine import Machine, machine
from zsei.analyzers.memory_bottleneck import MemoryBottleneck
from zsei.analyzers.parallelisation_bottleneck import ParallelisationBottleneck
from zsei.analyzers.pressure import pressure_checks
from zsei.analyzers.roofline import Roofline
from zsei.analyzers.shared_module import SharedModule
from zsei.analyzers.shares import (
    band,
    criticality_shares,
    first_half,
    sampled_shares,
    summed_effect,
)
from zsei.analyzers.time_bottleneck import TimeBottleneck, group_batches
from zsei.analyzers.unread_parameters import UnreadParameters
from zsei.analyzers.widening import widening_trial
from zsei.graph.span import recurrences
from zsei.records import Finding
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.types import Batch
from zsei.trace.ablation import Effect
from zsei.trace.engine import Engine

VALUES = Objective(name="fidelity", output="values", reason="")
REGRESSION = Objective(name="regression", output="values", reason="")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    torch.manual_seed(7)
    model = Transformer(32, 32, 32).eval()
    return analysed(subject_of(model, [seeded(24, 6, WIDTH)], VALUES), SMALL)


def _evidence(finding: Finding) -> dict[str, float | None]:
    return {measurement.name: measurement.value for measurement in finding.evidence}


def test_bands_are_now_next_later_and_not_worth_it() -> None:
    assert [band(share) for share in (0.5, 0.2, 0.15, 0.1, 0.07, 0.05, 0.049, 0.0)] == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_either_half_holds_every_group(groups: int) -> None:
    """Groups alternate in the data."""
    first = first_half(24, groups)
    names = torch.arange(24) % groups
    assert int(first.sum()) == 12
    for half in (first, ~first):
        assert torch.bincount(names[half]).tolist() == [12 // groups] * groups


def test_shares_per_sample_are_squares_over_the_mean_sum_of_squares(analysis: Analysis) -> None:
    found, parts = sampled_shares(analysis), criticality_shares(analysis)
    squares = {p: analysis.importance.effects[p].divergence.double() ** 2 for p in parts}
    total = sum(float(values.mean()) for values in squares.values())
    for part, values in squares.items():
        assert torch.allclose(found[part], values / total)
    assert sum(float(v.mean()) for v in found.values()) == pytest.approx(1)
    scores = [float(analysis.importance.scores[p, "branch"][0]) ** 2 for p in parts]
    assert summed_effect(analysis) == pytest.approx(sum(scores))
    fewer = {k: e for k, e in analysis.importance.effects.items() if k != "blocks.1/mlp"}
    partly = replace(analysis, importance=replace(analysis.importance, effects=fewer))
    assert sampled_shares(partly) == {}


def test_pressure_is_judged_by_joint_ablation_and_on_halves(analysis: Analysis) -> None:
    shares = criticality_shares(analysis)
    worst = max(shares, key=lambda part: shares[part])
    cheap, dear = (
        pressure_checks(analysis, (worst,), {worst: cost}, 3.0)
        for cost in (shares[worst], 100 * shares[worst])
    )
    assert [c.name for c in cheap] == ["exact-ablation", "half-samples"]
    assert [c.outcome for c in cheap] == ["disagrees", "disagrees"]
    assert [c.outcome for c in dear] == ["agrees", "agrees"]


def test_a_machine_has_a_ridge_and_is_measured_once() -> None:
    assert Machine(peak=2e9, bandwidth=1e9).ridge == 2
    assert machine() is machine()
    assert machine().peak > 0
    assert machine().bandwidth > 0


def test_every_part_stands_on_one_side_of_the_ridge(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten operations per byte as the ridge, and time as it is written here."""
    monkeypatch.setattr("zsei.analyzers.roofline.machine", lambda: Machine(peak=1e9, bandwidth=1e8))
    wanted = {"blocks.0/mlp": 0.6, "blocks.1/mlp": 0.25, "blocks.2/mlp": 0.12, "head": 0.03}
    [finding] = Roofline().find(replace(analysis, trace=replace(analysis.trace, seconds=wanted)))
    assert finding.severity == 0
    assert list(finding.components) == list(wanted)
    said = [m.note for m in finding.evidence if m.name == "seconds_share"]
    assert [s.rsplit(": ")[-1] for s in said] == ["now", "now", "next", "not worth it"]
    for m in finding.evidence:
        if m.name == "arithmetic_intensity":
            assert m.value is not None
            assert m.note.endswith("compute-bound") == (m.value >= 10)
    # 8 samples x 6 positions of 2 x 2 x 32 x 32 operations in 0.6 s.
    reached = 8 * 6 * 4 * WIDTH * WIDTH / 0.6
    intensity = next(m.value for m in finding.evidence if m.name == "arithmetic_intensity")
    share = next(m.value for m in finding.evidence if m.name == "roofline_share")
    assert intensity is not None
    assert share == pytest.approx(reached / min(1e9, intensity * 1e8))


def _grouped(analysis: Analysis, left: dict[str, float], right: dict[str, float]) -> Analysis:
    """The same analysis with groups in turn, and effects that are as given in each."""
    batches = tuple(
        replace(b, groups=("left", "right") * (b.size // 2)) for b in analysis.importance.batches
    )
    samples = sum(batch.size for batch in batches)
    effects: dict[str, Effect] = {}
    for part, value in left.items():
        pattern = torch.tensor([value, right[part]]).sqrt().repeat(samples // 2)
        effects[part] = replace(analysis.importance.effects[part], divergence=pattern)
    return replace(
        analysis, importance=replace(analysis.importance, effects=effects, batches=batches)
    )


def test_a_part_of_one_group_is_told_by_its_share_within_each(analysis: Analysis) -> None:
    left = {"blocks.0/mlp": 0.5, "blocks.1/mlp": 0.3, "blocks.2/mlp": 0.2}
    right = {"blocks.0/mlp": 5.0, "blocks.1/mlp": 0.1, "blocks.2/mlp": 4.9}
    [finding] = DynamicBottleneck().find(_grouped(analysis, left, right))
    assert finding.components == ("blocks.1/mlp",)
    shares = {m.note: m.value for m in finding.evidence}
    assert shares == pytest.approx({"left": 0.3, "right": 0.01})
    assert finding.severity == pytest.approx(0.29)
    assert finding.checks[0].outcome == "agrees"


def test_groups_that_are_alike_or_too_small_give_nothing(analysis: Analysis) -> None:
    even = {f"blocks.{i}/mlp": 0.5 for i in range(3)}
    assert list(DynamicBottleneck().find(_grouped(analysis, even, even))) == []
    left, right = {**even, "blocks.1/mlp": 0.4}, {**even, "blocks.1/mlp": 0.0}
    made = _grouped(analysis, left, right)
    assert len(list(DynamicBottleneck().find(made))) == 1
    assert list(DynamicBottleneck(min_samples=99).find(made)) == []
    assert list(DynamicBottleneck().find(analysis)) == []


class Stepping(nn.Module):
    """A narrow convolution before a wide one: positions stay, channels do not."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first, self.narrow = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1, stride=stride)
        self.wide, self.head = nn.Conv2d(2, 12, 1), nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.wide(self.narrow(self.first(image))).mean((2, 3)))


def _images(stride: int, exact: bool = False) -> Analysis:
    torch.manual_seed(3)
    model, images = Stepping(stride).eval(), seeded(32, 3, 4, 4)
    with torch.no_grad():
        labels = model(images) if exact else seeded(32, 3, seed=9) + images.mean((2, 3))
    return analysed(subject_of(model, [images], REGRESSION, labels=labels), SMALL)


def test_widening_takes_channels_of_images_too() -> None:
    """Three colours go in, two come through, and the labels want the third."""
    trial = widening_trial(_images(1), "first", "narrow", "wide")
    assert {m.name for m in trial.evidence} == {"widening_gain", "restored_directions"}
    restored = [m.value for m in trial.evidence if m.name == "restored_directions"]
    assert restored == [1]


def test_widening_gains_nothing_where_the_labels_are_the_model_s_own() -> None:
    trial = widening_trial(_images(1, exact=True), "first", "narrow", "wide")
    assert trial.outcome == "disagrees"


def test_widening_refuses_what_it_cannot_line_up() -> None:
    trial = widening_trial(_images(2), "first", "narrow", "wide")
    assert trial.outcome == "inconclusive"
    assert "different positions" in trial.message


def test_nothing_linear_is_lost_where_nothing_is_narrow() -> None:
    model = Chain(8, 8, 8, 8, 4).eval()
    x = seeded(48, 8)
    made = analysed(subject_of(model, [x], REGRESSION, labels=seeded(48, 4, seed=2)), SMALL)
    trial = widening_trial(made, "layers.0", "layers.0", "layers.1")
    assert trial.outcome == "disagrees"
    assert trial.message.startswith("Nothing linear is lost")


def test_the_model_is_as_it_was_after_a_trial() -> None:
    made = _images(1)
    before = {k: v.clone() for k, v in made.subject.model.state_dict().items()}
    widening_trial(made, "first", "narrow", "wide")
    for name, value in made.subject.model.state_dict().items():
        assert torch.equal(value, before[name])


class Shared(nn.Module):
    """One linear called twice; only both calls together are worth its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.inner(x).tanh()).tanh())


def test_two_calls_weigh_together_against_the_parameters_they_share() -> None:
    made = analysed(subject_of(Shared().eval(), [seeded(32, 8)], VALUES), SMALL)
    assert {c.id for c in made.subject.anatomy.components} >= {"inner#1", "inner#2"}
    found = [f for f in MemoryBottleneck().find(made) if "parameters_share" in _evidence(f)]
    assert [f for f in found if "inner#1" in f.components] == []
    assert list(SharedModule().find(made)) == []


class Many(nn.Module):
    """A weight that is tied to one that is read, and one that is not read at all."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tied, self.spare = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.tied.weight, self.tied.bias = self.body.weight, self.body.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).relu()


def test_a_tied_weight_counts_as_read_by_either_name() -> None:
    [finding] = UnreadParameters().find(analysed(subject_of(Many(), [seeded(16, 6)], VALUES)))
    assert _evidence(finding)["unread_parameters"] == 6 * 3 + 3
    assert _evidence(finding)["unread_share"] == pytest.approx(21 / (42 + 21))
    assert finding.evidence[0].note == "spare"


class Branching(nn.Module):
    """Control flow that hangs on data, so that nothing is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.last(hidden / 2 if hidden.mean() > 1e6 else hidden)


def test_without_a_program_nothing_is_said_that_takes_one() -> None:
    made = analysed(prepare(Branching().eval(), seeded(24, 6), "fidelity", Settings(batch_size=8)))
    assert made.subject.program is None
    for analyzer in (ParallelisationBottleneck(), UnreadParameters(), SharedModule()):
        assert list(analyzer.find(made)) == []
    assert len(list(Roofline().find(made))) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_loops_are_found_in_recurrent_models_alone(name: str) -> None:
    analyzer = ParallelisationBottleneck()
    found = recurrences(family(name), analyzer.min_steps)
    assert [loop.steps for loop in found if loop.rows <= analyzer.max_rows] == (
        [2 * LENGTH] if name == "lstm" else []
    )


class Clockwork:
    """An engine whose clock says what a group is worth, plus a little more each time."""

    fidelity = "modules"

    def __init__(self, seconds: dict[str, float]) -> None:
        self.told, self.calls = seconds, 0

    def seconds(self, batch: Batch, repeats: int) -> dict[str, float]:
        self.calls += 1
        [group] = set(batch.groups)
        return {"first": 1.0, "last": self.told[group] + self.calls / 1000}


@pytest.mark.parametrize(("slow", "found"), [(3.0, True), (1.1, False)])
def test_time_that_changes_with_the_group_is_told(slow: float, found: bool) -> None:
    data = {"a": seeded(24, 6), "b": seeded(24, 6, seed=2)}
    made = analysed(prepare(Branching().eval(), data, "fidelity", Settings(batch_size=8)))
    engine = Clockwork({"a": slow, "b": 1.0})
    made = replace(made, engine=cast(Engine, engine), trace=replace(made.trace, seconds={}))
    findings = list(TimeBottleneck().find(made))
    assert len(findings) == int(found)
    assert engine.calls == 6
    for finding in findings:
        assert finding.components == ("last",)
        seconds = {m.note: m.value for m in finding.evidence if m.name == "group_seconds"}
        assert seconds == pytest.approx({"a": 1 + slow + 0.003, "b": 2.004})
        assert "group a takes" in finding.message


def test_a_batch_of_one_group_holds_its_samples_alone() -> None:
    inputs = torch.arange(8.0).view(8, 1)
    batch = Batch(inputs=(inputs,), mask=inputs > 2, groups=("a", "b") * 4)
    found = group_batches([batch])
    assert found["a"].inputs[0].flatten().tolist() == [0, 2, 4, 6, 0, 2, 4, 6]
    mask = found["b"].mask
    assert mask is not None
    assert mask.flatten().tolist() == [False, True, True, True] * 2


def test_a_program_is_the_same_calls_for_every_group(analysis: Analysis) -> None:
    """Nothing is timed: the engine would fail."""
    batches = tuple(
        replace(b, groups=("left", "right") * (b.size // 2)) for b in analysis.subject.calibration
    )
    subject = replace(analysis.subject, calibration=batches)
    trace = replace(analysis.trace, seconds={})
    made = replace(analysis, subject=subject, trace=trace, engine=cast(Engine, None))
    assert list(TimeBottleneck().find(made)) == []
