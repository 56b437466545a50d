"""Criticality: what it names, and what its checks rest on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared import SMALL, analysed, seeded
from torch import Tensor
from zoo import HEADS, LENGTH, WIDTH, Attention, Transformer, loud_head

from zsei.analyzers.context import Analysis
from zsei.analyzers.criticality import Criticality
from zsei.records import Finding
from zsei.settings import Settings
from zsei.subject.prepare import prepare

HEAD = "blocks.1/head.1"
SETTINGS = Settings(samples=96, batch_size=16, ablation_sample=24, probes=2)


def _data() -> dict[str, Tensor]:
    """Two groups; the first channel says which: 2 or -2 on one, so that its mean is 0, and 0."""
    on, off = seeded(48, LENGTH, WIDTH, seed=2), seeded(48, LENGTH, WIDTH, seed=3)
    off[..., 0] = 0
    on[..., 0] = 2.0
    on[1::2, :, 0] = -2.0
    return {"on": on, "off": off}


class Switched(torch.nn.Module):
    """Attention whose head 1 writes as much as the first channel of its input says."""

    def __init__(self, inside: Attention) -> None:
        super().__init__()
        self.query, self.key, self.value = inside.query, inside.key, inside.value
        self.output = inside.output

    def forward(self, x: Tensor, *rest: object) -> Tensor:
        del rest
        n, t, _ = x.shape
        q, k, v = (
            part(x).view(n, t, HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        only = torch.zeros(HEADS, 1, 1)
        only[1] = 1
        switch = torch.nn.functional.softshrink(x[..., :1].mean(1)[:, None, None], 1.0)
        v = v * (1 - only + 15 * only * switch)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).reshape(n, t, WIDTH))


@torch.no_grad()
def _switched() -> torch.nn.Module:
    torch.manual_seed(0)
    model = Transformer(64, 64, 64).eval()
    for block in model.blocks:
        # Nothing but the input writes the first channel, and no value is read from it.
        for linear in (block.attention.output, block.mlp.down):
            linear.weight[0], linear.bias[0] = 0, 0
        block.attention.value.weight[:, 0] = 0
    model.blocks[1].attention = Switched(model.blocks[1].attention)
    return model.eval()


@pytest.fixture(scope="module")
def switched() -> Analysis:
    # By its mean over both groups a head that is silent on one would be given a voice there.
    zero = SETTINGS.model_copy(update={"replacement": "zero"})
    return analysed(prepare(_switched(), _data(), "fidelity", zero), zero)


@pytest.fixture(scope="module")
def loud() -> Analysis:
    model = loud_head().model
    return analysed(prepare(model, seeded(96, LENGTH, WIDTH), "fidelity", SETTINGS), SETTINGS)


def _ratios(finding: Finding) -> dict[str, float]:
    return {m.note: m.value or 0.0 for m in finding.evidence if m.name == "effect_ratio"}


def test_a_ratio_is_the_squared_effect_over_that_of_its_kind(loud: Analysis) -> None:
    [finding] = list(Criticality().find(loud))
    assert finding.components[0] == "blocks.1/head.2"
    squares = {
        unit: float(effect.divergence.double().square().mean())
        for unit, effect in loud.importance.effects.items()
        if "/head." in unit
    }
    assert len(squares) == 12
    expected = squares["blocks.1/head.2"] / (sum(squares.values()) / 12)
    assert _ratios(finding)["blocks.1/head.2"] == pytest.approx(expected, rel=1e-6)
    assert finding.severity == 0


def test_it_is_tested_on_halves_and_on_samples_nobody_used(loud: Analysis) -> None:
    [finding] = list(Criticality().find(loud))
    checks = {check.name: check for check in finding.checks}
    assert checks["half-samples"].outcome == "agrees"
    assert checks["fresh-samples"].outcome == "agrees"
    assert "16 samples not used before" in checks["fresh-samples"].message


def test_too_few_samples_say_what_it_takes(loud: Analysis) -> None:
    used = replace(loud.subject, calibration=loud.importance.batches)
    [finding] = list(Criticality().find(replace(loud, subject=used)))
    [fresh] = [check for check in finding.checks if check.name == "fresh-samples"]
    assert fresh.outcome == "inconclusive"
    assert "it takes 40 or more" in fresh.message
    short = {
        unit: replace(effect, divergence=effect.divergence[:10])
        for unit, effect in loud.importance.effects.items()
    }
    few = replace(loud, importance=replace(loud.importance, effects=short))
    [finding] = list(Criticality().find(few))
    [halves] = [check for check in finding.checks if check.name == "half-samples"]
    assert halves.outcome == "inconclusive"
    assert "it takes 16" in halves.message


def test_a_lucky_component_is_contradicted_by_the_other_half(loud: Analysis) -> None:
    """One sample in which a head matters enormously makes it look critical."""
    effects = dict(loud.importance.effects)
    target = effects["blocks.0/head.0"]
    values = target.divergence.clone()
    values[0] = values.sum() * 10
    effects["blocks.0/head.0"] = replace(target, divergence=values)
    lucky = replace(loud, importance=replace(loud.importance, effects=effects))
    [finding] = list(Criticality().find(lucky))
    assert "blocks.0/head.0" in finding.components
    assert {check.name: check.outcome for check in finding.checks} == {
        "half-samples": "disagrees", "fresh-samples": "disagrees",
    }  # fmt: skip


def test_what_matters_on_one_group_only_is_named_for_it(switched: Analysis) -> None:
    found = [f for f in Criticality().find(switched) if f.message.startswith("On on")]
    assert len(found) == 1
    assert found[0].components == (HEAD,)
    ratios = _ratios(found[0])
    assert ratios[f"{HEAD} on on"] >= 4
    assert ratios[f"{HEAD} on off"] < 1
    assert not [f for f in Criticality().find(switched) if f.message.startswith("On off")]


def test_groups_are_told_apart_in_the_record(switched: Analysis) -> None:
    """Exact and predicted effects stand beside each other for each group."""
    groups, head = switched.importance.groups, HEAD
    assert set(groups) == {"on", "off"}
    [on], [off] = groups["on"][head], groups["off"][head]
    assert on.name == off.name == "ablation_effect"
    assert on.n == off.n == 16
    samples = [g for batch in switched.importance.batches for g in batch.groups]
    values = switched.importance.effects[head].divergence.numpy()
    expected = np.mean([v for v, g in zip(values, samples, strict=True) if g == "on"])
    assert on.value == pytest.approx(float(expected), rel=1e-5)
    predicted = {g: n[head] for g, n in switched.trace.groups.items()}
    sensitivity = {
        g: next(m for m in rows if m.name == "sensitivity") for g, rows in predicted.items()
    }
    assert sensitivity["on"].value > 1.5 * sensitivity["off"].value
    assert sensitivity["on"].n == 48


def test_an_even_model_has_no_critical_part() -> None:
    model = loud_head(False).model
    even = analysed(prepare(model, seeded(32, LENGTH, WIDTH), "fidelity", SMALL), SMALL)
    assert list(Criticality().find(even)) == []
