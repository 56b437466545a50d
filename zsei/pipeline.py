"""An analysis from model to verdict, and what can be done with its record.

`analyze` is the table of contents of ZSEI: each line is a stage, and each stage is a folder.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from zsei.advice.advise import interpret
from zsei.advice.loop import take_turns, with_words
from zsei.analyzers import ANALYZERS, run_analyzers
from zsei.analyzers.check_instrumentation import overhead_remark
from zsei.analyzers.context import Analysis
from zsei.analyzers.validate import validate
from zsei.assembly import draft_record, sealed, with_verdicts
from zsei.clock import Clock, Progress
from zsei.errors import UsageError
from zsei.gate.audit import audit_key, audited
from zsei.gate.result import Outcome, offered
from zsei.gate.rounds import Bench, time_best
from zsei.gate.sandbox import verify_unchanged
from zsei.gate.together import edits_of
from zsei.graph.build import build_graph
from zsei.graph.export import write_graphml, write_json
from zsei.importance.ranking import rank
from zsei.llm import CallRecord, open_line
from zsei.measures import MEASURES
from zsei.memory import Memory, ask_memory, cards_of
from zsei.records import AnalysisRecord, Answer, Failure, Finding, Proposal, Timings
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.strategies.candidates import candidates
from zsei.strategies.fitted import together, values_of
from zsei.strategies.scores import removal_scores
from zsei.subject.again import means_of, subject_again
from zsei.subject.prepare import prepare
from zsei.subject.seeded import seeded
from zsei.subject.streamed import fitted, too_large_to_copy
from zsei.subject.types import Subject
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.recipe import RECIPE
from zsei.surgery.save import load as load_edited
from zsei.surgery.save import save as save_edited
from zsei.trace.engine import engine_for
from zsei.trace.run import trace, without_undefined

LATENCY_PAIRS = 7
"""Timed pairs for what is accepted in the end."""
BEFORE_GATE = 0.5
"""Share of the budget that tests of the analysis itself may reach into; the rest is the gate's."""


def analyze(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    objective: str = "auto",
    settings: Settings | None = None,
    progress: Progress | None = None,
    profile: bool = False,
) -> AnalysisRecord:
    """Measure a model, explain it, propose changes and let the gate judge them.

    Args:
        model: `demo:minilm` (also None), a Hugging Face folder or hub name, a
            `package.module:factory`, a `.pt2` file, or any `nn.Module`. It is never changed.
        data: Texts, tensors, (x, y), a dict of tensors, a DataLoader, a `datasets` object, a path,
            or a mapping of group names to any of these; None takes the default for text models.
        objective: `auto`, `fidelity`, `causal-lm`, `masked-lm`, `classification`, `regression` or
            `similarity`.
        settings: Everything else; None reads `zsei.toml` and `ZSEI_*`.
        progress: Called with (stage, share done, seconds remaining or None, note).
        profile: Whether to add a profile (`zsei.profile`) of the first batch to `timings`.

    Returns:
        The record. It is also kept in memory (`settings.home`), where `ask` finds it; should that
        fail, the record says so in `failures` and is returned all the same.

    Raises:
        ZseiError: With the rule, what arrived and the likely fix.
    """
    settings = settings or Settings()
    memory = Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url)
    cards = load_cards(settings)
    line = open_line(settings)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = Clock(progress, settings.budget)
    with seeded(settings):
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
            settings, _ = fitted(settings, subject.model)
            engine = engine_for(subject)
        with clock.stage("trace") as report:
            traced = trace(subject, settings, engine=engine, measures=MEASURES, progress=report)
            subject = without_undefined(subject, traced)
            flow = build_graph(subject, traced)
        with clock.stage("importance") as report:
            importance = rank(subject, engine, traced, settings, flow=flow, progress=report)
        analysis = Analysis(
            subject=subject, engine=engine, trace=traced, flow=flow, importance=importance,
            settings=settings,
        )  # fmt: skip
        with clock.stage("analyze"):
            findings, clock_findings, failures = run_analyzers(analysis)
        with clock.stage("validate"):
            tested = validate(
                analysis, findings, analyzers=ANALYZERS, measures=MEASURES,
                out_of_time=lambda: clock.out_of_time(BEFORE_GATE),
            )  # fmt: skip
        record = draft_record(
            analysis, tested.findings, (*failures, *tested.failures), cards=cards.hashes(),
            checks=tested.checks,
        )  # fmt: skip
        with clock.stage("advise"):
            record = with_words(record, interpret(record, cards, line))
            bench = _bench(analysis, clock)
            possible = _possible(analysis, bench)
        with clock.stage("gate") as report:
            record, outcome = take_turns(record, possible, bench, cards, line, report)
            time_best(bench, outcome, LATENCY_PAIRS)
        verify_unchanged(subject)
        profiled = _profiled(subject, settings) if profile else None
    record = with_verdicts(record, outcome, analysis)
    timings = _timings(started, clock, traced.seconds, traced.overhead, outcome, clock_findings)
    timings = timings.model_copy(update={"profile": profiled})
    calls = line.log if line is not None else ()
    return remember(sealed(record, timings), settings, memory=memory, calls=calls)


def _bench(analysis: Analysis, clock: Clock) -> Bench:
    """Where proposals are tried."""
    subject = analysis.subject
    return Bench(
        subject=subject,
        scores=removal_scores(subject, analysis.trace, analysis.importance),
        means=analysis.trace.means,
        settings=analysis.settings,
        out_of_time=clock.out_of_time,
        closed=too_large_to_copy(subject.model),
    )


def _possible(analysis: Analysis, bench: Bench) -> tuple[Proposal, ...]:
    """What could be tried."""
    alike = {site: units.duplicates for site, units in analysis.trace.units.items()}
    return candidates(bench.subject, bench.scores, bench.settings, alike)


def _timings(
    started: str, clock: Clock, components: Any, overhead: float | None, outcome: Outcome,
    findings: Sequence[Finding],
) -> Timings:  # fmt: skip
    return Timings(
        created=started,
        stages=clock.seconds,
        components={name: seconds for name, seconds in components.items() if seconds > 0},
        overhead=overhead,
        latency=outcome.latency,
        findings=tuple(findings),
        remarks=overhead_remark(overhead),
    )


def _profiled(subject: Subject, settings: Settings) -> dict[str, Any]:
    """The profile of an analysed model, as JSON."""
    from zsei.profiling.profile import SHARES, profile_subject
    from zsei.timing.device import find_device

    clock = Clock(None, None, SHARES)
    found = profile_subject(subject, find_device("cpu"), settings, clock)
    return found.model_copy(update={"timings": clock.seconds}).model_dump(mode="json")


def remember(
    record: AnalysisRecord,
    settings: Settings | None = None,
    *,
    memory: Memory | None = None,
    calls: Sequence[CallRecord] = (),
) -> AnalysisRecord:
    """Keep a record in memory; a failure to do so becomes part of the record that is returned."""
    settings = settings or Settings()
    try:
        memory = memory or Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url)
        memory.add(record)
        memory.log_calls(calls, record.id)
        _audit(record, settings)
    except Exception as error:
        failure = Failure(
            stage="memory",
            what="the record was not kept in memory",
            why=str(error),
            fix="save it with zsei.save or --out, then free the disk or mend the folder",
        )
        return record.model_copy(update={"failures": (*record.failures, failure)})
    return record


def _audit(record: AnalysisRecord, settings: Settings) -> None:
    """File every verdict in the append-only log; a record filed before changes nothing."""
    for verdict in (*record.verdicts, *((record.combined,) if record.combined else ())):
        key = audit_key(
            epoch=0,
            model_hash=record.provenance.model_hash,
            decision_id=f"{record.id}/{verdict.proposal_id}",
            level=record.conditions.safety,
        )
        audited(settings.home / "audit.jsonl", key, lambda verdict=verdict: verdict)


def save(record: AnalysisRecord, folder: Path | str) -> dict[str, Path]:
    """Write record.json, flow.graphml, flow.json and report.html into a folder."""
    from zsei.report import html

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return {
        "record": path,
        "graphml": write_graphml(record.flow, folder / "flow.graphml"),
        "json": write_json(record.flow, folder / "flow.json"),
        "report": html.write(record, folder / "report.html"),
    }


def ask(question: str, *, settings: Settings | None = None) -> Answer:
    """Answer a question about the analyses in memory, with the rows and runs behind the answer."""
    settings = settings or Settings()
    cards = load_cards(settings)
    memory = Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url)
    return ask_memory(
        question, memory, line=open_line(settings), knowledge=cards_of(cards), cards=cards
    )


def apply(
    record: AnalysisRecord,
    model: str | nn.Module | None = None,
    strategies: Literal["accepted"] | Sequence[str] = "accepted",
) -> nn.Module:
    """A smaller copy of a model: the record's proposals, physically carried out.

    Args:
        record: An analysis of that very model (its hash is compared).
        model: The model, as for `analyze`; None loads it by the name in the record.
        strategies: "accepted" for the accepted set that saves most, which is nearly always
            everything the gate accepted together; or ids of proposals.
    """
    return edit(record, model, strategies).model


def edit(
    record: AnalysisRecord,
    model: str | nn.Module | None = None,
    strategies: str | Sequence[str] = "accepted",
    *,
    settings: Settings | None = None,
) -> EditedModel:
    """As `apply`, with all that is needed to save the result (`save_model`)."""
    settings = settings or Settings()
    proposals = chosen(record, strategies)
    subject = subject_again(record, model, settings)
    # The minima of the analysis were enforced when the gate judged; those in force now are others.
    free = settings.model_copy(update={"min_heads": 1, "min_channels": 1, "max_layer_share": 1.0})
    edits, _ = edits_of(subject, proposals, {}, free)
    means, values = means_of(record, subject), values_of(record, proposals)
    weights = {} if subject.program is None else together(subject.program, edits, values, means)
    return apply_edits(subject, edits, means, weights)


def save_model(edited: EditedModel, folder: Path | str) -> Path:
    """Save an edited model so that `load` (and, where its config allows, transformers) loads it."""
    save_edited(edited, folder)
    return Path(folder)


def chosen(record: AnalysisRecord, strategies: str | Sequence[str]) -> list[Proposal]:
    """The proposals to carry out."""
    if strategies == "accepted":
        found = offered(record.verdicts, record.combined)
        strategies = found.proposal_id.split("+") if found else []
        if not strategies:
            raise UsageError(
                f"Only what the gate accepted is applied, and it accepted nothing in {record.id}. "
                f"Name proposals by id to apply them all the same."
            )
    elif isinstance(strategies, str):
        strategies = [strategies]
    known = {proposal.id: proposal for proposal in record.proposals}
    unknown = [name for name in strategies if name not in known]
    if unknown:
        raise UsageError(
            f"Proposals of {record.id} are {', '.join(known) or 'none'}; {', '.join(unknown)} is "
            f"none of them."
        )
    return [known[name] for name in dict.fromkeys(strategies)]


def load(
    folder: Path | str | nn.Module,
    *,
    speed: Path | str | None = None,
    any_model: bool = False,
) -> nn.Module:
    """A model that was saved by `zsei apply` or `save_model`, or one with its speed-ups applied.

    No code in a folder or a settings file is run.

    Args:
        folder: A saved folder; or a settings file (`speed.json` of `zsei speed --out`), which loads
            the model it names and applies itself; with `speed` anything that names a model.
        speed: Settings file to apply to the model.
        any_model: Apply the settings to other weights than those they were measured on.

    Raises:
        ZseiError: With the rule, what arrived and the likely fix.
    """
    from zsei.speed.load import load_fast

    if isinstance(folder, nn.Module):
        if speed is None:
            raise UsageError(
                "A model that is loaded already needs nothing but speed-ups to be applied; name "
                "their settings file: zsei.load(model, speed='speed.json')."
            )
        return load_fast(speed, folder, any_model=any_model)
    if speed is None and Path(folder).suffix == ".json":
        return load_fast(folder, any_model=any_model)
    if speed is None:
        return load_edited(Path(folder))
    saved = (Path(folder) / RECIPE).is_file()
    return load_fast(speed, load_edited(Path(folder)) if saved else folder, any_model=any_model)
