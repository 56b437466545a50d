"""A small, complete record made by hand: an encoder of two layers with four heads each."""

from zsei.records import (
    AnalysisRecord,
    Component,
    Conditions,
    CriterionCheck,
    Finding,
    FlowData,
    GraphEdge,
    GraphNode,
    Measurement,
    Proposal,
    Provenance,
    Ranking,
    Validation,
    Verdict,
)

HEADS = [f"encoder.layer.{layer}/head.{head}" for layer in (0, 1) for head in range(4)]
EFFECTS = (0.0412, 0.0031, 0.0208, 0.0009, 0.0154, 0.0007, 0.0122, 0.0301)
"""Ablation effect of each head, in the order of `HEADS`."""


def m(name: str, value: float | None, unit: str = "", note: str = "") -> Measurement:
    state = "measured" if value is not None else "could not tell"
    return Measurement(name=name, value=value, unit=unit, n=32, state=state, note=note)


def components() -> tuple[Component, ...]:
    found = [Component(id="embeddings", kind="embedding", path="embeddings", parameters=12_000)]
    for layer in (0, 1):
        name = f"encoder.layer.{layer}"
        attention = f"{name}/attention"
        found += [
            Component(id=name, kind="layer", path=name, layer=layer),
            Component(
                id=attention, kind="attention", path=f"{name}.attention", layer=layer, parent=name,
                parameters=4_160, flops=300_000, bytes=8_192, width=32, units=4,
            ),
            Component(
                id=f"{name}/mlp", kind="mlp", path=f"{name}.mlp", layer=layer, parent=name,
                parameters=8_352 - 100 * layer, flops=524_288 - 1_000 * layer, bytes=8_192,
                width=32, units=128,
            ),
        ]  # fmt: skip
        found += [
            Component(
                id=f"{name}/head.{head}", kind="head", path=f"{name}.attention", layer=layer,
                parent=attention, index=head, parameters=1_040, flops=75_000,
            )
            for head in range(4)
        ]  # fmt: skip
    found.append(Component(id="output", kind="output", path="", bytes=256))
    return tuple(found)


def measurements() -> dict[str, tuple[Measurement, ...]]:
    taken = {
        "encoder.layer.0/attention": (
            m("flops_share", 0.182, "share"), m("effective_rank", 18.4, "dimensions"),
        ),
        "encoder.layer.1/attention": (
            m("flops_share", 0.181, "share"), m("effective_rank", 9.2, "dimensions"),
        ),
        "encoder.layer.0/mlp": (
            m("flops_share", 0.319, "share"), m("effective_rank", 21.7, "dimensions"),
            m("dead_units", 3, "count"), m("branch_to_stream", 0.41, "ratio"),
        ),
        "encoder.layer.1/mlp": (
            m("flops_share", 0.318, "share"), m("effective_rank", None, "dimensions"),
            m("dead_units", 0, "count"), m("branch_to_stream", 0.22, "ratio"),
        ),
    }  # fmt: skip
    taken["output"] = (m("rms", 0.05103), m("bytes", 256, "bytes per sample"))
    for name, effect in zip(HEADS, EFFECTS, strict=True):
        taken[name] = (
            m("ablation_effect", effect, "1 - cos"),
            m("sensitivity", effect * 1.07, "predicted divergence"),
            m("attention_entropy", 0.9 - 10 * effect, "share"),
        )
    return taken


def findings() -> tuple[Finding, ...]:
    return (
        Finding.make(
            code="computational-bottleneck",
            components=("encoder.layer.0/mlp", "encoder.layer.1/mlp"),
            severity=0.41,
            evidence=(
                m("flops_share", 0.319, "share", "encoder.layer.0/mlp"),
                m("criticality_share", 0.0812, "share", "encoder.layer.0/mlp"),
                m("flops_share", 0.318, "share", "encoder.layer.1/mlp"),
                m("criticality_share", 0.1474, "share", "encoder.layer.1/mlp"),
            ),
            message="Both MLPs cost far more than removing each of them would change.",
        ),
        Finding.make(
            code="redundant-heads",
            components=(HEADS[1], HEADS[3]),
            severity=0.25,
            evidence=(
                m("head_similarity", 0.973, "cosine"),
                m("ablation_effect", EFFECTS[1], "1 - cos", HEADS[1]),
                m("ablation_effect", EFFECTS[3], "1 - cos", HEADS[3]),
                m("joint_effect", 0.0187, "1 - cos"),
                m("interaction", 0.0147, "1 - cos"),
            ),
            message="Two heads write nearly the same.",
        ),
        Finding.make(
            code="critical-path-information",
            components=("embeddings", "encoder.layer.0", "encoder.layer.1/mlp", "encoder.layer.1"),
            severity=0.0,
            evidence=(m("path_share", 0.288, "share"), m("path_length", 4, "count")),
            message="Path 1 carries 29 % of the flow over 4 nodes.",
        ),
        Finding.make(
            code="information-bottleneck",
            components=("encoder.layer.1/attention",),
            severity=0.5,
            evidence=(m("rank_lost", 0.5, "share"), m("rank_leaving", None, "dimensions")),
            message="Half of the rank is lost.",
        ),
    )


def candidates() -> tuple[Proposal, ...]:
    """Three edits; by gain per loss the neurons come first, then the heads, then the layer."""

    def candidate(
        strategy: str, where: str, parameters: int, flops: float, loss: float | None
    ) -> Proposal:
        return Proposal.make(
            strategy=strategy,
            components=(where,),
            params={"units": [1, 3]},
            finding_ids=(findings()[1].id,) if strategy == "prune-heads" else (),
            expected=(
                m("parameters_removed", parameters, "count"),
                m("flops_removed_share", flops, "share"),
                m("predicted_loss", loss, "1 - cos"),
            ),
        )

    return (
        candidate("remove-layer", "encoder.layer.1", 12_412, 0.499, 0.31),
        candidate("prune-heads", "encoder.layer.0/attention", 2_080, 0.091, 0.0187),
        candidate("prune-neurons", "encoder.layer.0/mlp", 195, 0.0075, 0.0004),
        candidate("prune-channels", "embeddings", 500, 0.02, None),
    )


def verdict(proposal: Proposal) -> Verdict:
    return Verdict(
        proposal_id=proposal.id,
        outcome="rejected",
        after=(m("divergence", 0.2345, "1 - cos"),),
        reason="the mean divergence may be 0.12",
    )


def record(**changes: object) -> AnalysisRecord:
    """The record, with some of its fields changed."""
    edge = GraphEdge(
        source="embeddings", target="encoder.layer.0", attributes={"share": 0.71, "attribution": 2}
    )
    whole = AnalysisRecord(
        id="r-0123456789ab",
        provenance=Provenance(
            zsei="0", model="tiny-bert-2", model_class="BertModel", family="bert",
            model_hash="00", parameters=36_924, fidelity="program", versions={}, seed=0,
        ),
        conditions=Conditions(
            objective="fidelity", objective_reason="no labels", metric="1 - cos",
            groups={"prose": 20, "code": 12}, calibration_samples=32, held_out_samples=24,
            input_shape={"input_ids": (32, 16)}, probes=4,
        ),
        components=components(),
        measurements=measurements(),
        flow=FlowData(nodes=(GraphNode(id="embeddings", kind="embedding"),), edges=(edge,)),
        findings=findings(),
        validation=Validation(
            criteria=(
                CriterionCheck(kind="head", criterion="output sensitivity", kendall=0.857,
                               spearman=0.952, top_hits=1.0, n=8, status="validated"),
                CriterionCheck(kind="head", criterion="half of the samples (noise of the truth)",
                               kendall=0.93, spearman=0.98, top_hits=1.0, n=8,
                               status="validated"),
                CriterionCheck(kind="channel", criterion="magnitude", kendall=0.31, spearman=0.44,
                               top_hits=0.5, n=24, status="not validated"),
                CriterionCheck(kind="layer", criterion="taylor", kendall=None, spearman=None,
                               top_hits=None, n=2, status="could not tell"),
            ),
            rankings=(
                Ranking(kind="head", criterion="output sensitivity",
                        components=(HEADS[0], HEADS[7]), scores=(0.0412, 0.0301)),
            ),
        ),
    )  # fmt: skip
    return whole.model_copy(update=changes)
