"""Fitted proposals through the gate, together with others, and carried out again from a record."""

import json
from pathlib import Path

import pytest
import torch
import zoo
from torch import nn

import zsei
from zsei import pipeline
from zsei.assembly import sealed
from zsei.errors import SurgeryRefused, UsageError
from zsei.gate.evidence import measure_size
from zsei.gate.result import Outcome
from zsei.gate.rounds import Bench, try_all
from zsei.gate.together import edits_of, merge
from zsei.records import AnalysisRecord, Proposal
from zsei.settings import Settings
from zsei.strategies import find_strategy
from zsei.strategies.candidates import explicit
from zsei.strategies.fitted import fitted, kept_values, read_tensor, together
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.apply import apply_edits
from zsei.surgery.edits import BypassLayer, RemoveUnits, ReplaceLayer

LOOSE = Settings(min_channels=4, min_heads=1, max_layer_share=1.0)


def wasteful() -> tuple[nn.Module, torch.Tensor]:
    """A transformer with waste of every kind: copies of neurons, a thin weight, a linear block."""
    model, data, *_ = zoo.duplicate_neurons()
    block = model.get_submodule("blocks.2")
    with torch.no_grad():
        for name in ("attention.output", "mlp.down"):
            block.get_parameter(f"{name}.weight").zero_()
        weight = model.get_parameter("blocks.1.mlp.up.weight")
        factors = [torch.randn(s, generator=torch.Generator().manual_seed(1)) for s in
                   ((64, 4), (4, 32))]  # fmt: skip
        weight.copy_(factors[0] @ factors[1] / 12)
    return model, data


def proposals_for(subject: Subject) -> dict[str, Proposal]:
    asked = {
        "merge": ("merge-neurons", ("blocks.0/mlp",), {}),
        "thin": ("factorise-linear", ("blocks.1.mlp.up",), {"rank": 4}),
        "map": ("replace-layer", ("blocks.2",), {}),
        "heads": ("prune-heads", ("blocks.0/head.1",), {}),
        "neurons": ("prune-neurons", ("blocks.1/mlp",), {"units": [[1, 2, 3]]}),
        "same neurons": ("prune-neurons", ("blocks.0/mlp",), {"units": [[11, 20]]}),
        "inside": ("prune-neurons", ("blocks.2/mlp",), {"units": [[5]]}),
    }
    return {
        name: explicit(
            subject, {}, Proposal.make(strategy=strategy, components=components, params=params)
        )
        for name, (strategy, components, params) in asked.items()
    }


@pytest.fixture(scope="module")
def subject() -> Subject:
    model, data = wasteful()
    return prepare(model, data, settings=Settings(samples=64, batch_size=16))


@pytest.mark.long
def test_an_analysis_carries_fitted_values_to_apply(tmp_path: Path) -> None:
    model, data = wasteful()
    settings = Settings(
        samples=48, batch_size=12, home=tmp_path, rounds=1, max_proposals=4, ablation_sample=2,
        probes=1, random_paths=0, halves=False, max_layer_share=0.5, min_channels=4, bootstrap=200,
    )  # fmt: skip
    record = zsei.analyze(model, data, settings=settings)
    accepted = {
        proposal.strategy: proposal for proposal in record.accepted()
        if set(proposal.components) <= {"blocks.0/mlp", "blocks.2"}
    }  # fmt: skip
    assert {"merge-neurons", "replace-layer"} <= accepted.keys(), [
        (p.strategy, p.components, v.outcome, v.reason)
        for p, v in zip(record.proposals, record.verdicts, strict=True)
    ]
    again = AnalysisRecord.model_validate_json(record.model_dump_json())
    assert again == record
    x = data[:8]
    for strategy in ("merge-neurons", "replace-layer"):
        smaller = zsei.apply(again, model, [accepted[strategy].id])
        sizes = [sum(p.numel() for p in m.parameters()) for m in (smaller, model)]
        assert sizes[0] < sizes[1]
        with torch.no_grad():
            assert (smaller(x) - model(x)).abs().max() < 1e-4
    mine = accepted["merge-neurons"].id
    smaller = zsei.apply(again, model, [mine])
    value = smaller.get_parameter("blocks.0.mlp.down.bias").detach()
    raw = read_tensor(record.fitted[mine]["blocks.0.mlp.down.bias"])
    assert torch.equal(value, raw)
    lost = sealed(again.model_copy(update={"fitted": {}}), again.timings)
    with pytest.raises(UsageError, match="kept only when the gate accepts"):
        pipeline.edit(lost, model, [mine])
    assert json.loads(record.model_dump_json())["fitted"].keys() <= {p.id for p in record.proposals}


@pytest.mark.long
def test_the_gate_measures_them_with_their_values(subject: Subject) -> None:
    asked = proposals_for(subject)
    found = [asked[name] for name in ("merge", "thin", "map")]
    settings = Settings(
        min_channels=4, max_layer_share=0.5, bootstrap=200, rounds=1, safety="aggressive"
    )
    outcome = Outcome()
    try_all(Bench(subject=subject, scores={}, means={}, settings=settings), found, outcome)
    verdicts = {p.id: outcome.trials[p.id].verdict for p in found}
    assert {v.outcome for v in verdicts.values()} == {"accepted"}, verdicts
    assert outcome.fitted.keys() == verdicts.keys()
    assert outcome.combined is not None
    assert outcome.combined.verdict.outcome == "accepted", outcome.combined.verdict.reason
    assert kept_values(outcome.fitted).keys() == verdicts.keys()
    # The same without its values is another model, and is judged as such.
    edits = find_strategy("factorise-linear").edits(subject.anatomy, {}, asked["thin"], settings)
    with pytest.raises(SurgeryRefused, match="values must come with them"):
        apply_edits(subject, edits)


@pytest.mark.parametrize("heads", [True, False])
def test_all_kinds_go_together(subject: Subject, heads: bool) -> None:
    """As the original with heads and neurons at zero: the fitted ones change nothing."""
    asked = proposals_for(subject)
    kinds = ("neurons", "merge", "thin", "map", "inside", *(("heads",) if heads else ()))
    chosen = [asked[name] for name in kinds]
    assert subject.program is not None
    edits, kind = edits_of(subject, chosen, {}, LOOSE)
    assert kind == "layers"
    assert not any("blocks.2/" in edit.site.component for edit in edits)
    size = measure_size(edits, subject.anatomy)
    assert (size.layers_removed, size.linears_thinned) == (1, 1)
    assert sum(cut.removed for cut in size.cuts) == 4 + 3 + (1 if heads else 0)
    parts = [
        fitted(subject, p, find_strategy(p.strategy).edits(subject.anatomy, {}, p, LOOSE))
        for p in chosen
    ]
    edited = apply_edits(subject, edits, None, together(subject.program, edits, parts, {}))
    # That its heads make up the whole width stands in the class's own code.
    assert edited.form == ("program" if heads else "module"), edited.note
    model, _ = wasteful()
    with torch.no_grad():
        if heads:
            model.get_parameter("blocks.0.attention.output.weight")[:, 8:16] = 0
        model.get_parameter("blocks.1.mlp.down.weight")[:, 1:4] = 0
        for batch in subject.held_out:
            wanted, found = model(*batch.inputs), edited.model(*batch.inputs)
            assert (found - wanted).abs().max() < 1e-4


def test_what_others_name_too_goes_once(subject: Subject) -> None:
    asked = proposals_for(subject)
    edits, _ = edits_of(subject, [asked["merge"], asked["same neurons"]], {}, LOOSE)
    units = {edit.merged: edit.units for edit in edits if isinstance(edit, RemoveUnits)}
    assert units == {True: (10, 11, 12, 13), False: (20,)}
    site = next(site for site in subject.anatomy.sites if site.component == "blocks.2")
    both = [ReplaceLayer(site=site, form="linear"), BypassLayer(site=site)]
    assert merge(both) == (both[0],)


def test_two_fits_of_one_weight_are_not_applied_together(subject: Subject) -> None:
    asked = proposals_for(subject)
    other = replace_rank(asked["thin"], 5)
    assert subject.program is not None
    edits, _ = edits_of(subject, [asked["thin"]], {}, LOOSE)
    parts = [
        fitted(subject, p, find_strategy(p.strategy).edits(subject.anatomy, {}, p, LOOSE))
        for p in (asked["thin"], other)
    ]
    with pytest.raises(SurgeryRefused, match=r"blocks\.1\.mlp\.up\.\d\.\w+. new values"):
        together(subject.program, edits, parts, {})


def replace_rank(proposal: Proposal, rank: int) -> Proposal:
    return Proposal.make(
        strategy=proposal.strategy, components=proposal.components, params={"rank": rank}
    )


@pytest.mark.long
def test_means_are_folded_into_the_bias_of_factors(subject: Subject) -> None:
    """A neuron held at its mean, whose reader is factorised: the mean is in the factors' bias."""
    assert subject.program is not None
    site = subject.anatomy.site("blocks.1/mlp", "neuron")
    assert site is not None
    thin = explicit(
        subject, {}, Proposal.make(
            strategy="factorise-linear", components=("blocks.1.mlp.down",), params={"rank": 20}
        ),
    )  # fmt: skip
    own = find_strategy(thin.strategy).edits(subject.anatomy, {}, thin, LOOSE)
    edits = (RemoveUnits(site=site, units=(0, 7)), *own)
    means = {("blocks.1/mlp", "neuron"): torch.full((1, 1, 64), 0.3)}
    parts = [fitted(subject, thin, own)]
    edited = apply_edits(
        subject, edits, means, together(subject.program, edits, parts, means)
    )  # fmt: skip
    assert edited.form == "module", edited.note
    whole = apply_edits(subject, own, None, together(subject.program, own, parts, {})).model
    down = whole.get_submodule("blocks.1.mlp.down")

    def hold(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        held = given[0].clone()
        held[..., [0, 7]] = 0.3
        return (held,)

    down.register_forward_pre_hook(hold)
    original = subject.model.get_submodule("blocks.1.mlp.down")
    # The mean's share is taken from the original weight, as the gate's folding does.
    lost = original.weight[:, [0, 7]].sum(1) * 0.3 - (  # type: ignore[index]
        (down[1].weight @ down[0].weight)[:, [0, 7]].sum(1) * 0.3  # type: ignore[index]
    )
    with torch.no_grad():
        down[1].bias += lost  # type: ignore[index]
        for batch in subject.held_out:
            found, wanted = edited.model(*batch.inputs), whole(*batch.inputs)
            assert (found - wanted).abs().max() < 1e-4
