"""`zsei llm log`, `cache` and `check`: what they say, and what they exit with."""

import json
from pathlib import Path
from typing import Any

import pytest
from llm.asking import KEY
from llm.fakeserver import SCENARIOS, FakeServer, _says, completion, error

from zsei.cli import main
from zsei.llm import CallRecord
from zsei.llm.cache import AnswerCache
from zsei.llm.tally import totals
from zsei.memory.store import Memory

GREEN = {"word": "green"}
CALLS = [
    CallRecord(
        agent="flow", model="openai/m", prompt_hash="1", input_tokens=100, output_tokens=20,
        attempts=2, tokens=120, cost=0.25, outcome="invalid", problem="share: Field required",
    ),
    CallRecord(
        agent="flow", model="openai/m", prompt_hash="2", input_tokens=110, output_tokens=30,
        tokens=140, cost=0.5, outcome="ok",
    ),
    CallRecord(
        agent="flow", model="openai/m", prompt_hash="1", input_tokens=0, output_tokens=0,
        attempts=0, cost=0.0, cached=True, outcome="cached",
    ),
    CallRecord(
        agent="strategist", model="[red]m\x1b[31m", prompt_hash="3", attempts=None, tokens=700,
        outcome="LLMTimeout", problem="too slow",
    ),
]  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str]:
    code = main(words.split())
    return code, capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, dict[str, Any]]:
    code, out = run(capsys, words)
    return code, json.loads(out)


def test_the_log_shows_each_call_and_the_sums(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(home).log_calls(CALLS)
    code, body = run_json(capsys, "llm log --json")
    assert code == 0
    assert [CallRecord.model_validate(call) for call in body["calls"]] == CALLS
    assert body["run"] is None
    assert body["totals"] == {
        "calls": 3, "cached": 1, "requests": 3, "input_tokens": 210, "output_tokens": 50,
        "tokens": 960, "cost": 0.75, "unpriced": 1,
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    code, text = run(capsys, "llm log")
    assert code == 0
    for words in (
        "invalid: share: Field required",
        "cached",
        "LLMTimeout: too slow",
        "$0.250000",
        "unknown",
        "3 calls (3 requests, 1 more from the cache)",
        "1 without a known",
    ):
        assert words in text  # fmt: skip
    assert "[red]m" in text  # a name is data, neither markup nor a terminal's code
    assert "\x1b" not in text


def test_the_log_of_one_analysis(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cli.cli_samples import sample_record

    memory = Memory(home)
    record = sample_record("accepted")
    memory.add(record)
    memory.log_calls(CALLS[:1], record.id)
    memory.log_calls(CALLS[1:])
    for name in (record.id, "last"):
        code, body = run_json(capsys, f"llm log {name} --json")
        assert (code, body["run"], len(body["calls"])) == (0, record.id, 1)
    code, body = run_json(capsys, "llm log nonsense --json")
    assert (code, body["error"]["type"]) == (2, "UsageError")


def test_an_empty_log_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "llm log") == (0, "No call to a language model is in memory.\n")


def test_sums_of_nothing_and_of_what_nobody_knows() -> None:
    assert totals([]).cost == 0
    assert totals(CALLS[3:]).cost is None
    assert totals(CALLS[2:3]).calls == 0


def test_the_cache_is_measured_and_emptied(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = AnswerCache(folder=home / "llm-cache")
    assert run_json(capsys, "llm cache --json")[1]["entries"] == 0
    assert not home.exists()  # looking makes nothing
    for number in range(3):
        cache.put(f"{number:064}", "x" * 1000)
    code, body = run_json(capsys, "llm cache --json")
    assert (code, body["entries"], body["removed"]) == (0, 3, 0)
    assert body["bytes"] == sum(path.stat().st_size for path in cache.folder.iterdir())
    assert "3 answers kept" in run(capsys, "llm cache")[1]
    assert run(capsys, "llm cache --clear")[1].startswith("3 answers forgotten. 0 answers kept")
    assert run_json(capsys, "llm cache --clear --json")[1]["removed"] == 0


def test_a_cache_that_cannot_be_emptied(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    AnswerCache(folder=home / "llm-cache").put("0" * 64, "x")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    code, body = run_json(capsys, "llm cache --clear --json")
    assert (code, body["error"]["type"]) == (1, "OutputError")
    assert "mend its permissions" in body["error"]["message"]


def test_a_model_that_answers(
    server: FakeServer, home: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(SCENARIOS, "green", _says(GREEN))
    monkeypatch.setenv("ZSEI_LLM_CALL__INPUT_PRICE", "1000")
    monkeypatch.setenv("ZSEI_LLM_CALL__OUTPUT_PRICE", "10000")
    assert main(["llm", "check", "--llm", "openai/green", "--json"]) == 0
    body = json.loads(capfd.readouterr().out)
    assert (body["ok"], body["error"], body["takes_schema"]) == (True, None, True)
    assert (body["input_tokens"], body["output_tokens"], body["attempts"]) == (11, 7, 1)
    assert body["cost"] == pytest.approx(0.011 + 0.07)
    monkeypatch.setenv("ZSEI_LLM", "openai/green")
    assert main(["llm", "check"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("openai/green answers: ")
    assert "takes JSON schemas" in said
    assert "11 + 7 tokens, $0.081000" in said
    assert len(server.bodies["green"]) == 2  # asked each time: a check is never from the cache
    assert not home.exists()


def test_a_model_that_answers_with_difficulty(
    server: FakeServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses_schemas(handler: Any, count: int, body: dict[str, Any]) -> None:
        if "response_format" in body:
            handler.send(400, error("response_format is not supported"))
        else:
            handler.send(200, completion("seven!" if count < 3 else json.dumps(GREEN)))

    monkeypatch.setitem(SCENARIOS, "hard", refuses_schemas)
    assert main(["llm", "check", "--llm", "openai/hard"]) == 0
    said = capfd.readouterr().out
    assert "answers after 1 re-ask" in said
    assert "refuses JSON schemas" in said
    assert "a price nobody knows" in said


@pytest.mark.parametrize(
    ("model", "error_name", "fix"),
    [
        ("none", "UsageError", "name one with --llm or ZSEI_LLM"),
        ("nonsense/m", "UsageError", "write provider/model"),
        ("openai/no-model", "LLMTransport", "check the name after the slash"),
        ("openai/unauthorised", "LLMAuth", "set the provider's key, usually in OPENAI_API_KEY"),
        ("openai/rate-limited-long", "LLMTransport", "try again later"),
        ("openai/refusal", "LLMRefused", "ask another model"),
        ("openai/prose", "LLMInvalid", "ask a stronger model"),
    ],
)
def test_what_does_not_work_is_one_sentence_with_the_fix(
    server: FakeServer,
    capfd: pytest.CaptureFixture[str],
    model: str,
    error_name: str,
    fix: str,
) -> None:
    assert main(["llm", "check", "--llm", model, "--json"]) == 4
    body = json.loads(capfd.readouterr().out)
    assert (body["ok"], body["error"]) == (False, error_name)
    assert fix in body["sentence"]
    assert main(["llm", "check", "--llm", model]) == 4
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert fix in out
    assert KEY not in out + err


def test_no_network_is_said(
    server: FakeServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    assert main(["llm", "check", "--llm", "openai/ok"]) == 4
    assert "check the network" in capfd.readouterr().out


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llm", "nonsense"]) == 2
    assert "llm --help" in capsys.readouterr().err
