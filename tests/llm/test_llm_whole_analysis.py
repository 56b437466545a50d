"""A whole analysis with a language model behind HTTP; the second time nothing is sent."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import factories
import pytest
from llm.fakeserver import completion

import zsei
from zsei.records import AnalysisRecord
from zsei.settings import LLMSettings, Settings

SAID: dict[str, dict[str, Any]] = {
    "Reading": {"text": "The model has {model:parameters} parameters, not 7.", "finding_ids": []},
    "StrategyPlan": {"text": "There is nothing else to try.", "choices": [], "variants": []},
    "Critique": {"text": "Nothing speaks against it.", "objections": []},
}
SAID["Reading"]["text"] += " They number {model:parameters}."


class Analyst(BaseHTTPRequestHandler):
    """Answers each question with what fits the schema that it asks for."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["response_format"]["json_schema"]["name"]
        self.asked.append(name)
        reply = json.dumps(completion(json.dumps(SAID[name]))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the answers that were asked for over HTTP."""
    found: list[str] = []
    handler = type("Handler", (Analyst,), {"asked": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-nobody")
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def analysis(home: Path, **given: Any) -> AnalysisRecord:
    model, data = factories.tiny_mlp()
    settings = Settings(
        home=home, samples=24, batch_size=8, probes=2, ablation_sample=4, max_proposals=2,
        bootstrap=200, min_channels=4, random_paths=5, halves=False, llm="openai/analyst",
        rounds=1, llm_call=LLMSettings(**given),
    )  # fmt: skip
    return zsei.analyze(model, data, settings=settings)


def test_the_second_analysis_asks_nothing_and_is_the_same(home: Path, asked: list[str]) -> None:
    first = analysis(home)
    assert not first.failures
    sent = list(asked)
    assert sent.count("Reading") == 5
    assert {"StrategyPlan", "Critique"} <= set(sent)
    told = [said for said in first.interpretations if said.voice == "openai/analyst"]
    parameters = f"{first.provenance.parameters:,}"
    assert all(said.struck == 1 for said in told if said.agent == "flow")
    assert {said.text for said in told if said.agent == "flow"} == {f"They number {parameters}."}
    second = analysis(home)
    assert asked == sent
    assert second.without_timings() == first.without_timings()


def test_a_budget_stops_before_the_call_that_would_pass_it(home: Path, asked: list[str]) -> None:
    record = analysis(home, max_calls=2, cache=False)
    assert len(asked) == 2
    (failure,) = {failure.why for failure in record.failures}
    assert "2 calls" in failure
    assert record.verdicts
