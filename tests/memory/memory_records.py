"""Analyses made up for the tests of memory: real shapes, seeded random numbers, known truth."""

import hashlib
import random
import re
from collections.abc import Sequence

import numpy as np

from zsei.records import (
    AnalysisRecord,
    Component,
    ComponentKind,
    Conditions,
    Finding,
    Interpretation,
    Measurement,
    Outcome,
    Proposal,
    Provenance,
    Ranking,
    StageResult,
    Timings,
    Validation,
    Verdict,
    digest,
)

UNITS = {
    "ablation_effect": "1 - cos",
    "sensitivity": "",
    "effective_rank": "dimensions",
    "gradient_rms": "",
    "attention_entropy": "",
    "dead_units": "neurons",
}
BY_KIND: dict[str, tuple[str, ...]] = {
    "head": ("ablation_effect", "sensitivity", "attention_entropy"),
    "mlp": ("effective_rank", "gradient_rms", "dead_units"),
    "attention": ("effective_rank", "gradient_rms"),
    "layer": ("ablation_effect",),
}


class HashEmbedder:
    """Deterministic vectors from words: equal words, equal directions. Counts what it embeds."""

    fingerprint = "hashing-embedder-512"

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += len(texts)
        matrix = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"[a-z]{4,}", text.lower()):
                value = hashlib.sha256(word[:6].encode()).digest()
                matrix[row, int.from_bytes(value[:2]) % 511] += 1 if value[2] % 2 else -1
            matrix[row, 511] = 1e-3  # no vector without a direction
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def make_record(
    seed: int = 0,
    *,
    model: str = "demo:minilm",
    family: str = "bert",
    layers: int = 3,
    heads: int = 4,
    prefix: str = "encoder.layer",
    outcomes: Sequence[Outcome] = ("accepted", "rejected", "inconclusive"),
    redundant_layers: bool = True,
    created: str = "2026-01-01T00:00:00Z",
    extra: str = "",
) -> AnalysisRecord:
    """One whole analysis; everything in it follows from the arguments."""
    rng = random.Random(f"{seed}-{model}")
    components = make_components(prefix, layers, heads, rng)
    measurements = {
        component.id: tuple(
            Measurement(
                name=name,
                value=float(rng.randrange(0, 9)) if name == "dead_units" else rng.random(),
                unit=UNITS[name],
                std=None if name == "dead_units" else rng.random() / 10,
                n=0 if name == "dead_units" else 64,
            )
            for name in BY_KIND[component.kind]
        )
        for component in components
        if component.kind in BY_KIND
    }
    findings = make_findings(prefix, rng, redundant_layers)
    proposals = make_proposals(prefix, findings)[: len(outcomes)]
    verdicts = tuple(
        make_verdict(proposal, outcome, rng)
        for proposal, outcome in zip(proposals, outcomes, strict=True)
    )
    body = {"seed": seed, "model": model, "layers": layers, "heads": heads, "extra": extra}
    slow = Finding.make(
        code="critical-path-latency",
        components=(f"{prefix}.0/mlp", f"{prefix}.1/mlp"),
        severity=0.2,
        evidence=(Measurement(name="seconds", value=rng.random(), unit="s", n=5),),
        message="the longest path runs through the MLPs",
    )
    return AnalysisRecord(
        id=digest(body),
        provenance=Provenance(
            zsei="0.1.0",
            model=model,
            model_class=f"{family.title()}Model",
            family=family,
            model_hash=digest(model) * 5,
            parameters=rng.randrange(10_000, 99_999),
            fidelity="program",
            versions={"torch": "2.13"},
            seed=seed,
        ),
        conditions=Conditions(
            objective="fidelity",
            objective_reason="no labels were given",
            metric="1 - cos",
            groups={"prose": 32, "code": 32},
            calibration_samples=32,
            held_out_samples=32,
            input_shape={"input_ids": (16, 64)},
        ),
        components=components,
        measurements=measurements,
        findings=findings,
        interpretations=(
            Interpretation(
                id=f"i-{digest(body)}",
                agent="flow",
                voice="rules",
                finding_ids=(findings[0].id,),
                text="Information narrows in the middle of the network.",
            ),
        ),
        proposals=proposals,
        verdicts=verdicts,
        combined=make_verdict(proposals[0], "accepted", rng) if proposals else None,
        validation=Validation(rankings=(make_ranking(components, measurements),)),
        timings=Timings(
            created=created,
            components={f"{prefix}.0/mlp": rng.random(), f"{prefix}.1/mlp": rng.random()},
            latency={proposals[0].id: (0.91, 0.88, 0.95)} if proposals else {},
            findings=(slow,),
        ),
    )


def make_components(
    prefix: str, layers: int, heads: int, rng: random.Random
) -> tuple[Component, ...]:
    def part(
        suffix: str, kind: ComponentKind, layer: int, parent: str | None, index: int | None = None
    ) -> Component:
        name = f"{prefix}.{layer}{suffix}"
        return Component(
            id=name,
            kind=kind,
            path=name.replace("/", "."),
            layer=layer,
            parent=parent,
            index=index,
            parameters=rng.randrange(100, 999),
            flops=rng.randrange(10**9, 10**10),
        )

    made = []
    for layer in range(layers):
        whole = f"{prefix}.{layer}"
        made += [part("", "layer", layer, None), part("/attention", "attention", layer, whole)]
        made += [
            part(f"/head.{head}", "head", layer, f"{whole}/attention", head)
            for head in range(heads)
        ]
        made.append(part("/mlp", "mlp", layer, whole))
    return tuple(made)


def make_findings(prefix: str, rng: random.Random, redundant_layers: bool) -> tuple[Finding, ...]:
    def evidence(name: str) -> tuple[Measurement, ...]:
        return (Measurement(name=name, value=rng.random(), n=64),)

    found = [
        Finding.make(
            code="redundant-heads",
            components=(f"{prefix}.0/head.0", f"{prefix}.0/head.2"),
            severity=rng.random(),
            evidence=evidence("similarity"),
            message="two heads attend alike",
        ),
        Finding.make(
            code="redundant-heads",
            components=(f"{prefix}.1/head.0", f"{prefix}.1/head.1", f"{prefix}.1/head.3"),
            severity=rng.random(),
            evidence=evidence("similarity"),
            message="three heads attend alike",
        ),
        Finding.make(
            code="information-bottleneck",
            components=(f"{prefix}.1/mlp",),
            severity=rng.random(),
            evidence=evidence("effective_rank"),
            message="rank is lost inside this block",
        ),
        Finding.make(
            code="computational-bottleneck",
            components=(f"{prefix}.2/mlp",),
            severity=rng.random(),
            evidence=evidence("flops_share"),
            message="it takes more operations than its effect is worth",
        ),
    ]
    if redundant_layers:
        found.append(
            Finding.make(
                code="redundant-layers",
                components=(f"{prefix}.1", f"{prefix}.2"),
                severity=rng.random(),
                evidence=evidence("block_influence"),
                message="these layers hardly change the stream",
            )
        )
    return tuple(found)


def make_proposals(prefix: str, findings: Sequence[Finding]) -> tuple[Proposal, ...]:
    parts: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("prune-heads", (f"{prefix}.0/head.2",)),
        ("remove-layers", (f"{prefix}.1",)),
        ("prune-neurons", (f"{prefix}.2/mlp",)),
    )
    return tuple(
        Proposal.make(
            strategy=strategy,
            components=components,
            params={"share": 0.25},
            finding_ids=(findings[priority].id,),
            rationale=f"{strategy} follows from what was found",
            priority=priority,
        )
        for priority, (strategy, components) in enumerate(parts)
    )


def make_verdict(proposal: Proposal, outcome: Outcome, rng: random.Random) -> Verdict:
    def numbers(limit: str = "") -> tuple[Measurement, ...]:
        return (
            Measurement(name="divergence", value=rng.random(), unit="1 - cos", n=32, note=limit),
            Measurement(name="parameters", value=float(rng.randrange(100, 999))),
        )

    words = {
        "accepted": "every bound lies inside its limit",
        "rejected": "the divergence bound lies outside its limit",
        "inconclusive": "too few samples to tell",
    }
    failed = "passed" if outcome == "accepted" else "failed"
    return Verdict(
        proposal_id=proposal.id,
        outcome=outcome,
        before=numbers(),
        after=numbers(),
        bounds=numbers("limit 0.12"),
        stages=(StageResult(stage="quality", outcome=failed, detail="divergence"),),
        reason=words.get(outcome, "it does not apply here"),
    )


def make_ranking(
    components: Sequence[Component], measurements: dict[str, tuple[Measurement, ...]]
) -> Ranking:
    effects = {
        component.id: next(
            m.value for m in measurements[component.id] if m.name == "ablation_effect"
        )
        for component in components
        if component.kind == "head"
    }
    ordered = sorted(effects, key=lambda name: -(effects[name] or 0.0))
    return Ranking(
        kind="head",
        criterion="exact ablation",
        components=tuple(ordered),
        scores=tuple(effects[name] or 0.0 for name in ordered),
    )
