"""The plan of a question about a training run: what `run_words` read, with the rest."""

import re

from zsei.memory.plan import Operation, QueryPlan
from zsei.memory.reading import Reading
from zsei.memory.run_words import AboutRun
from zsei.memory.say import Draft, refusal
from zsei.memory.vocabulary import Vocabulary

_OPERATIONS: tuple[tuple[Operation, str], ...] = (
    ("min", r"least|lowest|smallest|fewest|minimum"),
    ("max", r"most|highest|largest|greatest|biggest|maximum|peak\w*"),
    ("mean", r"mean|average"),
)


def plan_in_run(
    about: AboutRun,
    reading: Reading,
    chosen: QueryPlan | None,
    problem: Draft | None,
    vocabulary: Vocabulary,
) -> tuple[QueryPlan | None, Draft | None]:
    """The plan, or why the question cannot be answered.

    Args:
        about: What it says of a run.
        reading: The rest of it.
        chosen: What the rules make of the rest alone.
        problem: Why that cannot be answered, if so.
        vocabulary: What memory holds.
    """
    known = some_runs(vocabulary)
    if about.unknown:
        names = ", ".join(repr(name) for name in about.unknown)
        return chosen, refusal(f"No such training run in memory: {names}. Known: {known}.")
    trainings = about.trainings
    named = trainings or reading.runs or reading.named("model") or about.asked == "fallbacks"
    if not named and len(vocabulary.trainings) > 1:
        return chosen, refusal(
            f"No single run is meant: memory holds {known}, and epochs are those of one run. "
            "Name it."
        )
    trainings = trainings or tuple(vocabulary.trainings)
    of_run: dict[str, object] = {"trainings": trainings, "epochs": about.epochs}
    if about.asked == "state":
        open_ended = QueryPlan(intent="lookup", subject="passages")
        runs = QueryPlan(intent="list", subject="runs")
        base = chosen or (open_ended if reading.leftovers else runs)
        return base.model_copy(update=of_run), problem
    strange = _strange(about, reading)
    if strange:
        told = ", ".join(repr(word) for word in strange)
        return chosen, refusal(
            f"No such thing in memory: {told} is not known of a training run. Known: {known}."
        )
    place: dict[str, object] = {
        "components": reading.components, "layers": reading.layers, "heads": reading.heads,
        "edges": reading.edges, "kinds": reading.named("kind"), "runs": reading.runs,
        "models": reading.named("model"), "everywhere": True,
    }  # fmt: skip
    subjects = {"course": "course", "fallbacks": "fallbacks", "cuts": "verdicts",
                "findings": "findings"}  # fmt: skip
    asked = {
        "intent": "list", "subject": subjects[about.asked], "codes": about.codes, **of_run, **place,
    }  # fmt: skip
    if about.asked == "course":
        metrics = about.metrics or reading.named("metric")
        if not metrics and not (reading.layers or reading.components or reading.heads):
            return chosen, refusal(
                "No such number: say which one is meant over the epochs, such as the importance of "
                f"a layer, the loss or the sparsity. Known runs: {known}."
            )
        asked |= {
            "metrics": metrics or ("importance_share",),
            "operation": _operation(about, reading),
        }
    if about.asked == "cuts":
        asked |= {"kinds": ()}
    return QueryPlan.model_validate(asked), None


def _strange(about: AboutRun, reading: Reading) -> tuple[str, ...]:
    """Words that nothing read; what is said of a cut or a death tells only what happened."""
    return () if about.asked == "cuts" else (*reading.unknown, *reading.leftovers)


def _operation(about: AboutRun, reading: Reading) -> Operation | None:
    text = reading.text.lower()
    for operation, words in _OPERATIONS:
        if re.search(rf"\b(?:{words})\b", text) and (about.which or operation == "mean"):
            return operation
    return None


def some_runs(vocabulary: Vocabulary) -> str:
    """The training runs that memory holds, each with its epochs."""
    told: list[str] = []
    for name, runs in list(vocabulary.trainings.items())[:8]:
        epochs = sorted({vocabulary.epochs[run] for run in runs})
        told.append(f"{name} (epochs {epochs[0]} to {epochs[-1]})")
    return ", ".join(told) or "none"
