"""A conversation: what a question leaves out comes from the one before; days and what they span."""

from datetime import date
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record
from oracles import asked as oracle

from zsei.memory import Memory, Thread, ask_in
from zsei.memory.dates import contains, spans
from zsei.memory.remaining import Remaining
from zsei.records import Answer

OLD = make_record(0)
GPT = make_record(1, model="tiny-gpt2", family="gpt2", prefix="h", layers=4)
VIT = make_record(
    3, model="vit-digits", family="vit", prefix="blocks", heads=2, created="2026-03-04T10:00:00Z"
)
NEW = make_record(5, created="2026-06-01T00:00:00Z")
TODAY = date(2026, 6, 15)


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for record in (NEW, VIT, GPT, OLD):  # by date, not by when they were stored
        memory.add(record)
    return memory


def said(memory: Memory, *questions: str, thread: Thread | None = None) -> tuple[Answer, Thread]:
    """The answer to the last of some questions in a row."""
    thread = thread or Thread()
    for question in questions:
        answer, thread = ask_in(thread, question, memory, today=TODAY)
    return answer, thread


def numbers(answer: Answer) -> list[object]:
    return [row["value"] for row in answer.rows if "value" in row]


def test_a_layer_changes_and_the_rest_stays(memory: Memory) -> None:
    answer, thread = said(memory, "effective rank of the mlp of layer 2 in vit?", "and layer 1?")
    assert numbers(answer) == [oracle.value(VIT, "blocks.1/mlp", "effective_rank")]
    assert thread.focus == (VIT.id,)
    answer, _ = said(memory, "and in gpt2?", thread=thread)
    assert numbers(answer) == [oracle.value(GPT, "h.1/mlp", "effective_rank")]
    answer, _ = said(memory, "what about its gradient rms?", thread=thread)
    assert numbers(answer) == [oracle.value(VIT, "blocks.1/mlp", "gradient_rms")]


def test_its_heads_are_those_of_the_layer_talked_about(memory: Memory) -> None:
    answer, _ = said(memory, "ablation effect of layer 2 in vit", "and its heads?")
    assert numbers(answer) == [
        oracle.value(VIT, f"blocks.2/head.{head}", "ablation_effect") for head in (0, 1)
    ]


def test_the_other_one_is_the_one_talked_about_before(memory: Memory) -> None:
    answer, thread = said(
        memory, "which heads matter most in gpt2?", "and in vit?", "compare it with the other one"
    )
    assert {c.run for c in answer.citations} == {GPT.id, VIT.id}
    assert set(thread.focus) == {GPT.id, VIT.id}
    answer, _ = said(memory, "which heads matter most in gpt2?", "compare it with minilm")
    assert {c.run for c in answer.citations} == {GPT.id, NEW.id}


def test_a_whole_question_stands_alone(memory: Memory) -> None:
    first = "why was pruning heads accepted in vit?"
    alone, _ = said(memory, "which layers are redundant?")
    answer, _ = said(memory, first, "which layers are redundant?")
    assert answer == alone


def test_a_refusal_leaves_the_thread_where_it_was(memory: Memory) -> None:
    _, before = said(memory, "effective rank of the mlp of layer 2 in vit?")
    answer, after = said(memory, "and the perplexity of layer 9?", thread=before)
    assert answer.rows == ()
    assert after == before
    assert said(memory, "and layer 1?", thread=after) == said(memory, "and layer 1?", thread=before)


def test_a_conversation_about_a_few_analyses_stays_with_them(memory: Memory) -> None:
    about = Thread(runs=(GPT.id, VIT.id))
    answer, _ = said(memory, "which heads matter most?", thread=about)
    assert {c.run for c in answer.citations} == {VIT.id}  # the newer of the two
    answer, _ = said(memory, "which heads matter most in minilm?", thread=about)
    assert {c.run for c in answer.citations} == {NEW.id}


def test_the_last_is_the_one_with_the_latest_date(memory: Memory) -> None:
    answer, _ = said(memory, "which heads matter most in the last analysis?")
    assert {c.run for c in answer.citations} == {NEW.id}
    answer, _ = said(memory, f"how many analyses were made before run {VIT.id}?")
    assert answer.rows[0]["count"] == 2


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        ("on March 4th", "2026-03-04T23:59:00Z", "2026-03-05T00:00:00Z"),
        ("the 4th of march, 2025", "2025-03-04T00:00:00Z", "2026-03-04T00:00:00Z"),
        ("in March", "2026-03-31T12:00:00Z", "2026-04-01T00:00:00Z"),
        ("in December", "2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("last week", "2026-06-08T00:00:00Z", "2026-06-15T00:00:00Z"),
        ("this week", "2026-06-15T00:00:00Z", "2026-06-14T23:59:59Z"),
        ("last month", "2026-05-31T23:00:00Z", "2026-06-01T00:00:00Z"),
        ("yesterday", "2026-06-14T09:00:00Z", "2026-06-15T00:00:00Z"),
        ("in the last 7 days", "2026-06-08T00:00:00Z", "2026-06-07T23:00:00Z"),
        ("since 2026-05-01", "2026-05-01T00:00:00Z", "2026-04-30T23:00:00Z"),
        ("after May 1st", "2026-05-02T00:00:00Z", "2026-05-01T12:00:00Z"),
        ("before June", "2026-05-31T00:00:00Z", "2026-06-01T00:00:00Z"),
        ("until June", "2026-06-30T00:00:00Z", "2026-07-01T00:00:00Z"),
        ("in 2025", "2025-07-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("between March 3 and March 5", "2026-03-05T12:00:00Z", "2026-03-06T00:00:00Z"),
        ("two days ago", "2026-06-13T12:00:00Z", "2026-06-14T00:00:00Z"),
        ("the second week of May", "2026-05-08T00:00:00Z", "2026-05-15T00:00:00Z"),
    ],
)
def test_days_are_spans(words: str, inside: str, outside: str) -> None:
    (span,) = spans(Remaining(f"which runs {words}?"), TODAY)
    assert contains(span, inside)
    assert not contains(span, outside)
    assert not contains(span, "")


@pytest.mark.parametrize(
    "words", ["what may heads do", "1.5 and 2026 heads", "a decision on the second layer"]
)
def test_what_is_no_day_is_none(words: str) -> None:
    assert spans(Remaining(words), TODAY) == ()


def test_nothing_lies_in_a_day_that_never_was(memory: Memory) -> None:
    answer, _ = said(memory, "what was analysed on the 31st of February?")
    assert answer.text.startswith("No such analysis: nothing of that 2026-02-31")
    assert answer.rows == ()
