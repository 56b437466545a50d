"""Decisions: their limits, reasons, and what they bring along, on a small chain of linears."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from deciding import Importance, Measured, measured
from torch import Tensor
from zoo import POINTS, Chain

from zsei.checkpoint.contracts import Mode, StructuralPruningDecision
from zsei.checkpoint.decide.choose import parameters_left
from zsei.checkpoint.decide.cuttable import cuttable
from zsei.checkpoint.decide.masks_of import hold, masked_copy
from zsei.checkpoint.measure.subjects import put_weights
from zsei.checkpoint.tasks import DecideTask, Snapshot
from zsei.gate.phases import CAPS, Phase, TrainingRun
from zsei.settings import Settings
from zsei.surgery.module_edit import ModuleEdit, TensorCut, apply_module_edit

DEAD = tuple(range(3, 15))
"""Neurons of the first layer that weight decay has brought to zero."""
EACH = 16 + 1 + 64
"""Parameters that go with one of them."""


@torch.no_grad()
def _plant(model: Chain) -> Chain:
    for number in range(3):
        model.linear(number).weight *= 3
    model.linear(0).weight[3:15] = 0
    model.linear(0).bias[3:15] = 0
    return model


@cache
def chain() -> Measured:
    torch.manual_seed(0)
    return measured(_plant(Chain(16, 64, 64, 6)), POINTS)


class Written(Chain):
    """The same, but its code holds the width of its first layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(0)(x).relu().reshape(-1, 64)
        return self.linear(2)(self.linear(1)(x).relu())


@cache
def written() -> Measured:
    torch.manual_seed(0)
    model = Written(16, 64, 64, 6)
    _plant(model)
    return measured(model, POINTS)


def share(units: int) -> float:
    """The target that so many dead neurons are."""
    return units * EACH / chain().parameters


def gone(decision: StructuralPruningDecision) -> dict[str, tuple[int, ...]]:
    return {target.layer_name: target.channel_indices for target in decision.channels}


def test_what_is_dead_goes_and_everything_is_told() -> None:
    made = chain()
    found = made.decide(share(12), importance=made.importance)
    assert found.approved_for_application
    assert found.rejection_reason == ""
    assert gone(found) == {"layers.0": DEAD}
    assert found.level == "aggressive"
    verdict = found.safety.verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.proposal_id) == ("accepted", found.decision_id)
    assert found.idempotency_key == (
        f"100:{made.subject.model_hash}:{found.decision_id}:aggressive"
    )
    told = found.statistics
    assert told is not None
    assert (told.channels, told.heads, told.layers) == (12, 0, 0)
    assert told.parameters_before == told.original_parameters == made.parameters
    assert told.parameters_after == made.parameters - 12 * EACH
    assert told.sparsity_after == pytest.approx(share(12))
    importance = made.importance["layers.0|neuron"]
    assert found.channels[0].channel_importance == tuple(importance[u] for u in DEAD)


def test_edit_and_masks_are_the_same_cut() -> None:
    made = chain()
    before = {name: tensor.clone() for name, tensor in made.subject.model.state_dict().items()}
    found = made.decide(share(12))
    after = made.subject.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), "as it was"
    assert found.edit is not None
    again = StructuralPruningDecision.model_validate_json(found.model_dump_json())
    assert again == found
    smaller = apply_module_edit(made.subject.model, ModuleEdit(**again.edit.model_dump()))  # type: ignore[union-attr]
    assert found.statistics is not None
    assert sum(p.numel() for p in smaller.parameters()) == found.statistics.parameters_after
    with torch.no_grad():
        wanted = smaller(POINTS)
        held = masked_copy(made.subject.model, found.masks.masks)(POINTS)
        assert torch.allclose(held, wanted, rtol=0, atol=1e-5)


def test_the_same_question_has_one_answer() -> None:
    first, again = chain().decide(share(12)), chain().decide(share(12))
    assert first == again
    assert chain().decide(share(12), mode="mask").decision_id != first.decision_id
    assert chain().decide(share(11)).decision_id != first.decision_id


def test_what_is_only_observed_is_judged_all_the_same() -> None:
    found = chain().decide(share(12), mode="observe")
    assert (found.approved_for_application, found.rejection_reason) == (False, "observe only")
    assert found.safety.verdict is not None
    assert found.safety.verdict.outcome == "accepted"
    assert gone(found) == {"layers.0": DEAD}


REASONS = [
    ({"phase": "preparation"}, "'preparation' nothing is cut"),
    ({"phase": "validation"}, "'validation' nothing is cut"),
    ({"target": 0.0}, "0.00% of the original parameters are gone, and the target is 0.00%"),
    ({"levels": ("heads",), "phase": "conservative"}, "only channels may be cut"),
    ({"conservative": True, "levels": ("heads", "layers")}, "none of that is asked for"),
    ({"importance": {}}, "nothing was measured"),
    ({"importance": {"layers.0|neuron": (None,) * 64}}, "nothing was measured"),
    ({"importance": {"layers.0|neuron": (1.0,) * 63}}, "nothing can be cut"),
    ({"target": 80 / 5766}, "nothing fits: 78 parameters may go"),
    ({"training": TrainingRun(phase="aggressive", parameters=5)}, "more than the 5"),
]


@pytest.mark.parametrize(("changed", "reason"), REASONS)
def test_where_nothing_is_to_do_the_gate_is_not_asked(
    changed: dict[str, object], reason: str
) -> None:
    asked = {"target": 0.1, **changed}
    found = chain().decide(**asked)  # type: ignore[arg-type]
    assert not found.approved_for_application
    assert reason in found.rejection_reason
    assert (found.safety.verdict, found.safety.tried) == (None, 0)
    assert (found.channels, found.attention_heads, found.layers) == ((), (), ())
    assert (found.edit, found.masks.masks) == (None, ())
    assert found.statistics is not None
    assert found.statistics.parameters_after == found.statistics.parameters_before


def test_without_a_program_there_is_a_reason() -> None:
    made = chain()
    found = replace(made, subject=replace(made.subject, program=None)).decide(0.1)
    assert "could not be exported" in found.rejection_reason


@pytest.mark.parametrize(("phase", "level"), [("conservative", "conservative"),
                                              ("moderate", "moderate")])  # fmt: skip
def test_the_cap_of_the_phase_holds_whatever_the_target(phase: Phase, level: str) -> None:
    # All dead: as much goes as may.
    importance: Importance = {"layers.0|neuron": (0.0,) * 64}
    found = chain().decide(0.9, phase, importance=importance)
    assert found.level == level
    assert found.statistics is not None
    units = int(CAPS[phase] * chain().parameters + 1e-6) // EACH
    assert found.statistics.channels in (units, units // 2)  # or half, where the gate said no
    assert found.statistics.sparsity_after <= CAPS[phase]


def test_what_went_before_counts() -> None:
    """The run began with more: only the rest of the target is left."""
    made = chain()
    run = TrainingRun(phase="aggressive", parameters=made.parameters + 5 * EACH)
    target = 12 * EACH / run.parameters
    found = made.decide(target, training=run)
    assert len(gone(found)["layers.0"]) == 7
    assert found.statistics is not None
    assert found.statistics.sparsity_before == pytest.approx(5 * EACH / run.parameters)
    assert found.statistics.sparsity_after == pytest.approx(target)


def test_after_a_fallback_half_the_step_and_channels_only() -> None:
    found = chain().decide(share(12), conservative=True)
    assert found.approved_for_application
    assert found.level == "conservative"
    assert len(gone(found)["layers.0"]) == 6
    assert set(gone(found)["layers.0"]) < set(DEAD)


def test_a_rejected_cut_comes_back_at_half_its_size() -> None:
    """Twelve are dead; the ten that are said to be next are the most important there are."""
    made = chain()
    own = made.importance["layers.0|neuron"]
    top = sorted(range(64), key=lambda u: -(own[u] or 0.0))[:10]
    said = {**dict.fromkeys(top, 1e-9), **dict.fromkeys(DEAD, 0.0)}
    lie = {"layers.0|neuron": tuple(said.get(u, v) for u, v in enumerate(own))}
    found = made.decide(share(22), importance=lie)
    assert found.safety.tried == 2
    assert found.approved_for_application
    assert set(gone(found)["layers.0"]) < set(DEAD), "eleven of the dead"
    once = replace(made, job=replace(made.job, settings=Settings(rounds=1)))
    found = once.decide(share(22), importance=lie)
    assert (found.safety.tried, found.approved_for_application) == (1, False)
    assert found.rejection_reason.startswith("rejected: quality")
    assert found.edit is None


def test_the_minima_of_the_configuration_hold() -> None:
    made = chain()
    raw = {"elesh": {"structured_pruning": {"channel_analysis": {"min_channels_per_layer": 60}}}}
    config = type(made.job.config).model_validate(raw)
    found = replace(made, job=replace(made.job, config=config)).decide(share(12))
    assert len(gone(found)["layers.0"]) == 4


@pytest.mark.parametrize(("mode", "approved"), [("remove", False), ("mask", True)])
def test_a_class_that_cannot_be_cut_can_be_masked(mode: Mode, approved: bool) -> None:
    found = written().decide(share(12), mode=mode)
    assert found.safety.verdict is not None
    assert found.safety.verdict.outcome == "accepted"
    assert found.edit is None
    assert found.approved_for_application is approved
    if not approved:
        assert found.rejection_reason.startswith("the class cannot be cut, zero-mask can still")
    assert found.masks.masks
    assert gone(found) == {"layers.0": DEAD}
    assert found.statistics is not None
    assert found.statistics.parameters_after == written().parameters - 12 * EACH


def test_what_is_held_at_zero_counts_as_gone_and_is_not_chosen_again() -> None:
    made = chain()
    subject = made.subject
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    first = made.decide(share(5), mode="mask")
    assert first.approved_for_application
    hold(subject.model, first.masks.masks)
    try:
        cuts = tuple(
            TensorCut(name=m.name, axis=m.axis, removed=m.removed) for m in first.masks.masks
        )
        held = Snapshot(epoch=105, masks=(ModuleEdit(cuts=cuts),))
        second = made.decide(share(12), mode="mask", snapshot=held)
        nothing = made.decide(share(5), mode="mask", snapshot=held)
        taken = made.decide(share(12), mode="remove", snapshot=held)
    finally:
        put_weights(subject.model, before)
    assert second.approved_for_application
    assert len(gone(first)["layers.0"]) == 5
    assert gone(second)["layers.0"] == tuple(u for u in DEAD if u not in gone(first)["layers.0"])
    assert second.statistics is not None
    assert second.statistics.sparsity_before == pytest.approx(share(5))
    assert second.statistics.sparsity_after == pytest.approx(share(12))
    assert "the target is" in nothing.rejection_reason
    assert gone(taken)["layers.0"] == DEAD, "a removal takes out what is held, too"


def test_counts_are_exact_where_places_share_a_weight() -> None:
    """Both layers lose neurons, and the weight between them rows and columns."""
    made = chain()
    every: Importance = {key: (0.0,) * 64 for key in ("layers.0|neuron", "layers.1|neuron")}
    task = DecideTask(
        id="d", snapshot=Snapshot(epoch=1), importance=every, pairs={}, target=0.2,
        training=TrainingRun(phase="aggressive", parameters=made.parameters),
        levels=("channels",), decision=made.decide(0.0),
    )  # fmt: skip
    limits = made.job.config.elesh.structured_pruning
    places = cuttable(made.subject, task, limits, made.job.settings, ("channels",))
    chosen = {"layers.0|neuron": (0, 1, 7), "layers.1|neuron": (2, 5)}
    left = 16 * 61 + 61 + 61 * 62 + 62 + 62 * 6 + 6
    assert parameters_left(places.parts, places.shapes, chosen) == left
