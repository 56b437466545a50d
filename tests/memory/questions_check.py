"""What is wrong with an answer, if anything: against the records, never against the code."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from questions_truth import Question, Want, number_of
from questions_world import World

from zsei.records import AnalysisRecord, Answer

_SOURCE = re.compile(r"\[(r-[0-9a-f]{12})(?:, (f-[0-9a-f]{12}))?\]")


def faults(question: Question, answer: Answer, world: World) -> list[str]:
    """All that is wrong; [] is a right answer."""
    records = {record.id: record for record in world.records}
    wrong = list(_unsupported(answer, records))
    if question.want is None:
        if not answer.text.startswith("No"):
            wrong.append("it is not refused")
        if answer.rows or answer.citations:
            wrong.append("a refusal has rows or citations")
        return wrong
    if question.kind == "why":
        return wrong + list(_misses(question.want, answer))
    return wrong + list(_differs(question.want, answer))


def _misses(want: Want, answer: Answer) -> Iterator[str]:
    named = [str(row.get(k)) for row in answer.rows[:5] for k in ("finding", "id", "key")]
    if not want.keys & set(named):
        yield "none of the first five rows is what was asked for"


def _differs(want: Want, answer: Answer) -> Iterator[str]:
    rows = [dict(row) for row in answer.rows]
    for wanted in want.rows:
        fitting = next((row for row in rows if _holds(row, wanted)), None)
        if fitting is None:
            yield f"no row holds {wanted}"
        else:
            rows.remove(fitting)
    if rows and not want.more:
        yield f"{len(rows)} rows too many"
    if {c.run for c in answer.citations} != want.cited:
        yield f"it cites {sorted({c.run for c in answer.citations})}, not {sorted(want.cited)}"
    numbers = {repr(v) for wanted in want.rows for v in _numbers(wanted)}
    for told in (*numbers, *want.says):
        if told not in answer.text:
            yield f"the text does not say {told}"


def _holds(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if "both" in wanted:
        return _compares(row, *wanted["both"])
    for name, value in wanted.items():
        held = row.get(name)
        if isinstance(value, list):
            if not all(any(_holds(one, each) for one in held or ()) for each in value):
                return False
        elif held != value or isinstance(held, float) != isinstance(value, float):
            return False
    return True


def _compares(row: Mapping[str, Any], a: Any, b: Any) -> bool:
    told = [v for k, v in row.items() if k not in ("quantity", "difference")]
    if told not in ([a, b], [b, a]):
        return False
    both = all(isinstance(v, int | float) for v in (a, b))
    return not both or row["difference"] == told[1] - told[0]


def _numbers(wanted: Mapping[str, Any]) -> Iterator[int | float]:
    for name, value in wanted.items():
        if name in ("value", "severity", "parameters") or (name == "count" and len(wanted) == 2):
            yield value
        elif name == "both":
            yield from (v for v in value if isinstance(v, int | float))
        elif isinstance(value, list):
            yield from (each["value"] for each in value)


def _unsupported(answer: Answer, records: Mapping[str, AnalysisRecord]) -> Iterator[str]:
    """Citations that do not resolve, and rows that are not in the analysis they come from."""
    cited = {citation.run for citation in answer.citations}
    sources = [(c.run, c.finding, c.text) for c in answer.citations]
    sources += [(run, finding, "") for run, finding in _SOURCE.findall(answer.text)]
    for run, finding, text in sources:
        if run == "knowledge":
            continue
        record = records.get(run)
        if record is None:
            yield f"there is no analysis {run}"
            continue
        if finding and finding not in {f.id for f in _findings(record)}:
            yield f"{run} has no finding {finding}"
        proposal = re.search(r"p-[0-9a-f]{12}", text)
        if proposal and proposal[0] not in {p.id for p in record.proposals}:
            yield f"{run} has no proposal {proposal[0]}"
    for row in answer.rows:
        run = row.get("run")
        if run is not None and run not in cited:
            yield f"a row comes from {run}, which is not cited"
        if isinstance(run, str) and run in records:
            yield from _invented(row, records[run])


def _invented(row: Mapping[str, Any], record: AnalysisRecord) -> Iterator[str]:
    if "metric" in row and "component" in row and row["value"] is not None:
        if number_of(record, row["component"], row["metric"]) != row["value"]:
            yield f"{row['value']} is not what was measured"
    elif "criterion" in row:
        held = {
            pair
            for r in record.validation.rankings
            for pair in zip(r.components, r.scores, strict=True)
        }
        if (row["component"], row["value"]) not in held:
            yield f"{row['component']} is not ranked so"
    elif "finding" in row:
        held = {(f.id, f.severity, f.message) for f in _findings(record)}
        if (row["finding"], row["severity"], row["message"]) not in held:
            yield f"{row['finding']} is not what was found"
    elif "outcome" in row:
        held = {(v.proposal_id, v.outcome, v.reason) for v in record.verdicts}
        if (row["id"], row["outcome"], row["reason"]) not in held:
            yield f"{row['id']} was not judged so"
    elif row.get("kind") in ("finding", "verdict") and "key" in row:
        known = {f.id: f.message for f in _findings(record)}
        known |= {v.proposal_id: v.reason.split(": ", 1)[-1] for v in record.verdicts}
        if known.get(row["key"], "\0") not in row["text"]:
            yield f"{row['key']} is not told so"


def _findings(record: AnalysisRecord) -> tuple:
    return (*record.findings, *record.timings.findings)
