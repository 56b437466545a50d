"""`zsei agents`: who speaks, whether all cards fit, and the prompt of a stored analysis."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from advice.advice_records import candidates, record, verdict
from pydantic import BaseModel

import zsei
from tests import factories
from zsei.cli import main
from zsei.cli.agents import _outputs
from zsei.errors import LLMRefused
from zsei.llm import ScriptedLLM
from zsei.llm.schema_rules import faults
from zsei.llm.types import LLMRequest
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Record
from zsei.resources import data_root, load_cards
from zsei.settings import Settings

CARD = """---
name: {name}
version: 3
purpose: Say which heads are alike.
stage: {stage}
prompt: {prompt}
output: {output}
evidence: [{evidence}]
knowledge: [{knowledge}]
budget: {{tokens: 500, seconds: 20}}
on_failure: rules
---
You compare heads.
"""
GOOD = {
    "name": "twins", "stage": "interpret", "prompt": "mine", "output": "Reading",
    "evidence": "model, redundancy", "knowledge": "redundant-heads",
}  # fmt: skip
PROMPT = "---\nname: mine\nversion: 1\ninputs: [purpose, data]\n---\n{{purpose}} Look: {{data}}\n"


def folder_with(tmp_path: Path, **changes: str) -> Path:
    """A user's folder with an agent and a prompt; changes break it."""
    folder = tmp_path / "mine"
    prompt = changes.pop("template", PROMPT)
    for name, content in (
        ("agents/twins.md", changes.pop("whole", None) or CARD.format(**GOOD | changes)),
        ("prompts/mine.md", prompt),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["agents", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_agent_is_listed_with_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path)
    monkeypatch.setenv("ZSEI_CARDS", str(folder))
    rows = {row["name"]: row for row in printed(capsys, "list")["agents"]}
    cards = load_cards(Settings())
    assert set(rows) == set(cards.agents)
    own = rows.pop("twins")
    assert own["from"] == str(folder / "agents" / "twins.md")
    assert (own["stage"], own["version"], own["evidence"]) == (
        "interpret", 3, ["model", "redundancy"],
    )  # fmt: skip
    assert {row["from"] for row in rows.values()} == {"shipped"}
    assert all(row["hash"] == cards.agents[name].hash for name, row in rows.items())
    assert main(["agents", "list"]) == 0
    shown = capsys.readouterr().out
    for name in cards.agents:
        assert name in shown


def test_a_good_folder_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = printed(capsys, "check")
    assert shipped["folder"] is None
    body = printed(capsys, "check", str(folder_with(tmp_path)))
    assert body["agents"] == shipped["agents"] + 1
    assert body["prompts"] == shipped["prompts"] + 1
    assert main(["agents", "check", str(tmp_path / "mine")]) == 0
    assert "All cards fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stage": "dream"}, "agents/twins.md must fit in 'stage'"),
        ({"output": "StrategyPlan"}, "its stage 'interpret' needs, Reading"),
        ({"output": "Poem"}, "must fit in 'output'"),
        ({"prompt": "nobody"}, "there is no prompt 'nobody'"),
        ({"evidence": "everything"}, "must fit in 'evidence"),
        ({"knowledge": "nothing-known"}, "none called nothing-known"),
        ({"name": "other"}, "must carry its file's name"),
        ({"template": PROMPT.replace("{{data}}", "")}, "must use exactly the slots"),
        ({"template": PROMPT.replace("{{data}}", "{{data}")}, "prompts/mine.md must"),
        ({"whole": "---\nname: twins\nversion: 3\npurp"}, "must begin with front matter"),
        ({"whole": "---\nname: [twins\n---\nx"}, "must hold valid YAML"),
    ],
)
def test_a_broken_card_is_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], says: str
) -> None:
    folder = folder_with(tmp_path, **changes)
    assert main(["agents", "check", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert main(["agents", "check", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "CardError"


def test_a_folder_without_cards_is_no_folder_of_cards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["agents", "check", str(folder)]) == 1
        assert "must name a folder with agents, prompts or knowledge" in capsys.readouterr().err


class Point(Record):
    x: int


class Open(BaseModel):
    x: int


class Deep(Record):
    class Two(Record):
        class Three(Record):
            class Four(Record):
                x: int

            four: Four

        three: tuple[Three, ...]

    two: Two


class Wrong(Record):
    maybe: int | None
    preset: str = "x"
    names: dict[str, int]
    points: tuple[Point, ...]
    loose: Open


def test_what_some_provider_would_not_take_is_found() -> None:
    assert faults(Point) == ()
    assert faults(Open) == ("Open must be closed to further fields and no dict",)
    assert faults(Deep) == ("Deep.two.three.four must not lie deeper than 3 objects",)
    assert faults(Wrong) == ("Wrong must require all of its fields",)
    assert {output: faults(kind) for output, kind in _outputs().items()} == dict.fromkeys(
        _outputs(), ()
    )


def test_the_card_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = (data_root() / "agents" / "strategist.md").read_text()
    body = printed(capsys, "show", "strategist")
    assert body["system"].strip() == text.split("---\n", 2)[2].strip()
    assert body["stage"] == "propose"
    assert main(["agents", "show", "strategist"]) == 0
    shown = capsys.readouterr().out
    assert text.split("---\n", 2)[2].strip() in shown
    assert load_cards(Settings()).prompts["propose-changes"].template in shown
    assert main(["agents", "show", "nobody"]) == 2
    assert "zsei agents list" in capsys.readouterr().err


def test_what_an_interpreting_agent_was_sent_is_shown_to_the_letter(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests of a real analysis, kept by the scripted model, against those of its record."""
    sent: dict[str, LLMRequest] = {}

    def answer(request: LLMRequest) -> LLMRefused:
        sent[request.agent] = request
        return LLMRefused("It declined.")

    monkeypatch.setattr("zsei.llm.line.connect", lambda settings: ScriptedLLM(answer))
    model, data = factories.tiny_mlp()
    settings = Settings(
        home=home, samples=24, batch_size=8, probes=2, ablation_sample=4, bootstrap=200,
        max_proposals=1, rounds=1, random_paths=5, halves=False, llm="scripted",
    )  # fmt: skip
    run = zsei.analyze(model, data, settings=settings)
    assert run.failures
    agents = [c.name for c in load_cards(settings).agents.values() if c.stage == "interpret"]
    assert len(agents) >= 5
    for name in agents:
        body = printed(capsys, "show", name, "--run", run.id)
        assert body["system"] == sent[name].system
        assert body["prompt"] == sent[name].prompt
        assert body["answer_schema"] == sent[name].answer_schema
        assert body["hash"] == sent[name].hash
    assert main(["agents", "show", agents[0], "--run", run.id]) == 0
    assert "<data>" in capsys.readouterr().out


def test_those_who_propose_and_doubt_are_shown_what_was_tried(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = candidates()[:2]
    judged: AnalysisRecord = record(proposals=tried, verdicts=tuple(map(verdict, tried)))
    Memory(home).add(judged)
    for name, part in (("strategist", "verdicts"), ("critic", "proposals")):
        body = printed(capsys, "show", name, "--run", judged.id)
        data = json.loads(body["prompt"].split("<data>\n")[1].split("\n</data>")[0])
        assert {row["id"] for row in data[part]["shown"]} == {p.id for p in tried}
    for name in ("librarian", "planner", "guide"):
        assert main(["agents", "show", name, "--run", judged.id]) == 2
        assert "about a question" in capsys.readouterr().err
    assert main(["agents", "show", "critic", "--run", "r-nothing"]) == 2


def test_a_half_written_card_stops_an_analysis_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the analysis started")

    monkeypatch.setattr("zsei.pipeline.prepare", work)
    folder = folder_with(tmp_path, whole="---\nname: twins\nversion: 3\npurpose: Say whi")
    monkeypatch.setenv("ZSEI_CARDS", str(folder))
    assert main(["analyze", "tests.factories:tiny_mlp", "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "agents/twins.md must begin with front matter" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not [path for path in home.rglob("*") if path.suffix == ".jsonl"]
    monkeypatch.delenv("ZSEI_CARDS")
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [], "documents": []}


def test_listing_and_checking_load_neither_torch_nor_a_client() -> None:
    program = "import sys, zsei.cli; assert zsei.cli.main(['agents', 'list']) == 0"
    report = "print(sorted({'torch', 'litellm', 'chromadb'} & set(sys.modules)), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True
    )
    assert ended.stderr.strip() == "[]"
