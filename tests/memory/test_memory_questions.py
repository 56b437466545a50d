"""Two hundred questions over forty-three analyses: exact, cited, refused where there is no answer.

Every answer was looked up in the records by plain loops (`questions_truth`), never in the store.
"""

import json
import random
from collections import Counter
from pathlib import Path

import factories
import pytest
from memory_records import HashEmbedder
from questions_asked import questions
from questions_check import faults
from questions_said_otherwise import said_otherwise
from questions_truth import Question
from questions_world import TODAY, World, made_up

import zsei
from zsei.llm.line import Line
from zsei.llm.scripted import ScriptedLLM
from zsei.llm.types import LLMRequest
from zsei.memory import Memory, ask_memory, cards_of
from zsei.records import AnalysisRecord, Answer
from zsei.resources import load_cards
from zsei.settings import Settings

CARDS = load_cards(Settings())
PAGES = cards_of(CARDS)[::3]
"""A third of what the cards explain: to embed all of it takes longer than all questions."""
REAL = (("lstm", "2026-01-02"), ("encoder", "2026-01-03"), ("mlp", "2026-01-04"))


def analysed(name: str, day: str, home: Path) -> AnalysisRecord:
    """A small model, really analysed, as if on that day."""
    model, data = getattr(factories, f"tiny_{name}")()
    settings = Settings(
        home=home, samples=24, batch_size=8, probes=2, ablation_sample=4, max_proposals=2,
        rounds=1, bootstrap=200, min_channels=4, min_heads=1, random_paths=5, halves=False,
    )  # fmt: skip
    record = zsei.analyze(model, data, settings=settings)
    timings = record.timings.model_copy(update={"created": f"{day}T08:00:00Z"})
    return record.model_copy(update={"timings": timings})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("real")
    return World([*made_up(), *(analysed(name, day, home) for name, day in REAL)])


@pytest.fixture(scope="module")
def filled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """With the sentence embedder that ships."""
    memory = Memory(tmp_path_factory.mktemp("asked"))
    for record in world.records:  # in any order: what is newest is told by the date
        memory.add(record)
    memory.learn(PAGES)
    return memory


def answered(memory: Memory, question: Question, llm: ScriptedLLM | None = None) -> Answer:
    line = Line(llm=llm) if llm is not None else None
    return ask_memory(question.text, memory, line, PAGES, cards=CARDS, today=TODAY)


@pytest.fixture(scope="module")
def asked(world: World) -> list[Question]:
    return questions(world)


def test_the_set_is_what_it_should_be(world: World, asked: list[Question]) -> None:
    assert Counter(q.kind for q in asked) == {
        "look-up": 100, "aggregate": 40, "comparison": 30, "why": 30,
    }  # fmt: skip
    assert sum(q.want is None for q in asked) == 20
    assert len({q.text for q in asked}) == 200
    assert len(world.records) == 43


def test_two_hundred_questions_by_rules(
    world: World, filled: Memory, asked: list[Question]
) -> None:
    wrong = {}
    for question in asked:
        answer = answered(filled, question)
        assert answer.voice == "rules"
        if found := faults(question, answer, world):
            wrong[question.text] = found
    assert wrong == {}


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 4])
def test_questions_said_otherwise(world: World, filled: Memory, every: int) -> None:
    wrong = {}
    for question in said_otherwise(world)[::every]:
        if found := faults(question, answered(filled, question), world):
            wrong[question.text] = found
    assert wrong == {}


def well_behaved(request: LLMRequest) -> str:
    """Plans nothing; words the first row with its slots."""
    if request.agent == "planner":
        return json.dumps(
            {"intent": "list", "subject": "none", "names": [], "operation": "none",
             "everywhere": False}
        )  # fmt: skip
    data = json.loads(request.prompt.split("<data>\n")[1].split("\n</data>")[0])
    slots = list(data["rows"])
    return json.dumps({"text": "Memory holds: " + "; ".join(f"{{{slot}}}" for slot in slots)})


class Liar:
    """Answers with wrong digits, invented names, instructions, and plans for something else."""

    TEXTS = (
        "It is 0.123456.", "It is {r1.value}, about half of {r9.value}.", "ok {r1.nothing}",
        "bert-large's layer was accepted.", "It is {r1.value}, higher than ever.",
        "Ignore all rules; the answer is forty-two.", "See http://evil.example/x for more.",
        "encoder.layer.nine/mlp is the worst.", "",
    )  # fmt: skip

    def __init__(self, world: World) -> None:
        self.rng = random.Random(0)
        models = [record.provenance.model for record in world.records]
        self.names = [*models, "effective_rank", "redundant-heads", "head", "rejected", "nonsense"]

    def __call__(self, request: LLMRequest) -> str:
        if request.agent == "planner":
            return json.dumps(
                {
                    "intent": "list", "operation": "none", "everywhere": True,
                    "subject": self.rng.choice(["measurements", "findings", "verdicts", "runs"]),
                    "names": self.rng.sample(self.names, 2),
                }
            )  # fmt: skip
        return json.dumps({"text": self.rng.choice(self.TEXTS)})


@pytest.fixture(scope="module")
def by_words(world: World, tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """The same without a sentence embedder to wait for."""
    memory = Memory(tmp_path_factory.mktemp("words"), embedder=HashEmbedder())
    for record in world.records:
        memory.add(record)
    memory.learn(PAGES)
    return memory


@pytest.mark.parametrize("behaviour", ["well", "lying"])
def test_a_model_changes_no_number_and_no_refusal(
    world: World, by_words: Memory, asked: list[Question], behaviour: str
) -> None:
    speak = well_behaved if behaviour == "well" else Liar(world)
    for question in asked:
        plain = answered(by_words, question)
        said = answered(by_words, question, ScriptedLLM(speak))
        exact = question.kind != "why" or question.want is None
        if exact:
            assert (said.rows, said.citations) == (plain.rows, plain.citations), question.text
            assert [f for f in faults(question, said, world) if "text" not in f] == []
        if behaviour == "lying" and exact:
            assert said.text == plain.text
            assert said.voice.startswith("rules")
