"""The page of a training run: what its checkpoints showed over the epochs, from their records."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from zsei.errors import UsageError
from zsei.records import AnalysisRecord, Finding, Measurement
from zsei.report import html
from zsei.report.curves_svg import Band, Chart, Curve, Mark, curves_svg

RUN = "training run"
"""What measurements of the run as a whole stand under (`zsei.checkpoint.record`)."""
LINES = 16
"""Layers drawn; of more, those that moved most."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A finding, with the epochs at which it stands."""

    finding: Finding
    first: int
    last: int
    times: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """A row of what happened."""

    epoch: int
    what: str
    outcome: str
    why: str


def write_run(records: Sequence[AnalysisRecord], path: Path) -> Path:
    """Write the page of a run; whole or not at all.

    Raises:
        UsageError: There is no record, or one stands beside no run or in another.
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return html.write_page(run_page(records), path)


def run_page(records: Sequence[AnalysisRecord]) -> str:
    """One self-contained page: curves with phases, cuts and rollbacks; findings; what happened.

    Raises:
        UsageError: There is no record, or one stands beside no run or in another.
    """
    ordered = _in_order(records)
    last = ordered[-1][1]
    stands = last.provenance.checkpoint
    assert stands is not None
    return _page(
        title=stands.run,
        kind="ZSEI training run",
        lead=f"{last.provenance.model_class}, {len(ordered)} checkpoints from epoch "
        f"{ordered[0][0]} to {ordered[-1][0]}",
        charts=charts(ordered),
        findings=findings_of(ordered),
        events=_events(ordered),
        made=last.provenance.zsei,
    )


def curves_page(title: str, charts: Sequence[Chart], *, lead: str = "") -> str:
    """A page of charts alone, such as the losses of runs with and without ZSEI beside them."""
    return _page(title=title, kind="ZSEI curves", lead=lead, charts=tuple(charts), findings=(),
                 events=(), made="")  # fmt: skip


def _page(
    *, title: str, kind: str, lead: str, charts: Sequence[Chart], findings: Sequence[Said],
    events: Sequence[Event], made: str,
) -> str:  # fmt: skip
    drawn = [(chart, curves_svg(chart)) for chart in charts]
    return html.page("run.html.j2", ("report.css", "prune.css", "run.css"), {
        "title": title, "kind": kind, "lead": lead, "charts": drawn, "findings": findings,
        "events": events, "made": made,
    })  # fmt: skip


def _in_order(records: Sequence[AnalysisRecord]) -> list[tuple[int, AnalysisRecord]]:
    """(epoch, record) by epoch; of an epoch that was analysed twice the later one given."""
    runs = {r.provenance.checkpoint.run if r.provenance.checkpoint else "" for r in records}
    if len(runs) != 1 or "" in runs:
        raise UsageError(
            "The page of a run takes the analyses of one training run, and got those of "
            f"{', '.join(sorted(name or 'none' for name in runs)) or 'nothing'}."
        )
    by_epoch = {r.provenance.checkpoint.epoch: r for r in records if r.provenance.checkpoint}
    return sorted(by_epoch.items())


def charts(ordered: Sequence[tuple[int, AnalysisRecord]]) -> tuple[Chart, ...]:
    """The series of a run; those that were never measured are left out."""
    bands, marks = _bands(ordered), _marks(ordered)
    whole = (
        ("Loss of the training run", ("training_loss",), "loss"),
        ("Accuracy of the training run", ("training_accuracy",), "share"),
        ("Sparsity: wanted and real", ("sparsity_wanted", "sparsity_real"), "share gone"),
        ("Parameters left", ("parameters_left",), "count"),
        ("Confidence of the analysis", ("analysis_confidence",), "confidence"),
        ("Agreement of the ranking with exact ablation", ("ranking_accuracy",), "Kendall"),
    )
    made = [
        Chart(title=title, unit=unit, bands=bands, marks=marks,
              curves=tuple(_curve(ordered, RUN, name, name.replace("_", " ")) for name in names))
        for title, names, unit in whole
    ]  # fmt: skip
    parts = (
        ("Importance of layers", "importance_share", "share of all layers", False),
        ("Gradient of layers", "gradient_rms", "root mean square", True),
        ("Learning efficiency", "learning_efficiency", "Δ loss per parameter", True),
        ("Block influence", "block_influence", "1 - cos", False),
    )
    for title, name, unit, logarithmic in parts:
        curves, left = _layers(ordered, name)
        note = f"The {LINES} that moved most; {left} more in the records." if left else ""
        made.append(
            Chart(title=title, curves=curves, unit=unit, bands=bands, marks=marks,
                  logarithmic=logarithmic, note=note)
        )  # fmt: skip
    return tuple(c for c in made if any(y is not None for v in c.curves for _, y in v.points))


def _curve(
    ordered: Sequence[tuple[int, AnalysisRecord]], component: str, metric: str, name: str
) -> Curve:
    found = ((epoch, record.measured(component, metric)) for epoch, record in ordered)
    return Curve(name=name, points=tuple((e, None if m is None else m.value) for e, m in found))


def _layers(
    ordered: Sequence[tuple[int, AnalysisRecord]], metric: str
) -> tuple[tuple[Curve, ...], int]:
    """Curves of the layers, or of the largest parts where layers have none; and how many more."""
    kinds: dict[str, str] = {}
    for _, record in ordered:
        kinds |= {c.id: c.kind for c in record.components}
    for wanted in (("layer",), ("attention", "mlp", "conv", "linear", "recurrent", "embedding")):
        curves = [
            _curve(ordered, name, metric, name) for name, kind in kinds.items() if kind in wanted
        ]
        curves = [c for c in curves if any(y is not None for _, y in c.points)]
        if curves:
            break
    else:
        return (), 0
    moved = sorted(curves, key=_range, reverse=True)[:LINES]
    kept = [c for c in curves if c in moved]
    return tuple(kept), len(curves) - len(kept)


def _range(curve: Curve) -> float:
    told = [y for _, y in curve.points if y is not None]
    return (max(told) - min(told)) / (abs(max(told, key=abs)) or 1.0)


def _of_run(record: AnalysisRecord, name: str) -> Measurement | None:
    return record.measured(RUN, name)


def _bands(ordered: Sequence[tuple[int, AnalysisRecord]]) -> tuple[Band, ...]:
    """Phases, from the note beside what the schedule wants."""
    found: list[Band] = []
    for epoch, record in ordered:
        wanted = _of_run(record, "sparsity_wanted")
        phase = wanted.note if wanted else ""
        if found and found[-1].name == phase:
            found[-1] = Band(first=found[-1].first, last=epoch, name=phase)
        else:
            found.append(Band(first=epoch, last=epoch, name=phase))
    return tuple(band for band in found if band.name)


def _marks(ordered: Sequence[tuple[int, AnalysisRecord]]) -> tuple[Mark, ...]:
    """Parameters that went or came back between two checkpoints, refusals and fallbacks."""
    marks: list[Mark] = []
    for (_, before), (epoch, after) in pairwise(ordered):
        change = _standing(after) - _standing(before)
        less = _parameters(before) - _parameters(after)
        if less > 0 or change > 0:
            marks.append(Mark(epoch=epoch, kind="cut", text=f"{less:.0f} parameters went"))
        elif less < 0 or change < 0:
            marks.append(Mark(epoch=epoch, kind="rollback", text=f"{-less:.0f} came back"))
    for epoch, record in ordered:
        refused = [v for v in record.verdicts if v.outcome in ("rejected", "inconclusive")]
        if refused:
            marks.append(Mark(epoch=epoch, kind="refused", text=refused[0].reason))
        fell = [f for f in record.failures if f.stage == "fallback"]
        if fell:
            marks.append(Mark(epoch=epoch, kind="fallback", text=fell[0].why))
    return tuple(marks)


def _parameters(record: AnalysisRecord) -> float:
    found = _of_run(record, "parameters_left")
    return found.value if found and found.value is not None else record.provenance.parameters


def _standing(record: AnalysisRecord) -> float:
    found = _of_run(record, "cuts_standing")
    return found.value if found and found.value is not None else 0.0


def findings_of(ordered: Sequence[tuple[int, AnalysisRecord]]) -> tuple[Said, ...]:
    """Findings said in the same words are one; those of the last epochs first."""
    found: dict[tuple[str, str], Said] = {}
    for epoch, record in ordered:
        for finding in record.findings:
            key = finding.code, finding.message
            known = found.get(key)
            found[key] = Said(
                finding=finding, first=known.first if known else epoch, last=epoch,
                times=known.times + 1 if known else 1,
            )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda s: (-s.last, -s.finding.severity, s.first)))


def _events(ordered: Sequence[tuple[int, AnalysisRecord]]) -> tuple[Event, ...]:
    """What was decided and what fell back, by epoch."""
    marks = {mark.epoch: mark for mark in _marks(ordered) if mark.kind in ("cut", "rollback")}
    rows: list[Event] = []
    for epoch, record in ordered:
        if epoch in marks:
            mark = marks[epoch]
            rows.append(Event(epoch=epoch, what=mark.text, outcome=mark.kind, why=""))
        reasons = {v.proposal_id: v for v in record.verdicts}
        for proposal in record.proposals:
            verdict = reasons.get(proposal.id)
            what = f"{proposal.strategy} on {', '.join(proposal.components)}"
            rows.append(
                Event(epoch=epoch, what=what, outcome=verdict.outcome if verdict else "not judged",
                      why=verdict.reason if verdict else "")
            )  # fmt: skip
        notes = record.validation.notes
        rows += [Event(epoch=epoch, what=note, outcome="", why="") for note in notes]
        rows += [
            Event(epoch=epoch, what=failure.what, outcome="fallback",
                  why=f"{failure.why}. {failure.fix}".strip(". ") + ".")
            for failure in record.failures
        ]  # fmt: skip
    return tuple(rows)
