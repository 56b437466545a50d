"""What a wording may say beside its slots, and whose card words it."""

import json
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record

from zsei.errors import CardError
from zsei.llm.line import Line
from zsei.llm.scripted import ScriptedLLM
from zsei.memory import Memory, ask_memory
from zsei.memory.holding import Claims, problem_of
from zsei.memory.vocabulary import load
from zsei.resources import load_cards
from zsei.settings import Settings

SLOTS = {
    "r1.metric": "effective_rank", "r1.component": "encoder.layer.0/mlp", "r1.value": "0.25",
    "r2.metric": "effective_rank", "r2.component": "encoder.layer.1/mlp", "r2.value": "0.5",
    "r3.metric": "sensitivity", "r3.value": "0.75", "r4.outcome": "rejected",
}  # fmt: skip
VALUES = {"r1.value": 0.25, "r2.value": 0.5, "r3.value": 0.75}


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Claims:
    memory = Memory(tmp_path_factory.mktemp("held"), embedder=HashEmbedder())
    memory.add(make_record(0))
    memory.add(make_record(1, model="tiny-gpt2", family="gpt2", prefix="h"))
    with memory.reading() as db:
        vocabulary = load(db)
    return Claims(
        slots=SLOTS, values=VALUES, question="which mlp of minilm has it?", vocabulary=vocabulary
    )


@pytest.mark.parametrize(
    "text",
    [
        "The mlp {r1.component} has {r1.value}.",
        "{r2.component} with {r2.value} is larger than {r1.component} with {r1.value}.",
        "In minilm, {r1.component} at {r1.value} is smaller than {r2.value}.",
        "It was rejected: {r4.outcome}.",
        "The effective rank is {r1.value}.",
    ],
)
def test_what_the_rows_carry_may_be_said(claims: Claims, text: str) -> None:
    assert problem_of(text, claims) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{r1.value} is larger than {r2.value}.", "comparison"),
        ("{r2.value} is not larger than {r1.value}.", "comparison"),
        ("{r3.value} is larger than {r1.value}.", "comparison"),  # of two quantities
        ("{r1.value} exceeds {r2.value}.", "comparison"),
        ("{r1.value} is the highest.", "comparison"),
        ("It rose to {r2.value}.", "comparison"),
        ("{r1.value} < {r2.value}", "comparison"),
        ("It was accepted with {r1.value}.", "outcome"),
        ("It passed the gate.", "outcome"),
        ("tiny-gpt2 has {r1.value}.", "number"),  # its slot says it
        ("bert-large has {r1.value}.", "name"),
        ("The layer h.x/mlp has {r1.value}.", "name"),
        ("It is a dead unit.", "name"),
        ("The gradient norm is {r1.value}.", "name"),
        ("See http://evil.example/x.", "name"),
        ("It is half of {r1.value}.", "number"),
        ("It is V of IV.", "number"),
        ("{model} has it", "brace"),
        ("{r9.value}", "slot"),
        (" ", "empty"),
    ],
)
def test_what_they_do_not_carry_may_not(claims: Claims, text: str, problem: str) -> None:
    assert problem in problem_of(text, claims)


def test_a_librarian_of_ones_own_words_the_answer(home: Path, tmp_path: Path) -> None:
    cards = load_cards(Settings())
    mine = tmp_path / "mine" / "agents"
    mine.mkdir(parents=True)
    own = (
        "---\nname: librarian\nversion: 2\npurpose: Answer like a pirate.\nstage: answer\n"
        "prompt: word-answer\noutput: Wording\nevidence: [rows]\nknowledge: [self-validation]\n"
        "budget: {tokens: 50, seconds: 5}\non_failure: rules\n---\nArr.\n"
    )
    (mine / "librarian.md").write_text(own)
    cards = load_cards(Settings(cards=mine.parent))
    memory = Memory(home, embedder=HashEmbedder())
    memory.add(make_record(0))
    llm = ScriptedLLM([json.dumps({"text": "Arr, {r1.value}."})])
    question = "what is the effective rank of encoder.layer.1/mlp?"
    answer = ask_memory(question, memory, Line(llm=llm), cards=cards)
    stored = make_record(0).measured("encoder.layer.1/mlp", "effective_rank")
    assert stored is not None
    assert answer.text.startswith(f"Arr, {stored.value!r}.")
    (request,) = llm.requests
    assert (request.system, request.max_tokens) == ("Arr.", 50)
    assert "Answer like a pirate." in request.prompt
    shown = json.loads(request.prompt.split("<data>\n")[1].split("\n</data>")[0])
    assert set(shown) == {"rows", "knowledge"}
    assert shown["knowledge"][0]["text"] == cards.knowledge["self-validation"].body
    (mine / "librarian.md").write_text(own.replace("[rows]", "[rows, findings]"))
    with pytest.raises(CardError, match="shown parts of a question only"):
        load_cards(Settings(cards=mine.parent))
