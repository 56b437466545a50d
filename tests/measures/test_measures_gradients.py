"""Measures of the gradient flow against ordinary backward passes, sample by sample."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles.gradients import l1_share, signal_to_noise, value_gradients, weight_gradients
from prepared import SMALL, family, seeded, subject_of, traced
from torch import Tensor, nn

from zsei.measures.gradient_noise import GradientNoise
from zsei.measures.gradient_paths import GradientPaths
from zsei.measures.gradient_profile import GradientProfile
from zsei.measures.learning_efficiency import LearningEfficiency
from zsei.subject.objective import Objective
from zsei.subject.program import model_hash
from zsei.subject.types import Subject
from zsei.trace.run import trace
from zsei.trace.summary import Trace
from zsei.trace.view import Measure

CLASSES = Objective(name="classification", output="logits", reason="asked for")
LABELS = torch.arange(32) % 3


def classifier() -> tuple[nn.Sequential, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(),
            nn.Linear(10, 3),
        ).eval()  # fmt: skip
    return model, seeded(32, 6)


@pytest.fixture(scope="module")
def subject() -> Subject:
    model, x = classifier()
    return subject_of(model, (x,), CLASSES, labels=LABELS, names=("input",))


@pytest.fixture(scope="module")
def found(subject: Subject) -> Trace:
    return run(subject, GradientProfile(), GradientNoise(), LearningEfficiency())


def run(subject: Subject, *measures: Measure) -> Trace:
    measured = trace(subject, SMALL, measures=measures)
    assert measured.failures == ()
    return measured


def gradients_of(place: int) -> Tensor:
    """Gradient of each sample's loss at what layer `place` writes, [n, c]."""
    model, x = classifier()
    return value_gradients(model[: place + 1], model[place + 1 :], x, LABELS)


def test_signal_to_noise_is_that_of_single_backward_passes(found: Trace) -> None:
    for place in (0, 2, 4):
        measured = found.measurements[str(place)]["gradient_signal_to_noise"]
        expected = signal_to_noise(gradients_of(place).double())
        assert measured.value == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert measured.n == 32


def test_samples_that_agree_have_more_signal() -> None:
    model, x = classifier()
    alike = x[:1] + 0.05 * x
    same = subject_of(model, (alike,), CLASSES, labels=torch.zeros(32, dtype=torch.long),
                      names=("input",))  # fmt: skip
    value = run(same, GradientNoise()).measurements["0"]["gradient_signal_to_noise"].value
    assert value is not None
    assert value > 20


def test_variation_is_over_batches(found: Trace) -> None:
    per_batch = gradients_of(0).double().square().mean(1).view(4, 8).mean(1).sqrt().numpy()
    measured = found.measurements["0"]["gradient_variation"]
    assert measured.value == pytest.approx(per_batch.std(ddof=1) / per_batch.mean(), rel=1e-4)
    assert measured.n == 4


def test_one_batch_cannot_tell_variation(subject: Subject) -> None:
    one = replace(subject, calibration=subject.calibration[:1])
    measured = run(one, GradientProfile()).measurements["0"]["gradient_variation"]
    assert (measured.state, measured.value) == ("could not tell", None)
    assert "2 batches are needed" in measured.note


def test_steps_and_slope_follow_the_chain(found: Trace) -> None:
    sizes = [
        float(gradients_of(place).double().square().mean(1).sqrt().mean()) * np.sqrt(width)
        for place, width in ((0, 10), (2, 10), (4, 10), (6, 3))
    ]
    steps = [found.measurements[p]["gradient_step"].value for p in ("0", "2", "4")]
    assert steps == pytest.approx([a / b for a, b in pairwise(sizes)], rel=1e-3)
    slope = found.measurements["0"]["gradient_slope"]
    assert slope.value == pytest.approx(np.polyfit(range(4), np.log10(sizes), 1)[0], rel=1e-3)
    assert "over 4 blocks" in slope.note


def test_weight_gradients_are_those_of_a_backward_pass(subject: Subject, found: Trace) -> None:
    model, x = classifier()
    expected = weight_gradients(model, lambda m: m(x[:4]), LABELS[:4])
    for place in (0, 2, 4, 6):
        names = (f"{place}.weight", f"{place}.bias")
        squares = sum(float(expected[name].double().square().sum()) for name in names)
        weights = [dict(model.named_parameters())[name].detach() for name in names]
        size = sum(float(w.double().square().sum()) for w in weights)
        measured = found.measurements[str(place)]
        ratio = measured["update_to_weight"].value
        assert ratio == pytest.approx((squares / size) ** 0.5, rel=1e-4)
        count = sum(w.numel() for w in weights)
        assert measured["learning_efficiency"].value == pytest.approx(squares / count, rel=1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in subject.model.parameters())


def test_a_small_step_lowers_the_loss_by_what_was_predicted(found: Trace) -> None:
    """Δ loss = -η Σ g² for a step of size η along -g on one layer."""
    model, x = classifier()
    rate, place = 1e-3, 2
    expected = weight_gradients(model, lambda m: m(x[:4]), LABELS[:4])
    loss = nn.functional.cross_entropy
    with torch.no_grad():
        model.double()
        weights: dict[str, Tensor] = dict(model.named_parameters())
        before = float(loss(model(x[:4].double()), LABELS[:4]))
        for name in (f"{place}.weight", f"{place}.bias"):
            weights[name] -= rate * expected[name].double()
        after = float(loss(model(x[:4].double()), LABELS[:4]))
    efficiency = found.measurements[str(place)]["learning_efficiency"].value
    assert efficiency is not None
    assert before - after == pytest.approx(rate * efficiency * 110, rel=2e-2)


def test_measuring_weights_changes_nothing() -> None:
    made = family("bert")
    before = model_hash(made.model)
    found = run(made, LearningEfficiency())
    assert model_hash(made.model) == before
    ratios = found.measurements["encoder.layer.0.attention.self.query"]
    assert (ratios["update_to_weight"].value or 0) > 0
    assert "one random probe" in ratios["update_to_weight"].note
    assert not any("update_to_weight" in found.measurements[c.id]
                   for c in made.anatomy.components if c.kind == "embedding")  # fmt: skip


class Joined(nn.Module):
    """Two residual joins and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.read = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.read(x)


def test_what_the_skip_carries_is_what_the_branch_does_not() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Joined().eval()
    x = seeded(32, 6)
    made = subject_of(model, (x,), CLASSES, labels=LABELS)
    found = run(made, GradientPaths()).measurements
    joins = [c.id for c in made.anatomy.components if c.kind == "residual"]
    assert len(joins) == 2

    def behind(start: int) -> nn.Module:
        class Rest(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                for block in model.blocks[start:]:
                    x = x + torch.tanh(block(x))
                return model.read(x)

        return Rest()

    entering = value_gradients(model.stem, behind(0), x, LABELS)
    first = nn.Sequential(model.stem, _Step(model.blocks[0]))
    leaving = value_gradients(first, behind(1), x, LABELS)
    expected = l1_share(entering, [leaving, entering - leaving])
    assert found[joins[0]]["gradient_skip_share"].value == pytest.approx(expected, rel=1e-3)
    through = float((entering - leaving).double().square().mean().sqrt())
    assert found[joins[0]]["gradient_branch_rms"].value == pytest.approx(through, rel=1e-3)


class _Step(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.block(x))


def test_a_projected_shortcut_claims_nothing() -> None:
    made, found = family("resnet"), traced("resnet").measurements
    assert made.program is not None
    shared = [
        "gradient_skip_share" in found[c.id] for c in made.anatomy.components
        if c.kind == "residual"
    ]  # fmt: skip
    assert True in shared
    assert False in shared


def test_heads_share_the_gradient_of_their_attention() -> None:
    made, found = family("gpt2"), traced("gpt2").measurements
    for attention in ("transformer.h.0/attention", "transformer.h.1/attention"):
        heads = [c.id for c in made.anatomy.components if c.parent == attention]
        sizes = [found[head]["gradient_rms"].value for head in heads if "head" in head]
        assert len(sizes) == 4
        assert all(size is not None and size > 0 for size in sizes)
        assert len(set(sizes)) == 4


def test_without_labels_no_signal_is_claimed() -> None:
    measured = traced("bert").measurements["encoder.layer.0/mlp"]["gradient_signal_to_noise"]
    assert measured.state == "could not tell"
    assert "labels are needed" in measured.note
