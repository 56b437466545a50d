"""A user's own agent, prompt and knowledge: files in a folder, and no Python."""

import json
import re
from pathlib import Path

import pytest
from advice.advice_records import HEADS, candidates, record

from zsei.advice.advise import criticise, interpret, propose
from zsei.cards import Cards
from zsei.errors import CardError
from zsei.llm import Line, LLMRequest, ScriptedLLM
from zsei.resources import load_cards
from zsei.settings import Settings

FILES = {
    "agents/entropies.md": """---
name: entropies
version: 3
purpose: Say which heads look everywhere.
stage: interpret
prompt: look
output: Reading
evidence: [groups, forward, conditions]
knowledge: [house-rules]
budget: {tokens: 300, seconds: 5}
on_failure: rules
---
You speak of heads. Numbers are slots.
""",
    "agents/miser.md": """---
name: miser
version: 1
purpose: Choose the cheapest.
stage: propose
prompt: look
output: StrategyPlan
evidence: [candidates]
budget: {tokens: 300, seconds: 5}
on_failure: rules
---
You save.
""",
    "agents/second-critic.md": """---
name: second-critic
version: 1
purpose: Doubt again.
stage: criticise
prompt: look
output: Critique
evidence: [proposals]
budget: {tokens: 300, seconds: 5}
on_failure: rules
---
You doubt.
""",
    "prompts/look.md": """---
name: look
version: 1
inputs: [data]
---
Look here, not at {braces}:
{{data}}
""",
    "knowledge/house-rules.md": """---
id: house-rules
kind: trap
title: What we learnt
sources: ["Our own runs"]
---
Heads that look everywhere may still matter.
""",
}
SAID = f"{HEADS[0]} has an attention entropy of {{{HEADS[0]}:attention_entropy}}. It is 48.8 %."


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    for name, text in FILES.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_cards(Settings(cards=tmp_path / "mine"))


def answer(request: LLMRequest) -> str:
    if request.agent in ("strategist", "miser"):
        chosen = candidates()[0 if request.agent == "strategist" else 2].id
        choice = {"candidate": chosen, "rationale": "So."}
        return json.dumps({"text": "So.", "choices": [choice], "variants": []})
    if request.agent in ("critic", "second-critic"):
        about = candidates()[1 if request.agent == "critic" else 3].id
        return json.dumps(
            {"text": "No.", "objections": [{"about": about, "kind": "risk", "text": "Who knows."}]}
        )
    return json.dumps({"text": SAID, "finding_ids": []})


def test_an_agent_of_ones_own_speaks_with_the_others(cards: Cards) -> None:
    llm = ScriptedLLM(answer, name="some/model")
    advice = interpret(record(), cards, Line(llm=llm))
    (own,) = [said for said in advice.interpretations if said.agent == "entropies"]
    assert own.text == f"{HEADS[0]} has an attention entropy of 48.8 %."
    assert (own.voice, own.struck) == ("some/model", 1)
    (request,) = [request for request in llm.requests if request.agent == "entropies"]
    assert request.system == "You speak of heads. Numbers are slots."
    assert request.prompt.startswith("Look here, not at {braces}:")
    assert (request.max_tokens, request.seconds <= 5) == (300, True)
    block = re.search(r"<data>\n(.*)\n</data>", request.prompt)
    assert block is not None
    shown = json.loads(block[1])
    assert list(shown) == ["groups", "forward", "conditions", "cards"]
    (page,) = shown["cards"]["shown"]
    assert page["id"] == "house-rules"
    assert page["text"].strip() == "Heads that look everywhere may still matter."


def test_without_a_language_model_it_is_silent(cards: Cards) -> None:
    assert interpret(record(), cards) == interpret(record(), load_cards(Settings()))


def test_where_it_fails_the_others_stand(cards: Cards) -> None:
    def failing(request: LLMRequest) -> str:
        return "?" if request.agent == "entropies" else answer(request)

    advice = interpret(record(), cards, Line(llm=ScriptedLLM(failing)))
    assert [failure.what for failure in advice.failures] == [
        "no usable answer for entropies; rules stand in"
    ]
    assert {said.agent for said in advice.interpretations if said.voice == "rules"} == {"trust"}


def test_several_may_propose_and_object(cards: Cards) -> None:
    line = Line(llm=ScriptedLLM(answer))
    plan = propose(record(), candidates(), cards, Settings(), line)
    assert [p.id for p in plan.proposals] == [candidates()[2].id, candidates()[0].id]
    doubts = criticise(record(), candidates(), cards, line)
    assert [(one.agent, one.about) for one in doubts.objections] == [
        ("critic", candidates()[1].id), ("second-critic", candidates()[3].id),
    ]  # fmt: skip
    ordered = [p.id for p in doubts.proposals]
    assert ordered == [candidates()[place].id for place in (0, 2, 1, 3)]


@pytest.mark.parametrize("length", range(20, 260, 40))
def test_a_half_written_card_is_one_sentence_with_the_fix(tmp_path: Path, length: int) -> None:
    path = tmp_path / "agents" / "entropies.md"
    path.parent.mkdir()
    path.write_text(FILES["agents/entropies.md"][:length])
    with pytest.raises(CardError) as caught:
        load_cards(Settings(cards=tmp_path))
    said = str(caught.value)
    assert "agents/entropies.md" in said
    assert ", but " in said
    assert "; " in said
    assert "\n" not in said
