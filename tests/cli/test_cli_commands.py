"""Each command asks the pipeline for the right thing and prints what it gets."""

import json
from pathlib import Path

import pytest
from cli_samples import FakePipeline, install, sample_record

from zsei.cli import main
from zsei.memory.store import Memory


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, sample_record("accepted", "rejected"))


def test_the_budget_of_a_language_model_joins_what_is_set_elsewhere(
    fake: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSEI_LLM_CALL__MAX_TOKENS", "700")
    words = "analyze --llm-calls 5 --llm-tokens 9000 --llm-cost 0.25 --quiet --json"
    assert main(words.split()) == 0
    limits = fake.calls[0].settings.llm_call
    assert (limits.max_calls, limits.max_total_tokens, limits.max_cost) == (5, 9000, 0.25)
    assert limits.max_tokens == 700


def test_analyze_passes_every_option_on(fake: FakePipeline, tmp_path: Path) -> None:
    for name in ("prose.txt", "code.txt"):
        (tmp_path / name).write_text("words")
    words = "analyze factories:tiny_mlp --data prose.txt --data c=code.txt --objective fidelity"
    more = "--safety aggressive --llm some/model --budget 9.5 --seed 7 --allow-remote-code --quiet"
    assert main([*words.split(), *more.split(), "--json"]) == 0
    (analyze,) = fake.calls
    assert analyze.model == "factories:tiny_mlp"
    assert analyze.data == {"prose": "prose.txt", "c": "code.txt"}
    assert analyze.objective == "fidelity"
    assert analyze.progress is None
    chosen = analyze.settings
    assert (chosen.safety, chosen.llm, chosen.budget) == ("aggressive", "some/model", 9.5)
    assert (chosen.seed, chosen.allow_remote_code) == (7, True)


def test_what_is_not_given_is_left_to_the_settings(
    fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    (tmp_path / "zsei.toml").write_text('safety = "conservative"\nseed = 3\n')
    monkeypatch.setenv("ZSEI_SEED", "4")
    monkeypatch.setenv("ZSEI_LLM", "some/model")
    assert main(["analyze", "--json"]) == 0
    analyze = fake.calls[0]
    assert (analyze.model, analyze.data, analyze.objective) == ("demo:minilm", None, "auto")
    chosen = analyze.settings
    assert (chosen.safety, chosen.seed, chosen.llm) == ("conservative", 4, "some/model")
    assert (chosen.budget, chosen.home, chosen.allow_remote_code) == (None, home, False)


@pytest.mark.parametrize("word", ["none", "NONE", ""])
def test_none_switches_the_language_model_off(
    word: str, fake: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSEI_LLM", "some/model")
    assert main(["analyze", "--llm", word, "--json"]) == 0
    monkeypatch.setenv("ZSEI_LLM", word)
    assert main(["analyze", "--json"]) == 0
    assert [call.settings.llm for call in fake.calls if call.name == "analyze"] == [None, None]


def test_analyze_names_the_files_it_wrote(
    fake: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "--out", "report"]) == 0
    assert "report/record.json" in capsys.readouterr().out
    body = (tmp_path / "report" / "record.json").read_text()
    assert type(fake.record).model_validate_json(body) == fake.record


def test_a_file_whose_name_holds_an_equals_sign_is_a_file(
    fake: FakePipeline, tmp_path: Path
) -> None:
    (tmp_path / "a=b.txt").write_text("words")
    assert main(["analyze", "--data", "a=b.txt", "--json"]) == 0
    assert fake.calls[0].data == {"a=b": "a=b.txt"}


def test_ask_prints_the_answer(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "how many?", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["citations"][0]["run"]) == ("Two.", fake.record.id)
    assert main(["ask", "how many?"]) == 0
    assert "Two." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("voice", "code"), [("some/model", 0), ("rules", 0), ("rules (LLMTimeout)", 4)]
)
def test_an_answer_where_the_model_failed_has_its_own_code(
    voice: str, code: int, fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.voice = voice
    assert main(["ask", "how many?", "--llm", "some/model", "--json"]) == code
    assert ("rules stood in: LLMTimeout" in capsys.readouterr().err) == (code == 4)


def test_list_and_show_read_the_memory(
    fake: FakePipeline, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Memory(home).add(fake.record)
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["id"], row["accepted"]) == (fake.record.id, 1)
    for run in (fake.record.id, fake.record.id[:6], "last"):
        assert main(["show", run, "--json"]) == 0
        shown = capsys.readouterr().out
        assert type(fake.record).model_validate_json(shown) == fake.record
    for words in (["list"], ["show", "last"]):
        assert main(words) == 0
        assert fake.record.provenance.model in capsys.readouterr().out


def test_apply_saves_the_edited_model(
    fake: FakePipeline, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Memory(home).add(fake.record)
    assert main(["apply", "last", "--out", "smaller", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    accepted, rejected = (proposal.id for proposal in fake.record.proposals)
    assert body["applied"] == [accepted]
    assert body["parameters"] == {"before": 1234, "after": 8}
    assert (tmp_path / "smaller" / "recipe.json").exists()

    assert main(["apply", "last", "--strategies", f"{accepted}, {rejected}", "--out", "both"]) == 0
    assert fake.calls[-1].strategies == (accepted, rejected)
    assert "1,234 parameters became 8" in capsys.readouterr().out


def test_applying_nothing_writes_nothing(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = install(monkeypatch, sample_record("rejected"))
    Memory(home).add(fake.record)
    assert main(["apply", "last", "--out", str(tmp_path / "smaller")]) == 3
    assert "accepted nothing" in capsys.readouterr().err
    assert not (tmp_path / "smaller").exists()
    assert fake.calls == []


def test_doctor_names_what_is_installed_and_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSEI_LLM", "some/model")
    assert main(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["llm"] == "some/model"
    assert lines["memory"] == f"{home}, not there yet"
    assert {"python", "zsei", "torch", "transformers", "litellm", "chromadb"} < lines.keys()
    assert not home.exists()
    Memory(home).add(sample_record())
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == f"{home}, 1 analysis"


def test_explain_knows_every_finding_code(capsys: pytest.CaptureFixture[str]) -> None:
    from zsei.analyzers import ANALYZERS

    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    for analyzer in ANALYZERS:
        assert f"{analyzer.code}: " in listed
        assert main(["explain", analyzer.code]) == 0
        text = capsys.readouterr().out
        for heading in ("Sources:", "Measures:", "Formula:", "Misleads when:"):
            assert heading in text, (analyzer.code, heading)


def test_explain_knows_techniques_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "head-pruning"]) == 0
    assert "Sources:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("layer-similarity", "References:"),
        ("attention_entropy", "Misleads when:"),
        ("output sensitivity", "Formula:"),
    ],
)
def test_explain_knows_measures_measurements_and_criteria(
    capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    assert main(["explain"]) == 0
    assert f"  {name}: " in capsys.readouterr().out
    assert main(["explain", name]) == 0
    assert says in capsys.readouterr().out


def test_an_unknown_code_is_answered_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "redundant-haeds"]) == 2
    assert "redundant-heads" in capsys.readouterr().err
