"""Answer a question about past analyses: plan, carry out, say, and always cite.

Structured questions become SQL over the records, so their numbers are the stored ones, digit for
digit. Questions about meaning go to search. What memory cannot answer is refused, with the reason.
No language model, embedder or Chroma is needed; where there is one, it only adds to this.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime

from zsei.cards import Cards
from zsei.errors import LLMError, UsageError
from zsei.llm.line import Line
from zsei.memory.chunks import Card, some
from zsei.memory.compare import answer_comparison
from zsei.memory.courses import (
    answer_course,
    answer_cuts,
    answer_fallbacks,
    answer_found_in_run,
)
from zsei.memory.dates import told
from zsei.memory.document_answers import answer_documents
from zsei.memory.document_words import read_documents
from zsei.memory.librarian import word_with
from zsei.memory.numbers import answer_measurements, answer_ranking, answer_runs
from zsei.memory.passages import (
    answer_concept,
    answer_passages,
    answer_similar,
    answer_summary,
    is_titled,
)
from zsei.memory.plan import QueryPlan, plan
from zsei.memory.planner import may_plan, plan_with
from zsei.memory.query import Scope, scope
from zsei.memory.reading import Reading, Wish, read
from zsei.memory.results import answer_findings, answer_profile, answer_verdicts
from zsei.memory.run_plan import plan_in_run, some_runs
from zsei.memory.run_words import AboutRun, read_run
from zsei.memory.say import Draft, refusal
from zsei.memory.store import Memory
from zsei.memory.thread import Thread, completed, followed
from zsei.memory.vocabulary import Known, Vocabulary, generation, load
from zsei.memory.words import content_words
from zsei.records import Answer
from zsei.resources import load_cards
from zsei.settings import Settings

_EXACT = ("profile", "runs")
"""Subjects whose answer would hide that a word of the question was not understood."""
_RULES = "rules"
_NUMERIC: frozenset[Wish] = frozenset({"count", "max", "min", "mean", "sum", "compare"})
"""Wishes that no passage can grant: a number is looked up or not told at all."""


def ask(
    question: str,
    memory: Memory,
    line: Line | None = None,
    knowledge: Iterable[Card] = (),
    *,
    cards: Cards | None = None,
    today: date | None = None,
) -> Answer:
    """Answer a question about the analyses in memory.

    Args:
        question: In plain words; names of models, runs, components, metrics are recognised.
        memory: Where the analyses are.
        line: May plan what the rules cannot read, and word the answer; it never writes a number.
            Where it fails the rules answer, and `Answer.voice` is "rules (" + the error + ")".
        knowledge: What explains terms, as (id, title, text); see `chunks.cards_of`.
        cards: Where the planner's and the librarian's cards stand; None takes those that ship.
        today: What "last week" is counted from; None is today in UTC.

    Returns:
        Text, the rows behind it with exact stored numbers, and a citation for each source. When
        nothing in memory fits, the text begins with "No" and says what is missing; a refusal has
        no rows and no citations, while "none was found" cites the analyses looked at.

    Raises:
        UsageError: the question has no words.
        MemoryDamaged: the store cannot be read.
    """
    return ask_in(Thread(), question, memory, line, knowledge, cards=cards, today=today)[0]


def ask_in(
    thread: Thread,
    question: str,
    memory: Memory,
    line: Line | None = None,
    knowledge: Iterable[Card] = (),
    *,
    cards: Cards | None = None,
    today: date | None = None,
) -> tuple[Answer, Thread]:
    """Answer a question in a conversation, and give back where the conversation then stands.

    A conversation starts with `Thread()`, or `Thread(runs=(...))` for one about a few analyses,
    and hands each returned thread to the next question:

        answer, thread = ask_in(thread, "effective rank of the mlp of layer 3 in vit?", memory)
        answer, thread = ask_in(thread, "and layer 4?", memory)
        answer, thread = ask_in(thread, "compare it with the other one", memory)

    Nothing is kept elsewhere: the same thread, question and memory give the same answer, and an
    answer that refused gives back the thread as it was. Arguments and errors are those of `ask`.
    """
    question = " ".join(question.split())
    if not any(letter.isalnum() for letter in question):
        raise UsageError("A question needs words; for example: which heads matter most?")
    pages = tuple(knowledge)
    vocabulary = _known(memory, pages)
    if line is not None and cards is None:
        cards = load_cards(Settings.model_construct(cards=None))
    about = read_run(question, vocabulary)
    reading = read(
        question, vocabulary, today or datetime.now(UTC).date(), about.rest if about else None
    )
    reading = completed(reading, thread, vocabulary)
    asked = len(line.log) if line is not None else 0
    failure = ""
    chosen, problem = _understood(reading, about, vocabulary, pages)
    measured = read_documents(reading, vocabulary)
    if measured is not None:
        chosen, problem = None, answer_documents(memory, measured, vocabulary)
    unread = problem is None and _is_open(reading, chosen) and may_plan(reading)
    if unread and line is not None and cards is not None and vocabulary.runs:
        try:
            chosen = plan_with(line, question, vocabulary, cards) or chosen
        except LLMError as error:
            failure = type(error).__name__
    if chosen is not None and thread.runs:
        chosen = chosen.model_copy(update={"among": thread.runs})
    draft = problem or _carried_out(memory, reading, chosen, vocabulary, pages)
    if line is not None and chosen is not None and unread and chosen.subject != "passages":
        draft = replace(draft, remarks=f"{draft.remarks}\n(Read by {line.voice}, not by rules.)")
    said = _RULES
    if line is not None and cards is not None and draft.answered and not failure:
        try:
            words = word_with(line, question, draft, vocabulary, cards)
            draft, said = replace(draft, text=f"{words}\n{_sources(draft)}"), line.voice
        except LLMError as error:
            failure = type(error).__name__
    if line is not None and len(line.log) > asked:
        memory.log_calls(line.log[asked:])
    answer = Answer(
        question=question,
        text=draft.text + draft.remarks,
        rows=draft.rows,
        citations=draft.citations,
        voice=f"{_RULES} ({failure})" if failure else said,
        searched=len(vocabulary.runs if measured is None else vocabulary.documents),
        among="analyses" if measured is None else "measurements",
        filters=chosen.filters() if chosen is not None else {},
    )
    return answer, followed(thread, reading, answer) if measured is None else thread


def _known(memory: Memory, pages: tuple[Card, ...]) -> Vocabulary:
    """The names that questions may use; read again only when memory or the cards have changed."""
    with memory.reading() as db:
        now, known = generation(db), memory.known
    if known is not None and (known.generation, known.pages) == (now, pages):
        return known.vocabulary
    memory.learn(pages)
    with memory.reading() as db:
        now, vocabulary = generation(db), load(db, pages)
    memory.known = Known(generation=now, pages=pages, vocabulary=vocabulary)
    return vocabulary


def _understood(
    reading: Reading, about: AboutRun | None, vocabulary: Vocabulary, pages: tuple[Card, ...]
) -> tuple[QueryPlan | None, Draft | None]:
    """What the rules make of a question about analyses, training runs or terms."""
    if "define" in reading.wishes and not reading.article and is_titled(reading.text, pages):
        return QueryPlan(intent="define", subject="concept"), None
    chosen, problem = _planned(reading, vocabulary)
    if about is not None:
        return plan_in_run(about, reading, chosen, problem, vocabulary)
    return chosen, problem


def _planned(reading: Reading, vocabulary: Vocabulary) -> tuple[QueryPlan | None, Draft | None]:
    """What the rules make of a question, and why that cannot be answered, if so."""
    chosen = plan(reading, vocabulary)
    if reading.unknown:
        names = ", ".join(repr(name) for name in reading.unknown)
        return chosen, refusal(f"No such name in memory: {names}. {_holdings(vocabulary)}")
    told = {"why", "where"} & reading.wishes
    open_ended = chosen is None or chosen.subject == "passages"
    if open_ended and reading.wishes & _NUMERIC and reading.leftovers and not told:
        return chosen, _not_known(reading.leftovers, vocabulary)
    if chosen is None or chosen.subject in ("concept", "passages", "similar"):
        return chosen, None
    if _is_in_words(reading, chosen):
        return chosen.model_copy(update={"subject": "passages"}), None
    exact = chosen.subject in _EXACT or not chosen.restricts
    strange = reading.leftovers if exact else reading.restricting
    if told and chosen.outcomes:  # the rest of the question tells what is supposed to have happened
        strange = ()
    return chosen, _not_known(strange, vocabulary) if strange else None


def _is_open(reading: Reading, chosen: QueryPlan | None) -> bool:
    """Whether the rules found no more to do than to search for the words."""
    if chosen is None:
        return True
    return chosen.subject == "passages" and "summary" not in reading.wishes


def _not_known(words: tuple[str, ...], vocabulary: Vocabulary) -> Draft:
    named = ", ".join(repr(word) for word in words)
    metrics = some(vocabulary.metrics)
    return refusal(
        f"No such thing in memory: {named} is not known here. {_holdings(vocabulary)} "
        f"Measured: {metrics or 'nothing'}."
    )


def _is_in_words(reading: Reading, chosen: QueryPlan) -> bool:
    """Whether "where do gradients shrink" asks for what was said, rather than for a number."""
    named = chosen.outcomes or chosen.strategies or chosen.proposals or chosen.codes
    if not reading.leftovers or named or chosen.intent == "compare":
        return False
    told = chosen.subject in ("measurements", "profile", "runs", "ranking")
    strange = 2 * len(reading.leftovers) > len(set(content_words(reading.text)))
    loose = strange and not (chosen.operation or chosen.condition or chosen.components)
    seeks = told and (bool({"where", "why"} & reading.wishes) or loose)
    return seeks or (chosen.subject == "profile" and not (chosen.operation or chosen.places))


def _carried_out(
    memory: Memory,
    reading: Reading,
    chosen: QueryPlan | None,
    vocabulary: Vocabulary,
    cards: tuple[Card, ...],
) -> Draft:
    if chosen is not None and chosen.subject == "concept":
        return answer_concept(memory, reading.text, chosen, cards, vocabulary)
    if not (vocabulary.runs or vocabulary.documents):
        return refusal("No such analysis: memory is empty; `zsei analyze` makes the first.")
    if chosen is None or not vocabulary.runs:
        everything = Scope(runs=vocabulary.runs, whole=True)
        return answer_passages(memory, reading.text, everything, vocabulary)
    fitting = scope(chosen, vocabulary)
    if not fitting.runs or (fitting.missing and chosen.intent == "compare"):
        missing = ", ".join(repr(label) for label in fitting.missing) or "that"
        when = f" {' or '.join(map(told, chosen.spans))}" if chosen.spans else ""
        if chosen.trainings:
            missing = f"run {' or '.join(chosen.trainings)}"
            when += f" at epoch {', '.join(map(str, chosen.epochs))}" if chosen.epochs else ""
            when += f" (known: {some_runs(vocabulary)})"
        return refusal(
            f"No such analysis: nothing of {missing}{when} is in memory. {_holdings(vocabulary)}"
        )
    draft = _by_subject(memory, reading, chosen, fitting, vocabulary)
    return replace(draft, remarks=_remarks(reading, chosen, fitting, draft, vocabulary))


def _by_subject(
    memory: Memory, reading: Reading, chosen: QueryPlan, fitting: Scope, vocabulary: Vocabulary
) -> Draft:
    if chosen.subject == "passages" and "summary" not in reading.wishes:
        return answer_passages(memory, reading.text, fitting, vocabulary)
    with memory.reading() as db:
        if chosen.subject == "passages":
            return answer_summary(db, fitting)
        if chosen.subject == "course":
            return answer_course(db, chosen, fitting, vocabulary)
        if chosen.subject == "fallbacks":
            return answer_fallbacks(db, chosen, fitting, vocabulary)
        if chosen.trainings and chosen.everywhere and chosen.subject == "verdicts":
            return answer_cuts(db, chosen, fitting, vocabulary)
        if chosen.trainings and chosen.everywhere and chosen.subject == "findings":
            return answer_found_in_run(db, chosen, fitting, vocabulary)
        if chosen.subject == "similar":
            return answer_similar(memory, db, fitting, vocabulary)
        if chosen.intent == "compare":
            return answer_comparison(db, chosen, fitting, vocabulary)
        if chosen.subject == "runs":
            return answer_runs(db, chosen, fitting)
        answers = {
            "measurements": answer_measurements,
            "ranking": answer_ranking,
            "findings": answer_findings,
            "verdicts": answer_verdicts,
            "profile": answer_profile,
        }
        return answers[chosen.subject](db, chosen, fitting)


def _remarks(
    reading: Reading, chosen: QueryPlan, fitting: Scope, draft: Draft, vocabulary: Vocabulary
) -> str:
    """What a reader must know to trust the answer: words passed over, analyses left out."""
    remarks = []
    if fitting.missing:
        missing = ", ".join(repr(label) for label in fitting.missing)
        remarks.append(f"There is no analysis of {missing}.")
    if reading.leftovers and draft.answered:
        words = ", ".join(repr(word) for word in reading.leftovers)
        remarks.append(f"Not taken into account: {words}.")
    used = {citation.run for citation in draft.citations}
    by_id = bool(chosen.proposals or chosen.findings)
    all_looked_at = by_id or (chosen.subject == "runs" and chosen.operation is not None)
    newest = not fitting.whole and not all_looked_at
    if draft.rows and newest and len(used) == 1 and len(fitting.runs) > 1:
        remarks.append(
            f"{len(fitting.runs)} of {len(vocabulary.runs)} analyses fit the question; this is the "
            'newest of them that answers it. Ask about "all analyses" for the rest.'
        )
    return "".join(f"\n({remark})" for remark in remarks)


def _holdings(vocabulary: Vocabulary) -> str:
    """What memory does hold, for a question about something else."""
    count = len(vocabulary.runs)
    what = "analysis" if count == 1 else "analyses"
    return f"Searched {count} {what} ({some(vocabulary.names) or 'memory is empty'})."


def _sources(draft: Draft) -> str:
    cited = [f"[{c.run}{f', {c.finding}' if c.finding else ''}]" for c in draft.citations]
    return " ".join(dict.fromkeys(cited))
