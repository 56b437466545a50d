"""Forty analyses of twenty models over six months, made up; and three that were really done."""

import random
from collections.abc import Callable, Sequence
from datetime import date

from memory_records import BY_KIND, UNITS, make_components

from zsei.records import (
    AnalysisRecord,
    Component,
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

TODAY = date(2026, 6, 15)  # a Monday

MODELS: tuple[tuple[str, str, str, int, int, tuple[str, ...]], ...] = (
    ("demo:minilm", "bert", "encoder.layer", 4, 8,
     ("2026-01-05", "2026-03-04", "2026-03-20", "2026-05-02", "2026-06-10")),
    ("tiny-gpt2", "gpt2", "h", 4, 4, ("2026-01-12", "2026-02-14", "2026-04-01", "2026-06-01")),
    ("vit-digits", "vit", "blocks", 3, 4, ("2026-02-01", "2026-03-15", "2026-05-20")),
    ("acme/roberta-base", "roberta", "encoder.layer", 3, 4, ("2026-02-20", "2026-04-18")),
    ("tiny-llama", "llama", "model.layers", 4, 4, ("2026-01-20", "2026-03-28", "2026-06-12")),
    ("distilbert-sst2", "distilbert", "transformer.layer", 3, 4, ("2026-02-08", "2026-05-11")),
    ("qwen-nano", "qwen2", "model.layers", 3, 2, ("2026-03-09", "2026-05-30")),
    ("mistral-mini", "mistral", "model.layers", 3, 4, ("2026-04-07", "2026-06-03")),
    ("t5-small", "t5", "encoder.block", 3, 4, ("2026-01-30", "2026-04-22")),
    ("whisper-tiny", "whisper", "encoder.layers", 3, 3, ("2026-02-27", "2026-05-06")),
    ("deit-small", "deit", "blocks", 3, 3, ("2026-03-02", "2026-04-29")),
    ("dinov2-base", "dinov2", "encoder.layer", 3, 4, ("2026-04-12",)),
    ("gpt-neo-125m", "gpt_neo", "transformer.h", 4, 3, ("2026-01-25", "2026-05-15")),
    ("phi-mini", "phi", "model.layers", 3, 4, ("2026-03-24",)),
    ("bart-toy", "bart", "encoder.layers", 3, 4, ("2026-02-11",)),
    ("patchtst-energy", "patchtst", "encoder.layers", 3, 2, ("2026-05-25",)),
    ("electra-small", "electra", "encoder.layer", 3, 4, ("2026-01-16", "2026-06-05")),
    ("starcoder-nano", "starcoder2", "model.layers", 3, 4, ("2026-04-26",)),
    ("hubert-base", "hubert", "encoder.layers", 3, 4, ("2026-03-11",)),
    ("models/fraud_detector.pt", "TabTransformer", "transformer.blocks", 3, 2, ("2026-05-18",)),
)  # fmt: skip
SAFETY = ("conservative", "moderate", "aggressive")
OBJECTIVES = ("fidelity", "causal-lm", "classification", "masked-lm")

REJECTIONS = (
    "the accuracy drop on the group code lies above its limit",
    "divergence on long inputs is larger than allowed",
    "perplexity on held-out prose rises too far",
    "outputs for padded rows change, which nothing may",
    "rare classes are confused far more often afterwards",
)
OTHERS: dict[Outcome, str] = {
    "accepted": "every bound lies inside its limit",
    "inconclusive": "too few held-out samples to bound the loss",
    "inapplicable": "the stream changes its width there, so nothing can be taken out",
    "failed": "the edited program raised an error on the second batch",
}
EDITS: tuple[tuple[str, str], ...] = (
    ("prune-heads", "the head repeats what its neighbour already attends to"),
    ("remove-layer", "what enters the layer leaves it nearly unchanged"),
    ("prune-neurons", "many of its neurons never fire"),
    ("merge-neurons", "pairs of neurons answer alike to every sample"),
    ("factorise-linear", "the weight matrix has far fewer directions than columns"),
)
CAUSES: tuple[tuple[str, str, str, str], ...] = (
    ("redundant-heads", "head2", "similarity", "{0} and {1} attend to the same tokens."),
    ("information-bottleneck", "mlp", "effective_rank",
     "fewer directions leave {0} than reach it: rank is lost there."),
    ("computational-bottleneck", "mlp", "flops_share",
     "{0} takes a larger share of the operations than its effect is worth."),
    ("dead-units", "mlp", "dead_units", "neurons of {0} never fire on any sample."),
    ("gradient-flow", "layer", "gradient_rms",
     "gradients shrink on their way down: little of them reaches {0}."),
    ("redundant-layers", "layer", "block_influence",
     "{0} hardly turns the residual stream; what enters leaves it."),
    ("low-effect", "head", "ablation_effect", "removing {0} changes almost nothing."),
    ("memory-bottleneck", "attention", "bytes_share",
     "{0} moves more bytes per operation than any other part."),
    ("saturated-units", "mlp", "saturation",
     "units of {0} sit at the flat end of their activation function."),
    ("context-bottleneck", "attention", "window",
     "the answer rests on the nearest tokens; {0} ignores the distant ones."),
)  # fmt: skip


def made_up() -> tuple[AnalysisRecord, ...]:
    """All made-up analyses, the oldest first."""
    dated = [
        (day, model, family, prefix, layers, heads)
        for model, family, prefix, layers, heads, days in MODELS
        for day in days
    ]
    return tuple(_analysis(number, *about) for number, about in enumerate(sorted(dated)))


def _analysis(
    number: int, day: str, model: str, family: str, prefix: str, layers: int, heads: int
) -> AnalysisRecord:
    rng = random.Random(f"{model}-{day}")
    components = make_components(prefix, layers, heads, rng)
    by_kind: dict[str, list[Component]] = {}
    for component in components:
        by_kind.setdefault(component.kind, []).append(component)
    measurements = {
        c.id: tuple(_measured(name, rng) for name in BY_KIND[c.kind])
        for c in components
        if c.kind in BY_KIND
    }
    untold = by_kind["attention"][-1].id
    measurements[untold] = tuple(
        m.model_copy(update={"value": None, "std": None, "state": "could not tell"})
        if m.name == "gradient_rms" and number % 3 == 0
        else m
        for m in measurements[untold]
    )
    findings = tuple(
        _finding(CAUSES[(number * 3 + step) % len(CAUSES)], by_kind, rng) for step in range(4)
    )
    proposals = tuple(
        _proposal(EDITS[(number + step) % len(EDITS)], step, findings, by_kind, rng)
        for step in range(3)
    )
    outcomes: Sequence[Outcome] = (
        ("accepted", "rejected", "rejected"),
        ("rejected", "accepted", "inconclusive"),
        ("rejected", "rejected", "inapplicable"),
        ("accepted", "accepted", "failed"),
    )[number % 4]  # type: ignore[assignment]
    verdicts = tuple(
        _verdict(p, o, number + step, rng)
        for step, (p, o) in enumerate(zip(proposals, outcomes, strict=True))
    )
    effects = {
        c.id: next(m.value or 0.0 for m in measurements[c.id] if m.name == "ablation_effect")
        for c in by_kind["head"]
    }
    ordered = sorted(effects, key=lambda name: -effects[name])
    body = {"model": model, "day": day}
    return AnalysisRecord(
        id=f"r-{digest(body)}",
        provenance=Provenance(
            zsei="0.1.0", model=model, model_class=f"{family.title().replace('_', '')}Model",
            family=family, model_hash=digest(model) * 5, parameters=rng.randrange(10**5, 10**7),
            fidelity="program", versions={"torch": "2.13"}, seed=number % 5,
        ),
        conditions=Conditions(
            objective=OBJECTIVES[number % 4], objective_reason="as its head asks",
            metric="1 - cos" if number % 2 else "KL (nats)", safety=SAFETY[number % 3],  # type: ignore[arg-type]
            groups={"prose": 32, "code": 16 + number}, calibration_samples=16 + number,
            held_out_samples=32, input_shape={"input_ids": (16, 64)},
        ),
        components=components,
        measurements=measurements,
        findings=findings,
        interpretations=(
            Interpretation(
                id=f"i-{digest(body)}", agent="flow", voice="rules",
                finding_ids=(findings[0].id,),
                text=f"What matters most is named first: {findings[0].message}",
            ),
        ),
        proposals=proposals,
        verdicts=verdicts,
        validation=Validation(
            rankings=(
                Ranking(
                    kind="head", criterion="exact ablation", components=tuple(ordered),
                    scores=tuple(effects[name] for name in ordered),
                ),
            )
        ),
        timings=Timings(
            created=f"{day}T09:{number:02d}:00Z",
            components={c.id: rng.random() for c in by_kind["mlp"]},
            latency={proposals[0].id: (rng.random(), 0.5, 1.5)},
        ),
    )  # fmt: skip


def _measured(name: str, rng: random.Random) -> Measurement:
    if name == "dead_units":
        return Measurement(name=name, value=float(rng.randrange(9)), unit=UNITS[name])
    return Measurement(name=name, value=rng.random(), unit=UNITS[name], std=rng.random() / 9, n=64)


def _finding(
    cause: tuple[str, str, str, str], by_kind: dict[str, list[Component]], rng: random.Random
) -> Finding:
    code, where, metric, message = cause
    two = where == "head2"
    chosen = rng.sample(by_kind["head" if two else where], 2 if two else 1)
    names = tuple(component.id for component in chosen)
    return Finding.make(
        code=code, components=names, severity=rng.random(), message=message.format(*names),
        evidence=(Measurement(name=metric, value=rng.random(), n=64),),
    )  # fmt: skip


def _proposal(
    edit: tuple[str, str], priority: int, findings: Sequence[Finding],
    by_kind: dict[str, list[Component]], rng: random.Random,
) -> Proposal:  # fmt: skip
    strategy, rationale = edit
    kind = {"prune-heads": "head", "remove-layer": "layer"}.get(strategy, "mlp")
    return Proposal.make(
        strategy=strategy, components=(rng.choice(by_kind[kind]).id,), params={"share": 0.25},
        finding_ids=(findings[priority].id,), rationale=rationale, priority=priority,
    )  # fmt: skip


def _verdict(proposal: Proposal, outcome: Outcome, number: int, rng: random.Random) -> Verdict:
    def numbers(note: str = "") -> tuple[Measurement, ...]:
        return (
            Measurement(name="divergence", value=rng.random(), unit="1 - cos", n=32, note=note),
            Measurement(name="parameters", value=float(rng.randrange(1000, 9999))),
        )

    reason = REJECTIONS[number % 5] if outcome == "rejected" else OTHERS[outcome]
    judged = outcome in ("accepted", "rejected", "inconclusive")
    return Verdict(
        proposal_id=proposal.id, outcome=outcome, reason=f"{outcome}: {reason}",
        before=numbers() if judged else (), after=numbers() if judged else (),
        bounds=numbers("limit 0.12") if judged else (),
        stages=(
            StageResult(
                stage="quality", detail="divergence",
                outcome="passed" if outcome == "accepted" else "failed",
            ),
        ),
    )  # fmt: skip


class World:
    """The analyses, for a person who looks things up by hand."""

    def __init__(self, records: Sequence[AnalysisRecord]) -> None:
        self.records = tuple(sorted(records, key=lambda r: r.timings.created, reverse=True))

    def of(self, *models: str) -> list[AnalysisRecord]:
        """Analyses of models by their whole name, the last first."""
        found = [r for r in self.records if r.provenance.model in models]
        assert {r.provenance.model for r in found} == set(models)
        return found

    def families(self, *families: str) -> list[AnalysisRecord]:
        """Analyses of families, the last first."""
        return [r for r in self.records if r.provenance.family in families]

    def on(self, model: str, day: str) -> AnalysisRecord:
        """The analysis of a model on a day."""
        (found,) = (r for r in self.of(model) if r.timings.created.startswith(day))
        return found

    def between(self, first: str, after: str) -> list[AnalysisRecord]:
        """Analyses from a day on and before another."""
        return [r for r in self.records if first <= r.timings.created < after]

    def where(self, holds: Callable[[AnalysisRecord], bool]) -> list[AnalysisRecord]:
        """Analyses for which something holds."""
        return [r for r in self.records if holds(r)]
