"""Two made-up training runs of eight checkpoints each, with known truth."""

import random

from memory_records import make_record

from zsei.assembly import sealed
from zsei.records import (
    AnalysisRecord,
    Checkpoint,
    Failure,
    Finding,
    Measurement,
    Proposal,
    Timings,
    Validation,
    Verdict,
)

EPOCHS = (10, 20, 30, 40, 50, 60, 70, 80)
RUN = "training run"


def checkpoint(run: str, epoch: int, seed: int) -> AnalysisRecord:
    """One checkpoint: shares of importance that move, findings, cuts and fallbacks by epoch."""
    rng = random.Random(f"{run}-{epoch}-{seed}")
    plain = make_record(seed, model=f"demo:{run}", family="gpt2", prefix="h", outcomes=())
    layers = [c.id for c in plain.components if c.kind == "layer"]
    measurements = dict(plain.measurements)
    for place in layers:
        share = Measurement(name="importance_share", value=rng.random(), unit="share of all layers")
        measurements[place] = (*measurements[place], share)
    measurements[RUN] = (
        Measurement(name="training_loss", value=3 - epoch / 40 + rng.random() / 9),
        Measurement(name="sparsity_wanted", value=epoch / 1000, unit="share"),
        Measurement(name="sparsity_real", value=epoch / 1100, unit="share"),
        Measurement(name="parameters_left", value=10_000 - 10 * epoch, unit="count"),
    )
    findings = []
    if run == "gpt" and epoch >= 50:
        findings.append(
            dying("h.1/mlp", "Neurons 3, 5 of h.1/mlp do next to nothing any more.", epoch)
        )
    if run == "gpt" and epoch >= 70:
        findings.append(
            dying("h.2/mlp", "Neuron 8 of h.2/mlp does next to nothing any more.", epoch)
        )
    proposals, verdicts, notes = (), (), ()
    if run == "gpt" and epoch == 60:
        cut = Proposal.make(
            strategy="prune-neurons", components=("h.1/mlp",), params={"neurons": [3, 5]},
            rationale="the schedule of the run asked for it at epoch 60",
        )  # fmt: skip
        proposals = (cut,)
        verdicts = (
            Verdict(
                proposal_id=cut.id, outcome="accepted", reason="the bound 0.004 is below 0.02",
                after=(Measurement(name="divergence", value=0.0031, n=32),),
            ),
        )  # fmt: skip
    if run == "gpt" and epoch == 70:
        notes = ("Nothing was approved: the breaker is open after three failures in a row",)
    failures = ()
    if (run, epoch) in {("gpt", 30), ("cnn", 40)}:
        failures = (
            Failure(stage="fallback", what="the analysis fell back",
                    why=f"layers 0 to 1 took longer than 300 s at epoch {epoch}",
                    fix="Instead: measured by the size of their weights"),
        )  # fmt: skip
    record = plain.model_copy(
        update={
            "provenance": plain.provenance.model_copy(
                update={"checkpoint": Checkpoint(run=run, epoch=epoch, step=100 * epoch)}
            ),
            "measurements": measurements,
            "findings": tuple(findings),
            "interpretations": (),
            "proposals": proposals,
            "verdicts": verdicts,
            "combined": None,
            "validation": Validation(notes=notes),
            "failures": failures,
        }
    )
    return sealed(record, Timings(created=f"2026-02-0{1 + (run == 'cnn')}T00:00:{epoch:02d}Z"))


def dying(component: str, message: str, epoch: int) -> Finding:
    evidence = (Measurement(name="turned_units", value=2, unit="count", n=epoch),)
    return Finding.make(
        code="component-dying", components=(component,), severity=0.3, evidence=evidence,
        message=message,
    )  # fmt: skip


GPT = tuple(checkpoint("gpt", epoch, 1) for epoch in EPOCHS)
CNN = tuple(checkpoint("cnn", epoch, 2) for epoch in EPOCHS)
