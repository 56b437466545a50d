"""A whole analysis with a language model behind HTTP; the second time nothing is sent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
from llm.fakeserver import SCENARIOS, FakeServer, completion

import zsei
from zsei.records import AnalysisRecord
from zsei.settings import LLMSettings, Settings

Asked = Callable[[], list[str]]
SAID: dict[str, dict[str, Any]] = {
    "Reading": {
        "text": "The model has {model:parameters} parameters, not 7. "
        "They number {model:parameters}.",
        "finding_ids": [],
    },
    "StrategyPlan": {"text": "There is nothing else to try.", "choices": [], "variants": []},
    "Critique": {"text": "Nothing speaks against it.", "objections": []},
}


def answer(handler: Any, count: int, body: dict[str, Any]) -> None:
    """Each question gets what fits the schema that it asks for."""
    handler.send(200, completion(json.dumps(SAID[wanted(body)])))


def wanted(body: dict[str, Any]) -> str:
    """Name of the answer that a request asks for."""
    return body["response_format"]["json_schema"]["name"]


@pytest.fixture
def asked(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Names of the answers that were asked for over HTTP so far."""
    monkeypatch.setitem(SCENARIOS, "analyst", answer)
    return lambda: [wanted(body) for body in server.bodies["analyst"]]


def analysis(home: Path, **given: Any) -> AnalysisRecord:
    model, data = factories.tiny_mlp()
    settings = Settings(
        home=home, samples=24, batch_size=8, probes=2, ablation_sample=4, max_proposals=2,
        bootstrap=200, min_channels=4, random_paths=5, halves=False, llm="openai/analyst",
        rounds=1, llm_call=LLMSettings(**given),
    )  # fmt: skip
    return zsei.analyze(model, data, settings=settings)


def test_the_second_analysis_asks_nothing_and_is_the_same(home: Path, asked: Asked) -> None:
    first = analysis(home)
    assert not first.failures
    sent = asked()
    assert sent.count("Reading") == 5
    assert {"StrategyPlan", "Critique"} <= set(sent)
    told = [said for said in first.interpretations if said.voice == "openai/analyst"]
    parameters = f"{first.provenance.parameters:,}"
    assert all(said.struck == 1 for said in told if said.agent == "flow")
    assert {said.text for said in told if said.agent == "flow"} == {f"They number {parameters}."}
    second = analysis(home)
    assert asked() == sent
    assert second.without_timings() == first.without_timings()


def test_a_budget_stops_before_the_call_that_would_pass_it(home: Path, asked: Asked) -> None:
    record = analysis(home, max_calls=2, cache=False)
    assert len(asked()) == 2
    (failure,) = {failure.why for failure in record.failures}
    assert "2 calls" in failure
    assert record.verdicts
