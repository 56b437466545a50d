"""The verdict: a pure function of measurements and settings. No text reaches it."""

from typing import Literal

import numpy as np

from zsei.gate.cost import Cost
from zsei.gate.criteria import spearman
from zsei.gate.evidence import Evidence
from zsei.gate.quality import Quality
from zsei.gate.stages import Answer, Case, Stage, saving, stages_of
from zsei.gate.statistics import Floats
from zsei.records import Measurement, Outcome, StageResult, Verdict
from zsei.settings import Settings


def judge(evidence: Evidence, limits: tuple[float, float], settings: Settings) -> Verdict:
    """Decide about one edit.

    Stages are asked in order and the first that says no decides; what was not measured by then is
    not asked for. Accepted means that every stage was measured and none said no: every bound lies
    inside its limit. A bound outside is *rejected*, too few samples for one are *inconclusive*.

    Args:
        evidence: What was measured.
        limits: Largest (accuracy drop, relative loss increase), under fidelity
            (1 - agreement, mean divergence).
        settings: Resamples, confidence, seed and the sizes that must be left.

    Returns:
        A verdict without the proposal's id, which the judge does not know.
    """
    case = Case(evidence=evidence, limits=limits, settings=settings)
    answers = _ask(case)
    decisive = _decisive(answers)
    outcome: Outcome = "accepted"
    reason = ""
    if decisive is None:
        reason = _merits(case)
    else:
        stage, answer, detail = decisive
        outcome = stage.failure if answer == "failed" else "inconclusive"
        reason = f"{stage.name}: {detail}"
    results = [
        _result(stage.name, "skipped", SKIPPED)
        if answer == "missing" and (stage, answer, detail) != decisive
        else _result(stage.name, answer, detail)
        for stage, answer, detail in answers
    ]
    results += [_result(s.name, "skipped", SKIPPED) for s in stages_of(case)[len(answers) :]]
    return Verdict(
        proposal_id="",
        outcome=outcome,
        before=_before(evidence),
        after=_after(evidence),
        bounds=tuple(bounded.measurement() for bounded in case.bounds),
        stages=tuple(results),
        reason=f"{outcome}: {reason}",
    )


def missing_stage(
    evidence: Evidence, limits: tuple[float, float], settings: Settings
) -> str | None:
    """The stage that waits for its evidence; None when the verdict stands without more.

    So nothing is measured that could no longer turn a no into a yes.
    """
    answers = _ask(Case(evidence=evidence, limits=limits, settings=settings))
    decisive = _decisive(answers)
    return decisive[0].name if decisive and decisive[1] == "missing" else None


SKIPPED = "another stage decided"
_Answered = tuple[Stage, Answer, str]


def _ask(case: Case) -> list[_Answered]:
    """The answers of the stages, up to the first that says no."""
    answers = []
    for stage in stages_of(case):
        answer, detail = stage.check(case)
        answers.append((stage, answer, detail))
        if answer in ("failed", "inconclusive"):
            break
    return answers


def _decisive(answers: list[_Answered]) -> _Answered | None:
    """The stage that keeps the edit from being accepted: the one that said no, else the first
    that could not say anything; None when all let it pass.
    """
    if answers[-1][1] in ("failed", "inconclusive"):
        return answers[-1]
    return next((answered for answered in answers if answered[1] == "missing"), None)


def refused(outcome: Literal["inapplicable", "failed"], proposal_id: str, reason: str) -> Verdict:
    """The verdict on what could not be tried, or broke. It is always a no."""
    return Verdict(proposal_id=proposal_id, outcome=outcome, reason=f"{outcome}: {reason}")


def _result(stage: str, answer: Answer, detail: str) -> StageResult:
    outcome = "inconclusive" if answer == "missing" else answer
    return StageResult(stage=stage, outcome=outcome, detail=detail)


def _merits(case: Case) -> str:
    before, after = case.evidence.before, case.evidence.after
    assert after is not None  # the cost stage has passed
    texts = [bounded.text() for bounded in case.bounds]
    for name, was, now in (
        ("parameters", before.parameters, after.parameters),
        ("operations", before.flops, after.flops),
    ):
        if was != now:
            texts.append(f"{saving(was, now)} {name}")
    return "; ".join(texts)


def _costs(cost: Cost) -> tuple[Measurement, ...]:
    return (
        Measurement(name="parameters", value=cost.parameters),
        Measurement(name="flops", value=cost.flops, unit="operations per sample"),
        Measurement(name="activation_bytes", value=cost.activation_bytes, unit="bytes per sample"),
        Measurement(name="peak_bytes", value=cost.peak_bytes, unit="bytes per sample"),
        Measurement(name="weight_bytes", value=cost.weight_bytes, unit="bytes"),
    )


def _sample(name: str, values: Floats, unit: str = "") -> Measurement:
    return Measurement(
        name=name, value=float(values.mean()), unit=unit, std=float(values.std()), n=len(values)
    )


def _before(evidence: Evidence) -> tuple[Measurement, ...]:
    quality = evidence.quality
    return (*_costs(evidence.before), *(scored(quality, 0) if quality and quality.n else ()))


def _after(evidence: Evidence) -> tuple[Measurement, ...]:
    quality = evidence.quality
    found = () if evidence.after is None else _costs(evidence.after)
    return found if quality is None or quality.n == 0 else (*found, *answered(quality))


def answered(quality: Quality) -> tuple[Measurement, ...]:
    """What became of the answers: divergence, agreement, loss and score."""
    unit = {"logits": "nats", "embedding": "1 - cos", "values": "relative L2"}[quality.output]
    tail = float(np.quantile(quality.divergence, 0.95))
    worst = float(quality.divergence.max())
    return (
        _sample("divergence", quality.divergence, unit),
        Measurement(
            name="divergence_p95", value=tail, unit=unit, n=quality.n,
            note="what 5 % of the samples exceed: the 5th percentile of quality",
        ),
        Measurement(name="divergence_worst", value=worst, unit=unit, n=quality.n),
        _sample("agreement", quality.agreement) if quality.agreement is not None
        else Measurement(
            name="agreement", value=None, state="could not tell", n=quality.n,
            note="outputs that decide nothing cannot agree",
        ),
        *scored(quality, 1),
    )  # fmt: skip


def scored(quality: Quality, side: Literal[0, 1]) -> tuple[Measurement, ...]:
    """Loss and score of the original (side 0) or of the edited model (side 1)."""
    step = quality.stride
    found = []
    if quality.loss is not None:
        found.append(_sample("loss", quality.loss[side][::step]))
    if quality.correct is not None:
        found.append(_sample("accuracy", quality.correct[side][::step]))
    if quality.similarity is not None:
        gold, cosine = quality.similarity[0][::step], quality.similarity[1 + side][::step]
        value = float(spearman(cosine[None], gold[None])[0])
        found.append(Measurement(name="spearman", value=value, n=len(gold)))
    return tuple(found)
