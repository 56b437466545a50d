"""Ten thousand arbitrary answers change no number, no choice and no way out."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from advice.advice_records import HEADS, candidates, findings, record, verdict
from hostile import HOSTILE

from zsei.advice.advise import Advice, criticise, interpret, propose
from zsei.advice.facts import Facts, plain
from zsei.advice.schemas import SIZES
from zsei.advice.wording import UNTOLD, filled
from zsei.llm import Line, LLMRequest, ScriptedLLM
from zsei.records import AnalysisRecord
from zsei.resources import load_cards
from zsei.settings import LLMSettings, Settings

SETTINGS = Settings(llm="scripted")
CARDS = load_cards(SETTINGS)
MLP0 = "encoder.layer.0/mlp"
IDS = [candidate.id for candidate in candidates()]
FOUND = [finding.id for finding in findings()]
TEXTS = (
    f"{MLP0} takes {{{MLP0}:flops_share}} of the operations. It has 7 dead units.",
    "Heads first, since little hangs on them. The model has {model:layers} layers.",
    f"{HEADS[0]} has a larger ablation effect than {HEADS[1]}.",
    f"{HEADS[1]} has a larger ablation effect than {HEADS[0]}.",
    f"It has a rank of {{encoder.layer.1/mlp:effective_rank}}, and loses {{{FOUND[3]}:rank_lost}}.",
    f"{IDS[1]} costs {{{IDS[1]}:predicted_loss}}.",
)
NOISE = (
    "\\u0000", "99 %", "-", "layer 9", "\\ud800", "twice", "<b>", HEADS[0], "1e999", "half", "７",
    "Ⅻ", "six", "{model:parameters}", "{model:nonsense}", "{", "larger than", "`x3`",
    "f-0123456789ab", "percent", "\\u202e", "a third", "²", "no",
    "{encoder.layer.0/mlp:flops_share}",
)  # fmt: skip


def good(agent: str, generator: random.Random) -> dict[str, Any]:
    """An answer of the right shape, with ids and slots that are there."""
    text = " ".join(generator.choices(TEXTS, k=2))
    if agent == "strategist":
        chosen = generator.sample(IDS, k=2)
        return {
            "text": text,
            "choices": [{"candidate": one, "rationale": generator.choice(TEXTS)} for one in chosen],
            "variants": [{
                "strategy": "prune-neurons", "components": [MLP0],
                "size": generator.choice([*SIZES]), "rationale": generator.choice(TEXTS),
            }],
        }  # fmt: skip
    if agent == "critic":
        doubt = {"about": generator.choice(IDS + FOUND), "kind": "risk", "text": text}
        return {"text": text, "objections": [doubt]}
    return {"text": text, "finding_ids": [generator.choice(FOUND)]}


def spoiled(node: Any, generator: random.Random) -> Any:
    """An answer of the right shape in which some strings are wrong, or a stranger's."""
    if isinstance(node, dict):
        return {name: spoiled(inner, generator) for name, inner in node.items()}
    if isinstance(node, list):
        return [spoiled(inner, generator) for inner in node]
    kind = generator.randrange(6)
    if kind == 0:
        return generator.choice([*HOSTILE, "p-000000000000", "f-000000000000", "", 3, None, 0.5])
    if kind == 1:
        return f"{node} {generator.choice(HOSTILE)}"
    if kind == 2:
        return f"{generator.choice(HOSTILE)} {generator.choice(NOISE)} {node}"
    return node


def arbitrary(generator: random.Random) -> Callable[[LLMRequest], str | bytes]:
    """Noise, half an answer, a good one with something in it changed, or a good one."""

    def answer(request: LLMRequest) -> str | bytes:
        kind = generator.randrange(6)
        made = good(request.agent, generator)
        text = json.dumps(made)
        if kind == 0:
            return generator.randbytes(generator.randrange(200))
        if kind == 1:
            at = generator.randrange(len(text))
            return text[:at].encode() + generator.randbytes(3) + text[at:].encode()
        if kind == 2:
            return re.sub(r"\d", lambda digit: str(generator.randrange(10)), text)
        if kind == 3:
            noise = " ".join(generator.choices(NOISE, k=generator.randrange(1, 5)))
            return text.replace(" ", f" {noise} ", generator.randrange(1, 12))
        if kind == 4:
            return json.dumps(spoiled(made, generator))
        return text

    return answer


def told_by(advice: Advice) -> Iterator[str]:
    """Every text that somebody may read."""
    yield from (said.text for said in advice.interpretations)
    yield from (proposal.rationale for proposal in advice.proposals)
    yield from (objection.text for objection in advice.objections)


class Numbers:
    """The numbers that a record holds, as they are written, and its names."""

    def __init__(self, facts: Facts) -> None:
        owners = ["model", "analysis", *facts.components, *facts.findings, *facts.proposals]
        known = [fact for owner in owners for fact in facts.named(owner).values()]
        written = {filled(fact.value, fact.unit) for fact in known} - {UNTOLD}
        names = {*map(plain, (*facts.components, *facts.findings, *facts.proposals))}
        names |= {"tiny-bert-2", "1 - cos", "layer 0", "layer 1", "L2"}
        parts = sorted(names | written, key=lambda part: -len(part))
        self.known = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, parts))})(?!\d)")

    def others_in(self, text: str) -> list[str]:
        """Digits in a text that are none of the record's."""
        return [c for c in self.known.sub("", text) if c.isnumeric()]


@pytest.mark.parametrize("answers", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_whatever_the_model_returns_nothing_breaks_and_no_number_changes(answers: int) -> None:
    first = candidates()[0]
    whole = record(proposals=(first,), verdicts=(verdict(first),))
    possible = candidates()
    before, offered = whole.model_dump_json(), [p.model_dump_json() for p in possible]
    fixed = {p.id: (p.params, p.components, p.expected, p.finding_ids) for p in possible}
    numbers = Numbers(Facts(whole, possible))
    generator = random.Random(7)
    asked = told = refused = objected = 0
    while asked < answers:
        llm = ScriptedLLM(arbitrary(generator), name="some/model")
        line = Line(llm=llm, settings=LLMSettings(repairs=1))
        said = interpret(whole, CARDS, line)
        plan = propose(whole, possible, CARDS, SETTINGS, line)
        doubts = criticise(whole, plan.proposals, CARDS, line)
        asked += len(llm.requests)
        for advice in (said, plan, doubts):
            told += sum(one.voice != "rules" for one in advice.interpretations)
            refused += len(advice.failures)
            for text in told_by(advice):
                assert numbers.others_in(text) == [], text
                assert text.replace("\n", " ").isprintable()
            json.dumps([one.model_dump(mode="json") for one in advice.interpretations])
        for proposal in (*plan.proposals, *doubts.proposals):
            same = (proposal.params, proposal.components, proposal.expected, proposal.finding_ids)
            if proposal.id in fixed:
                assert same == fixed[proposal.id]
            else:
                assert proposal.params["fraction"] in SIZES.values()
                assert proposal.expected == ()
        assert 0 < len(plan.proposals) <= SETTINGS.max_proposals
        assert {p.id for p in doubts.proposals} == {p.id for p in plan.proposals}
        objected += len(doubts.objections)
    assert min(told, refused, objected) > 0.03 * answers
    assert whole.model_dump_json() == before
    assert [p.model_dump_json() for p in possible] == offered


def strange(text: str) -> AnalysisRecord:
    """The record with a stranger's words wherever a stranger may write."""
    whole = record()
    parts = list(whole.components)
    parts[2] = parts[2].model_copy(update={"id": text})
    parts = [p.model_copy(update={"parent": text}) if p.parent == MLP0 else p for p in parts]
    named = tuple(
        f.model_copy(update={
            "components": (*f.components, text),
            "message": text,
        })
        for f in whole.findings
    )  # fmt: skip
    taken = dict(whole.measurements)
    taken[text] = taken.pop(ATTENTION0)
    return whole.model_copy(
        update={
            "components": tuple(parts), "findings": named, "measurements": taken,
            "provenance": whole.provenance.model_copy(
                update={"model": text, "model_class": text, "family": text}
            ),
            "conditions": whole.conditions.model_copy(update={"groups": {text: 20, "code": 12}}),
        }
    )  # fmt: skip


ATTENTION0 = "encoder.layer.0/attention"


def test_strangers_words_reach_prompts_and_texts_as_data_only() -> None:
    for text in HOSTILE:
        whole = strange(text)
        card = CARDS.knowledge["redundant-heads"].model_copy(update={"body": f"{text}\n\n{text}"})
        cards = CARDS.__class__(
            agents=CARDS.agents, prompts=CARDS.prompts, metrics=CARDS.metrics,
            knowledge={**CARDS.knowledge, "redundant-heads": card},
            strategies=CARDS.strategies, speedups=CARDS.speedups,
            vocabularies=CARDS.vocabularies,
        )  # fmt: skip

        def answer(request: LLMRequest, text: str = text) -> str:
            words = f"Heads differ. {text} `{text}` is idle. {text}"
            body: dict[str, Any] = {"text": words[:5900]}
            if request.agent == "critic":
                about = json.loads(request.prompt.split("<data>")[1].split("</data>")[0])
                target = about["proposals"]["shown"][0]["id"]
                body["objections"] = [{"about": target, "kind": "risk", "text": words[:1100]}]
            elif request.agent == "strategist":
                body |= {"choices": [{"candidate": IDS[0], "rationale": words[:1100]}]}
                body["variants"] = []
            else:
                body["finding_ids"] = []
            return json.dumps(body)

        llm = ScriptedLLM(answer)
        line = Line(llm=llm, settings=LLMSettings())
        said = interpret(whole, cards, line)
        whole = whole.model_copy(update={"interpretations": said.interpretations})
        plan = propose(whole, candidates(), cards, SETTINGS, line)
        doubts = criticise(whole, plan.proposals, cards, line)
        assert not said.failures + plan.failures + doubts.failures, text
        for request in llm.requests:
            assert request.prompt.count("<data>") == request.prompt.count("</data>") == 1
            block = request.prompt.split("<data>\n")[1].split("\n</data>")[0]
            assert "\n" not in block
            shown = json.loads(block)
            assert shown["model"]["name"].startswith(text[:500])
        for advice in (said, plan, doubts, interpret(whole, cards)):
            for words in told_by(advice):
                assert words.replace("\n", " ").isprintable()
        spoken = [one for one in said.interpretations if one.voice != "rules"]
        assert all(one.text.startswith("Heads differ.") for one in spoken)
        numbers = Numbers(Facts(whole, candidates()))
        for words in told_by(said):
            assert numbers.others_in(words) == [], (text, words)


def test_rules_speak_of_strangers_names_without_loss() -> None:
    """Most names can be quoted; where one cannot, its sentences are struck and counted."""
    lost = 0
    for text in HOSTILE:
        for told in interpret(strange(text), CARDS).interpretations:
            assert told.text
            lost += told.struck
    assert lost < 120
