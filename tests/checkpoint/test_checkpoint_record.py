import sys
from pathlib import Path

import pytest
from memory.memory_records import HashEmbedder, make_record

from zsei.assembly import sealed
from zsei.checkpoint.contracts import (
    AttentionHeadTarget,
    ChannelPruningTarget,
    CheckpointMetadata,
    PrunedArchitecture,
    PruningStatistics,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.measure.combine import Combined
from zsei.checkpoint.record import RUN, checkpoint_record
from zsei.memory.check import check
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Finding, Measurement, Timings, Verdict

PLAIN = make_record(3, prefix="h", layers=2, heads=2)


def request(epoch: int = 7, parameters: int = 900) -> StructuralAnalysisRequest:
    return StructuralAnalysisRequest(
        request_id="r", idempotency_key="k",
        checkpoint=CheckpointMetadata(
            run="gpt", epoch=epoch, step=70, weights="w.safetensors", loss=1.5
        ),
        architecture=PrunedArchitecture(
            model_class="GPT", parameters=parameters, original_parameters=1000, applied=("d-1",)
        ),
    )  # fmt: skip


def combined(**changes) -> Combined:
    values = {
        "importance": {
            "h.0/mlp|neuron": (0.25, 0.15, 0.1), "h.1/mlp|neuron": (0.3, 0.2, None),
            "h.0/attention|head": (0.7, 0.3), "h.0|layer": (0.6,), "h.1|layer": (0.4,),
        },
        "pairs": {}, "sites": (), "measurements": {"h.0": (Measurement(name="rms", value=1.0),)},
        "components": PLAIN.components, "provenance": PLAIN.provenance,
        "conditions": PLAIN.conditions,
    }  # fmt: skip
    return Combined(**(values | changes))


def decision(**changes) -> StructuralPruningDecision:
    values = {
        "decision_id": "d-2", "idempotency_key": "k", "request_id": "r", "run": "gpt", "epoch": 7,
        "safety": SafetyValidation(phase="conservative"),
        "statistics": PruningStatistics(
            parameters_before=900, parameters_after=880, original_parameters=1000,
            sparsity_before=0.1, sparsity_after=0.12, sparsity_wanted=0.13,
        ),
    }  # fmt: skip
    return StructuralPruningDecision(**(values | changes))


NEURONS = ChannelPruningTarget(
    layer_name="h.0/mlp", kind="neuron", channel_indices=(1, 2), channel_importance=(0.1, 0.2)
)
HEADS = AttentionHeadTarget(layer_name="h.0/attention", head_indices=(1,), head_importance=(0.3,))
JUDGED = Verdict(proposal_id="x", outcome="accepted", reason="the bound 0.01 is below 0.02",
                 after=(Measurement(name="loss", value=1.51, n=8),))  # fmt: skip


def made(*args, **options) -> AnalysisRecord:
    record = checkpoint_record(*args, **options)
    assert record is not None
    return record


def value(record: AnalysisRecord, component: str, name: str) -> float | None:
    found = record.measured(component, name)
    assert found is not None
    return found.value


def test_shares_of_importance_are_sums_over_the_units_of_a_place() -> None:
    record = made(combined(), (), request(), None)
    assert value(record, "h.0/mlp", "importance_share") == pytest.approx(0.5)
    assert value(record, "h.0/head.1", "importance_share") == pytest.approx(0.3)
    assert value(record, "h.1", "importance_share") == pytest.approx(0.4)
    missing = record.measured("h.1/mlp", "importance_share")
    assert missing is not None
    assert (missing.value, missing.state) == (None, "could not tell")
    assert record.measured("h.0", "rms") is not None


def test_the_run_stands_in_the_record_and_what_was_not_measured_does_not() -> None:
    record = made(combined(), (), request(), decision())
    assert record.provenance.checkpoint is not None
    stands = record.provenance.checkpoint
    assert (stands.run, stands.epoch, stands.step) == ("gpt", 7, 70)
    assert value(record, RUN, "training_loss") == 1.5
    assert record.measured(RUN, "training_accuracy") is None
    assert value(record, RUN, "sparsity_real") == pytest.approx(0.1)
    wanted = record.measured(RUN, "sparsity_wanted")
    assert wanted is not None
    assert (wanted.value, wanted.note) == (0.13, "conservative")
    assert value(record, RUN, "cuts_standing") == 1


def test_the_id_knows_no_clock_and_all_else() -> None:
    first = made(combined(), (), request(), decision(), created="now", seconds={"measure": 1.0})
    again = made(combined(), (), request(), decision(), created="then", seconds={"measure": 2.0})
    other = made(combined(), (), request(epoch=8), decision())
    assert first.id == again.id != other.id
    assert first.without_timings() == again.without_timings()


def test_analyses_beside_no_run_keep_the_ids_they_had() -> None:
    """The id is that of the version before records could stand in a run."""
    assert sealed(PINNED, Timings()).id == "r-38e1ddd8c1cb"


PINNED = make_record(3)


def test_a_decision_becomes_proposals_and_the_gates_verdict() -> None:
    safety = SafetyValidation(phase="conservative", verdict=JUDGED)
    one = made(combined(), (), request(), decision(channels=(NEURONS,), safety=safety))
    (proposal,) = one.proposals
    assert (proposal.strategy, proposal.components) == ("prune-neurons", ("h.0/mlp",))
    assert proposal.params == {"neurons": [1, 2]}
    assert one.accepted() == (proposal,)
    assert one.combined is None
    both = decision(channels=(NEURONS,), attention_heads=(HEADS,), safety=safety)
    record = made(combined(), (), request(), both)
    assert [p.strategy for p in record.proposals] == ["prune-neurons", "prune-heads"]
    assert record.proposals[1].components == ("h.0/head.1",)
    assert record.combined is not None
    assert record.combined.proposal_id == "+".join(p.id for p in record.proposals)
    assert all("judged together with 1 more" in v.reason for v in record.verdicts)
    unasked = made(combined(), (), request(), decision(channels=(NEURONS,)))
    assert [v.outcome for v in unasked.verdicts] == ["inapplicable"]
    assert unasked.accepted() == ()


def test_every_fallback_and_every_refusal_is_in_the_record() -> None:
    told = decision(
        fallbacks=("layers 0 to 1 timed out: measured by their weights",), confidence=0.5,
        depth="basic", rejection_reason="the breaker is open",
    )  # fmt: skip
    record = made(combined(notes=("no gradients",)), (), request(), told)
    assert [(f.why, f.fix) for f in record.failures] == [
        ("no gradients", ""),
        ("layers 0 to 1 timed out", "Instead: measured by their weights"),
    ]
    assert record.validation.notes == ("Nothing was approved: the breaker is open",)
    confidence = record.measured(RUN, "analysis_confidence")
    assert confidence is not None
    assert (confidence.value, confidence.note) == (0.5, "basic")


def test_where_nothing_was_measured_the_record_before_says_what_it_is_of() -> None:
    before = made(combined(), (), request(), None)
    record = made(None, (), request(epoch=8), decision(depth="previous"), before=before)
    assert record.components == before.components
    assert set(record.measurements) == {RUN}
    assert checkpoint_record(None, (), request(), None) is None


def test_a_cut_that_renames_leaves_the_names_of_the_beginning() -> None:
    """Without layer 0, layer 0 is what was layer 1, and head 0 what was head 1."""
    names = {c.id: c.id.replace("h.1", "h.3").replace("head.0", "head.1") for c in PLAIN.components
             if c.id.startswith("h.1") and "head.1" not in c.id}  # fmt: skip
    record = made(combined(), (), request(), None, original=names)
    layer = record.component("h.3")
    assert layer.layer == 3
    assert value(record, "h.3", "importance_share") == pytest.approx(0.4)
    head = record.component("h.3/head.1")
    assert (head.parent, head.index, head.layer) == ("h.3/attention", 1, 3)


def test_it_goes_into_memory_and_comes_back(tmp_path: Path) -> None:
    finding = Finding.make(
        code="component-dying", components=("h.0/mlp",), severity=0.5, message="dying",
        evidence=(Measurement(name="turned_units", value=1, n=9),),
    )  # fmt: skip
    record = made(combined(), (finding,), request(), decision(channels=(NEURONS,)))
    memory = Memory(tmp_path, embedder=HashEmbedder())
    memory.add(record)
    assert memory.get("gpt@7") == record
    assert not check(tmp_path).damaged
    assert sys.getsizeof(record.model_dump_json()) < 40_000
