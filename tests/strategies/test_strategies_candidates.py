"""Candidates can be executed, say truly what they bring, and get smaller when rejected."""

from functools import cache

import factories
import pytest
import torch
import zoo

from zsei.records import Proposal
from zsei.settings import Settings
from zsei.strategies import find_strategy
from zsei.strategies.candidates import candidates, shrink
from zsei.strategies.replace_layer import errors_left
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.edits import Edit, RemoveUnits, ReplaceLayer
from zsei.surgery.program_form import edit_program
from zsei.trace.run import trace

SETTINGS = Settings(min_heads=1, min_channels=4, max_layer_share=0.5)
SIZES = Settings(samples=8, batch_size=4)
Scores = dict[tuple[str, str], tuple[float, ...]]


@cache
def subject(family: str) -> Subject:
    return prepare(*factories.FAMILIES[family](), settings=SIZES)


def scores_of(found: Subject, scale: float = 1e-3) -> Scores:
    """Seeded random scores for every unit of every site."""
    generator = torch.Generator().manual_seed(5)
    return {
        (site.component, site.kind): tuple(
            (torch.rand(site.units, generator=generator).double() * scale).tolist()
        )
        for site in found.anatomy.sites
    }


def edits_of(found: Subject, scores: Scores, proposal: Proposal) -> tuple[Edit, ...]:
    return find_strategy(proposal.strategy).edits(found.anatomy, scores, proposal, SETTINGS)


def expected(proposal: Proposal, name: str) -> float | None:
    return next((m.value for m in proposal.expected if m.name == name), None)


def parameters(program) -> int:
    read = {str(n.target) for n in program.graph_module.graph.nodes if n.op == "get_attr"}
    held = dict(program.graph_module.named_parameters())
    return sum(tensor.numel() for name, tensor in held.items() if name in read)


@pytest.mark.parametrize(
    "family", ["bert", pytest.param("llama", marks=pytest.mark.long), "resnet"]
)
def test_candidates_bring_what_they_say(family: str) -> None:
    found = subject(family)
    assert found.program is not None
    scores = scores_of(found)
    proposals = candidates(found, scores, SETTINGS)
    assert 3 <= len(proposals) <= 24
    assert len({p.id for p in proposals}) == len(proposals)
    kinds = {"bert": 4, "llama": 4, "resnet": 3}
    assert len({p.strategy for p in proposals}) == kinds[family]
    full = parameters(found.program)
    for proposal in proposals:
        edits = edits_of(found, scores, proposal)
        edited = edit_program(found.program, edits)
        assert edited(*found.calibration[0].inputs).isfinite().all()
        assert full - parameters(edited) == expected(proposal, "parameters_removed") > 0
        share = expected(proposal, "flops_removed_share")
        assert share is not None
        assert 0 < share < 1
        loss = sum(
            sum(scores[edit.site.component, edit.site.kind][unit] for unit in units)
            for edit in edits
            for units in [edit.units if isinstance(edit, RemoveUnits) else (0,)]
        )
        if isinstance(edits[0], ReplaceLayer):
            # What is left of the error when a fitted map, not nothing, takes the layer's place.
            (left,) = errors_left(found, [edits[0]])
            assert left is not None
            assert left >= 0
            loss *= left
        assert expected(proposal, "predicted_loss") == pytest.approx(loss, rel=1e-9)


def test_the_same_scores_give_the_same_candidates() -> None:
    found = subject("bert")
    scores = scores_of(found)
    first = candidates(found, scores, SETTINGS)
    again = candidates(found, dict(reversed(scores.items())), SETTINGS)
    assert [p.model_dump_json() for p in first] == [p.model_dump_json() for p in again]


def test_grouped_queries_are_proposed_in_whole_groups() -> None:
    found = subject("llama")
    proposals = candidates(found, scores_of(found), SETTINGS)
    heads = [p for p in proposals if p.strategy == "prune-heads"]
    assert heads
    for proposal in heads:
        for component in proposal.components:
            base, _, number = component.rpartition(".")
            partner = f"{base}.{int(number) ^ 1}"
            assert partner in proposal.components


def test_minima_hold_in_every_candidate() -> None:
    found = subject("bert")
    strict = Settings(min_heads=3, min_channels=60, max_layer_share=0.5)
    free = {key: (0.0,) * len(values) for key, values in scores_of(found).items()}
    proposals = candidates(found, free, strict)
    assert proposals
    for proposal in proposals:
        for edit in find_strategy(proposal.strategy).edits(found.anatomy, free, proposal, strict):
            if isinstance(edit, RemoveUnits):
                left = edit.site.units - len(edit.units)
                assert left >= (3 if edit.site.kind == "head" else 60)


def test_without_a_program_or_scores_there_is_nothing_to_propose() -> None:
    from dataclasses import replace

    found = subject("bert")
    assert candidates(replace(found, program=None), scores_of(found), SETTINGS) == ()
    assert candidates(found, {}, SETTINGS) == ()


@pytest.mark.parametrize("family", ["bert", "llama", "resnet"])
def test_a_rejected_proposal_comes_back_as_its_least_important_half(family: str) -> None:
    found = subject(family)
    scores = scores_of(found)
    seen = 0
    for proposal in candidates(found, scores, SETTINGS):
        steps = 0
        while (smaller := shrink(found, scores, proposal)) is not None:
            before, after = (
                _units(edits_of(found, scores, p), scores) for p in (proposal, smaller)
            )
            assert after.keys() < before.keys()
            gone = [before[unit] for unit in before.keys() - after.keys()]
            if family != "llama":  # whole groups are halved by their sums
                assert max(after.values()) <= min(gone)
            assert len(after) <= len(before) / 2
            assert smaller.finding_ids == proposal.finding_ids
            proposal, steps = smaller, steps + 1
            assert steps < 12
        seen += steps
    assert seen > 3


def _units(edits: tuple[Edit, ...], scores: Scores) -> dict[tuple[str, int], float]:
    return {
        (edit.site.component, unit): scores[edit.site.component, edit.site.kind][unit]
        for edit in edits
        if isinstance(edit, RemoveUnits)
        for unit in edit.units
    }


def test_a_single_unit_cannot_shrink() -> None:
    found = subject("bert")
    scores = scores_of(found)
    for proposal in (
        Proposal.make(strategy="prune-heads", components=("encoder.layer.0/head.1",)),
        Proposal.make(
            strategy="prune-neurons", components=("encoder.layer.0/mlp",), params={"units": [[4]]}
        ),
        Proposal.make(strategy="remove-layer", components=("encoder.layer.0",)),
    ):
        assert shrink(found, scores, proposal) is None


def test_what_is_planted_is_proposed() -> None:
    """Copies of neurons are to be merged, and a thin weight to be factorised; twins are not."""
    for planted, name in ((zoo.duplicate_neurons, "merge-neurons"), (_thin, "factorise-linear")):
        for defect in (True, False):
            model, data, _, component, *_ = planted(defect)
            made = prepare(model, data, settings=Settings(samples=24, batch_size=12))
            alike = {}
            if name == "merge-neurons":
                traced = trace(made, Settings(samples=24, probes=1), clock=False)
                alike = {key: units.duplicates for key, units in traced.units.items()}
            proposals = candidates(made, scores_of(made), SETTINGS, alike)
            found = [p for p in proposals if p.strategy == name and component in p.components]
            assert bool(found) == defect, [p.strategy for p in proposals]
            if defect and name == "merge-neurons":
                assert found[0].params == {"groups": [[[3, 10, 11, 12, 13]]]}
                assert expected(found[0], "predicted_loss") == pytest.approx(0, abs=1e-6)


def _thin(planted: bool) -> zoo.Planted:
    model, data, *_ = zoo.low_rank_weight(planted)
    return zoo.Planted(model, data, "", "layers.1")
