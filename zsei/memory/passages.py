"""Answers in words: what a term means, what memory says nearest to a question, like analyses."""

import re
import sqlite3
from collections.abc import Iterable, Sequence

from zsei.memory.chunks import Card
from zsei.memory.plan import QueryPlan
from zsei.memory.query import Row, Scope
from zsei.memory.say import Draft, refusal
from zsei.memory.search import Hit, retrieve
from zsei.memory.store import Memory
from zsei.memory.vocabulary import Vocabulary, plain
from zsei.memory.words import CODES, METRICS, content_words
from zsei.records import Citation

KNOWLEDGE = "knowledge"
_MEASURED = "measured"
_OF_ANALYSES = ("finding", "verdict", "interpretation", "failure", _MEASURED)
"""Not the summaries: they name the model, and say little of anything else."""
"""Stands for the run in the citation of a knowledge card."""

_CLOSE = 0.52
_CLOSE_WITHIN = 0.38
_WEIGHT = 0.3
"""A passage is near when its cosine + 0.3 x the share of the question's content words that it holds
reaches 0.52, or 0.38 with at least one such word where the question names the analyses to look in.
With MiniLM, all thirty questions about other things that were tried stayed at or under 0.51 and
0.35 with their best passage; of thirty with an answer, the least had 0.53 and 0.40."""
_COVERED = 0.6
"""The share of words that decides alone where there is no embedder."""
_HAPPENED = re.compile(r"\b(?:was|were|did|had)\b", re.IGNORECASE)
"""A card tells what things mean, never what happened."""
_LONGEST = 1500
_QUESTION = re.compile(
    r"^\W*(?:what(?:'s| is| are| does| do)?|define|explain|describe|tell me what|the meaning of"
    r"|meaning of|definition of)\b|\b(?:an?|the|means?|is|are)\b|[?!.]",
    re.IGNORECASE,
)


def answer_concept(
    memory: Memory, question: str, plan: QueryPlan, cards: Sequence[Card], vocabulary: Vocabulary
) -> Draft:
    """Explain a term from the knowledge cards, or else quote what memory says of it."""
    card = _card(_terms(question, plan), cards)
    if card is None:
        hits = near(retrieve(memory, question, kinds=[KNOWLEDGE], limit=1), question)
        card = next((each for each in cards if hits and each[0] == hits[0].key), None)
    if card is None:
        everything = Scope(runs=vocabulary.runs, whole=True)
        return answer_passages(memory, question, everything, vocabulary)
    name, title, text = card
    row: Row = {"card": name, "title": title, "text": text}
    citation = Citation(run=KNOWLEDGE, text=f"card {name}: {title}")
    said = f"{title}: {_beginning(text)} [{KNOWLEDGE}, {name}]"
    return Draft(text=said, rows=(row,), citations=(citation,))


def answer_passages(memory: Memory, question: str, scope: Scope, vocabulary: Vocabulary) -> Draft:
    """What memory says nearest to a question, word for word; refuses when nothing is near."""
    whole = len(scope.runs) == len(vocabulary.runs)
    runs = None if whole else scope.runs  # a question about some analyses is not for the cards
    kinds = _OF_ANALYSES if _HAPPENED.search(question) else (*_OF_ANALYSES, KNOWLEDGE)
    about = _without_names(question, vocabulary)
    hits = near(retrieve(memory, about, runs=runs, kinds=kinds), about, within=not whole)
    if not hits:
        return refusal("No such analysis or card: nothing in memory comes near that question.")
    lines = ["What memory holds nearest to that:"]
    lines += [f"{_body(hit)} {_source(hit)}" for hit in hits]
    return _quoted("\n".join(lines), hits)


def answer_summary(db: sqlite3.Connection, scope: Scope) -> Draft:
    """What an analysis was and what was said about it."""
    runs = scope.runs if scope.whole else scope.runs[:1]
    marks = ", ".join("?" * len(runs))
    found = db.execute(
        "SELECT chunks.id, run, kind, key, text FROM chunks JOIN runs ON runs.id = chunks.run "
        f"WHERE kind IN ('summary', 'interpretation') AND run IN ({marks}) "
        "ORDER BY created DESC, sequence DESC, kind DESC, number",
        runs,
    )
    hits = [Hit(**dict(row), score=1.0, cosine=None) for row in found]
    return _quoted("\n".join(f"{_body(hit)} {_source(hit)}" for hit in hits), hits)


def answer_similar(
    memory: Memory, db: sqlite3.Connection, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """Analyses most like one, by what their summaries say."""
    base = scope.runs[0]
    others = [run for run in vocabulary.runs if run != base]
    if not others:
        return refusal("No such analysis: there is only one in memory.")
    asked = "SELECT text FROM chunks WHERE kind = 'summary' AND run = ?"
    text = db.execute(asked, (base,)).fetchone()["text"]
    about = "\n".join(text.splitlines()[1:])  # without the header, which names the analysis itself
    hits = retrieve(memory, about, runs=others, kinds=["summary"])
    lines = [f"Nearest to analysis {base}:"]
    lines += [f"{hit.text.splitlines()[0]} {_source(hit)}" for hit in hits]
    return _quoted("\n".join(lines), hits)


def near(hits: Iterable[Hit], question: str, *, within: bool = False) -> list[Hit]:
    """The passages that really speak of what the question speaks of.

    Args:
        hits: As search found them, over all analyses or over a few.
        question: What was asked, without the names of models where `within`.
        within: Whether only the analyses that the question names were searched.
    """
    terms = {_stem(word) for word in content_words(question)}
    return [hit for hit in hits if _is_near(hit, terms, within)]


def _is_near(hit: Hit, terms: set[str], within: bool) -> bool:
    held = {_stem(word) for word in content_words(hit.text)}
    covered = len(terms & held) / len(terms) if terms else 0.0
    if hit.cosine is None:
        return covered >= _COVERED
    nearness = hit.cosine + _WEIGHT * covered
    return nearness >= _CLOSE or (within and covered > 0 and nearness >= _CLOSE_WITHIN)


def _stem(word: str) -> str:
    """Enough to join "rejected" and "rejection"."""
    return word[:6]


def is_titled(question: str, cards: Iterable[Card]) -> bool:
    """Whether "what is ..." names a card by its whole title or id."""
    term = plain(_QUESTION.sub(" ", question))
    return any(term in (plain(name), plain(title)) for name, title, _ in cards)


def _without_names(question: str, vocabulary: Vocabulary) -> str:
    """What it is about: the models it names say where to look, and would outweigh the rest."""

    def unless_model(found: re.Match[str]) -> str:
        names = vocabulary.named(found[0])
        return " " if any(slot == "model" for slot, _ in names) else found[0]

    about = vocabulary.pattern.sub(unless_model, question.lower())
    return about if content_words(about) else question


def _terms(question: str, plan: QueryPlan) -> list[str]:
    """The words to explain, the question's own first."""
    terms = [" ".join(_QUESTION.sub(" ", question).split())]
    for metric in plan.metrics:
        terms += [metric, *METRICS.get(metric, ())]
    for code in plan.codes:
        terms += [code, *CODES.get(code, ())]
    terms += [*plan.strategies, *plan.kinds]
    return list(dict.fromkeys(term for term in (plain(each) for each in terms) if term))


def _card(terms: Sequence[str], cards: Sequence[Card]) -> Card | None:
    """The card whose title or id is one of the terms, or else holds one."""
    named = [({plain(name), plain(title)}, (name, title, text)) for name, title, text in cards]
    for term in terms:
        forms = {term, term.removesuffix("s"), f"{term}s"}
        for titles, card in named:
            if titles & forms:
                return card
    for term in terms:
        holding = [card for titles, card in named if any(_holds(title, term) for title in titles)]
        if holding:
            return min(holding, key=lambda card: (len(card[1]), card[0]))
    return None


def _holds(title: str, term: str) -> bool:
    return re.search(rf"\b{re.escape(term.removesuffix('s'))}s?\b", title) is not None


def _beginning(text: str) -> str:
    """Whole paragraphs up to a readable length."""
    kept = ""
    for paragraph in text.strip().split("\n\n"):
        if kept and len(kept) + len(paragraph) > _LONGEST:
            break
        kept = f"{kept}\n\n{paragraph}".strip()
    return kept


def _body(hit: Hit) -> str:
    """A passage without its header."""
    return hit.text.split("\n", 1)[1] if "\n" in hit.text else hit.text


def _finding(hit: Hit) -> str | None:
    return hit.key if hit.kind == "finding" else None


def _source(hit: Hit) -> str:
    if hit.kind == _MEASURED:
        return f"[{hit.key}]"
    return f"[{hit.run or KNOWLEDGE}{f', {hit.key}' if hit.key else ''}]"


def _cited(hit: Hit) -> str:
    """What a citation names: the analysis, the document, or the cards."""
    return hit.key if hit.kind == _MEASURED else hit.run or KNOWLEDGE


def _quoted(text: str, hits: Sequence[Hit]) -> Draft:
    rows: list[Row] = [
        {"run": hit.run, "kind": hit.kind, "key": hit.key, "text": hit.text} for hit in hits
    ]
    cited = {
        (hit.run, hit.kind, hit.key): Citation(
            run=_cited(hit), finding=_finding(hit), text=f"{hit.kind} {hit.key}".strip()
        )
        for hit in hits
    }
    return Draft(text=text, rows=tuple(rows), citations=tuple(cited.values()))
