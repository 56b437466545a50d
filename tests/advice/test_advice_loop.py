"""Proposing and judging in turns: on models that were really trained, and with anybody talking."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import factories
import pytest
from advice.strategists import (
    Speaker,
    babble,
    harmful,
    hostile,
    learner,
    refusing,
    targets,
)

from tests.trained import TRAINED
from zsei.advice.loop import seen, take_turns
from zsei.analyzers.context import Analysis
from zsei.assembly import draft_record
from zsei.gate import rounds
from zsei.gate import trial as trials
from zsei.gate.result import Outcome
from zsei.gate.rounds import Bench
from zsei.gate.sandbox import Trial
from zsei.graph.build import build_graph
from zsei.importance.ranking import rank
from zsei.llm import Line, ScriptedLLM
from zsei.records import AnalysisRecord, Measurement, Proposal, Verdict
from zsei.resources import load_cards
from zsei.settings import LLMSettings, Settings
from zsei.strategies.candidates import candidates
from zsei.strategies.scores import removal_scores
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.trace.engine import engine_for
from zsei.trace.run import trace

CARDS = load_cards(Settings())
SMALL = Settings(
    batch_size=16, probes=2, ablation_sample=2, truth_samples=16, max_proposals=3, rounds=1,
    bootstrap=200, min_channels=4, min_heads=1, max_layer_share=0.5,
)  # fmt: skip
LARGER = ("gpt2", "llama", "vit")
SAMPLES = {"gpt2": 32, "llama": 32, "cnn": 400, "vit": 250, "patchtst": 64}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with all that is known before the first proposal."""

    record: AnalysisRecord
    possible: tuple[Proposal, ...]
    bench: Bench


def case_of(model: Any, data: Any, settings: Settings) -> Case:
    subject = prepare(model, data, settings=settings)
    engine = engine_for(subject)
    traced = trace(subject, settings, engine=engine, clock=False)
    importance = rank(subject, engine, traced, settings)
    analysis = Analysis(
        subject=subject, engine=engine, trace=traced, flow=build_graph(subject, traced),
        importance=importance, settings=settings,
    )  # fmt: skip
    scores = removal_scores(subject, traced, importance)
    alike = {site: units.duplicates for site, units in traced.units.items()}
    return Case(
        record=draft_record(analysis, (), (), cards={}),
        possible=candidates(subject, scores, settings, alike),
        bench=Bench(subject=subject, scores=scores, means=traced.means, settings=settings),
    )


@cache
def trained(name: str) -> Case:
    return case_of(*TRAINED[name](), SMALL.model_copy(update={"samples": SAMPLES[name]}))


def turns(case: Case, speaker: Speaker | None, calls: int = 40) -> tuple[AnalysisRecord, Outcome]:
    """What came of it; without a speaker the rules are alone."""
    line = None
    if speaker is not None:
        line = Line(
            llm=ScriptedLLM(speaker, name="some/model"), settings=LLMSettings(max_calls=calls)
        )
    record, outcome = take_turns(case.record, case.possible, case.bench, CARDS, line)
    return seen(record, outcome), outcome


def never_worse(alone: tuple[AnalysisRecord, Outcome], found: tuple[AnalysisRecord, Outcome]):
    """All that must hold whatever was said: the rules' own turn, each verdict, and the gain."""
    (plain, rules), (record, outcome) = alone, found
    assert record.rounds[: len(plain.rounds)] == plain.rounds
    assert outcome.proposals[: len(rules.proposals)] == rules.proposals
    for name, judged in rules.trials.items():
        assert outcome.trials[name].verdict == judged.verdict
    assert (outcome.gain() or 0.0) >= (rules.gain() or 0.0)
    tried = [name for turn in record.rounds for name in turn.proposal_ids]
    assert tried == [proposal.id for proposal in outcome.proposals]
    assert len(set(tried)) == len(tried)
    verdicts = {verdict.proposal_id: verdict.outcome for verdict in record.verdicts}
    gains = [turn.gain or 0.0 for turn in record.rounds]
    assert gains == sorted(gains)
    for number, turn in enumerate(record.rounds, 1):
        assert turn.number == number
        for name, count in turn.outcomes.items():
            assert count == sum(verdicts[p] == name for p in turn.proposal_ids)
        assert sum(turn.outcomes.values()) == len(turn.proposal_ids)
    assert {verdicts[proposal.id] for proposal in outcome.best()} <= {"accepted"}
    places = [p.priority for p in outcome.proposals if not p.rationale.startswith("The less imp")]
    assert places == sorted(set(places))


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edited copies are not saved and loaded back: most of the time of an accepted trial."""
    monkeypatch.setattr(trials, "artefact_difference", lambda *_: 0.0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "cnn" else pytest.mark.long)
        for name in ("cnn", "gpt2", "llama", "patchtst", "vit")
    ],
)
def test_a_strategist_that_starts_badly_learns_from_the_verdicts(name: str, in_memory) -> None:
    case = trained(name)
    alone = turns(case, None)
    found = turns(case, learner(targets(case.bench.subject)))
    never_worse(alone, found)
    record, outcome = found
    assert [turn.voice for turn in record.rounds] == ["rules"] + ["some/model"] * 3
    ended = [set(turn.outcomes) for turn in record.rounds[1:]]
    assert "rejected" in ended[0]
    assert "accepted" not in ended[0]
    assert "accepted" in ended[1] | ended[2]
    assert {p.source for p in outcome.best()} >= {"some/model"}
    assert (outcome.gain() or 0.0) > (alone[1].gain() or 0.0)
    assert record.failures == ()


@pytest.fixture
def judged_once(monkeypatch: pytest.MonkeyPatch, in_memory) -> None:
    """A verdict depends on the proposal alone, as the test above shows: each is measured once."""
    real = rounds.try_edits

    def known(subject: Subject, proposal: Proposal, *rest: Any, **options: Any) -> Trial:
        key = subject.model_hash, proposal.id
        if key not in VERDICTS:
            VERDICTS[key] = real(subject, proposal, *rest, **options)
        return VERDICTS[key]

    monkeypatch.setattr(rounds, "try_edits", known)


VERDICTS: dict[tuple[str, str], Trial] = {}


@pytest.mark.parametrize(
    "name",
    ["cnn", *(pytest.param(n, marks=pytest.mark.long) for n in ("patchtst", *LARGER))],
)
def test_no_strategist_makes_it_worse_than_rules_alone(name: str, judged_once) -> None:
    case = trained(name)
    alone = turns(case, None)
    bad = harmful(targets(case.bench.subject))
    for speaker in (bad, hostile, refusing, lambda _: "nonsense", babble(1)):
        record, outcome = turns(case, speaker)
        never_worse(alone, (record, outcome))
        if speaker in (bad, hostile):
            assert len(record.rounds) > 1
            assert not record.failures
        if speaker is bad:
            assert "accepted" not in record.rounds[1].outcomes
            assert {o.about for o in record.objections} >= set(record.rounds[1].proposal_ids)
        if speaker is refusing:
            assert record.rounds == alone[0].rounds
            assert record.proposals == alone[0].proposals
            assert "declined" in record.failures[0].why


def decided(name: str) -> Trial:
    """A gate's answer that depends on the proposal's id alone; together they save their sum."""
    outcome = random.Random(name).choice(("accepted", "accepted", "rejected", "inconclusive"))
    left = 100 - sum(random.Random(one).randrange(8) for one in name.split("+"))
    before, after = ((Measurement(name="parameters", value=size),) for size in (100, left))
    return Trial(
        verdict=Verdict(
            proposal_id=name, outcome=outcome, before=before, after=after, reason=outcome
        )
    )


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate measures nothing and decides at once."""
    monkeypatch.setattr(rounds, "try_proposal", lambda _, proposal: (decided(proposal.id), {}))
    monkeypatch.setattr(rounds, "_joined", lambda _, __, ___, name: decided(name))


class Watch:
    """A clock that runs out after so many looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def out_of_time(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def tiny() -> Case:
    changed = {"samples": 24, "max_proposals": 2, "rounds": 2, "batch_size": 8}
    return case_of(*factories.tiny_mlp(), SMALL.model_copy(update=changed))


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 1100), marks=pytest.mark.long)], ids=str
)
def test_whoever_talks_the_loop_ends_and_is_never_worse(tiny: Case, invented, seeds: range) -> None:
    """Any answers, any small budget, any moment at which the time ends."""
    chance = random.Random(seeds.start)
    ended: Counter[str] = Counter()
    rules: dict[int, tuple[AnalysisRecord, Outcome]] = {}
    for seed in seeds:
        looks = chance.choice((10**6, chance.randrange(12)))
        calls = chance.choice((40, chance.randrange(1, 8)))

        def timed(looks: int = looks) -> Case:
            return replace(tiny, bench=replace(tiny.bench, out_of_time=Watch(looks).out_of_time))

        alone = rules[looks] = rules.get(looks) or turns(timed(), None)
        found = turns(timed(), babble(seed), calls=calls)
        never_worse(alone, found)
        known = {component.id for component in tiny.record.components}
        assert all(known.issuperset(p.components) for p in found[0].proposals)
        ended["turns"] += len(found[0].rounds) - 1
        ended["failures"] += len(found[0].failures)
        ended["objections"] += len(found[0].objections) > len(alone[0].objections)
        ended["gained"] += (found[1].gain() or 0) > (alone[1].gain() or 0)
    assert min(ended.values()) > len(seeds) / 20, ended


def test_the_end_of_a_budget_is_no_failure(tiny: Case, invented) -> None:
    speaker = learner(targets(tiny.bench.subject))
    whole, _ = turns(tiny, speaker)
    assert len(whole.rounds) > 2
    for calls in range(1, 4):  # a plan and a critique make a turn
        record, _ = turns(tiny, speaker, calls)
        assert len(record.rounds) == 1 + (calls + 1) // 2
        assert record.failures == ()
        tried = [turn.proposal_ids for turn in whole.rounds]
        assert [turn.proposal_ids for turn in record.rounds] == tried[: len(record.rounds)]
    poor = Line(llm=ScriptedLLM(speaker), settings=LLMSettings(max_total_tokens=10))
    record, _ = take_turns(tiny.record, tiny.possible, tiny.bench, CARDS, poor)
    assert len(record.rounds) == 1
    assert [failure.stage for failure in record.failures] == ["advice"]


def test_nobody_is_asked_where_nothing_can_be_tried(tiny: Case) -> None:
    llm = ScriptedLLM([])
    closed = replace(tiny.bench, closed="the model is too large to copy")
    record, outcome = take_turns(tiny.record, tiny.possible, closed, CARDS, Line(llm=llm))
    assert [turn.outcomes for turn in record.rounds] == [{"inconclusive": 2}]
    record, outcome = take_turns(tiny.record, (), tiny.bench, CARDS, Line(llm=llm))
    assert (record.rounds, outcome.proposals, record.failures) == ((), [], ())
    assert llm.requests == []


def test_two_runs_with_one_script_are_the_same(tiny: Case, invented) -> None:
    first, second = (turns(tiny, babble(5))[0] for _ in range(2))
    assert first.model_dump_json() == second.model_dump_json()
