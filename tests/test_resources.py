"""Cards: found, checked when loaded, overridden by a user's folder, hashed."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from zsei import resources
from zsei.cards import Cards
from zsei.errors import CardError
from zsei.resources import data_root, load_cards
from zsei.settings import Settings

AGENT = """---
name: doubter
version: 1
purpose: Doubt what was said.
stage: interpret
prompt: explain-flow
output: Reading
evidence: [findings]
budget: {tokens: 500, seconds: 20}
on_failure: rules
---
You doubt.
"""
PROMPT = """---
name: doubt
version: 2
inputs: [data]
---
Doubt this: {{data}} and {{ data }}
"""
KNOWLEDGE = """---
id: dead-units
kind: finding
title: Mine
sources: ["A. Nobody, Nothing, 2020"]
---
First
paragraph.

Second.
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Settings]:
    """Puts a file into a user's folder and returns settings that name the folder."""

    def write(name: str, content: str | bytes) -> Settings:
        path = tmp_path / "cards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Settings(cards=tmp_path / "cards")

    return write


@pytest.fixture(scope="module")
def shipped() -> Cards:
    return load_cards(Settings())


def test_what_ships(shipped: Cards) -> None:
    stages = {name: card.stage for name, card in shipped.agents.items()}
    readers = ("architecture", "flow", "gradients", "integration", "redundancy")
    assert {stages[name] for name in readers} == {"interpret"}
    assert (stages["strategist"], stages["critic"]) == ("propose", "criticise")
    assert {"prune-heads", "prune-neurons", "prune-channels", "remove-layer"} <= set(
        shipped.strategies
    )
    assert len(shipped.knowledge) >= 17
    assert "effective_rank" in shipped.metrics


def test_hashes_name_every_file(shipped: Cards) -> None:
    hashes = shipped.hashes()
    files = [path for shelf in resources.SHELVES for path in (data_root() / shelf).iterdir()]
    assert set(hashes) == {f"{path.parent.name}/{path.stem}" for path in files}
    for path in files:
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert hashes[f"{path.parent.name}/{path.stem}"] == sha[:12]
    assert list(hashes) == sorted(hashes)


def test_cards_cannot_be_changed(shipped: Cards) -> None:
    with pytest.raises(ValidationError):
        shipped.agents["flow"].system = "obey"  # type: ignore[misc]
    with pytest.raises(TypeError):
        shipped.agents["mine"] = shipped.agents["flow"]  # type: ignore[index]


def test_a_new_agent_needs_no_python(write: Callable[..., Settings], shipped: Cards) -> None:
    cards = load_cards(write("agents/doubter.md", AGENT))
    assert set(cards.agents) == {*shipped.agents, "doubter"}
    assert cards.agents["doubter"].system == "You doubt."
    assert cards.agents["flow"] == shipped.agents["flow"]


def test_a_file_of_the_same_name_overrides(write: Callable[..., Settings], shipped: Cards) -> None:
    cards = load_cards(write("knowledge/dead-units.md", KNOWLEDGE))
    assert cards.knowledge["dead-units"].title == "Mine"
    assert cards.knowledge["dead-units"].meaning == "First paragraph."
    assert set(cards.knowledge) == set(shipped.knowledge)
    changed = {k for k, v in cards.hashes().items() if shipped.hashes()[k] != v}
    assert changed == {"knowledge/dead-units"}


def test_line_ends_make_no_difference(write: Callable[..., Settings]) -> None:
    first = load_cards(write("agents/doubter.md", AGENT)).agents["doubter"]
    second = load_cards(write("agents/doubter.md", AGENT.replace("\n", "\r\n"))).agents["doubter"]
    assert first == second


def test_a_prompt_is_filled_in_one_pass(write: Callable[..., Settings]) -> None:
    prompt = load_cards(write("prompts/doubt.md", PROMPT)).prompts["doubt"]
    assert prompt.fill(data="<{{data}}>") == "Doubt this: <{{data}}> and <{{data}}>"
    with pytest.raises(CardError, match="must be filled with data, but got none"):
        prompt.fill()
    with pytest.raises(CardError, match="data, purpose"):
        prompt.fill(data="", purpose="")


@pytest.mark.parametrize(
    ("stage", "output"),
    [("plan", "QuestionPlan"), ("answer", "Wording"), ("converse", "NextStep")],
)
def test_agents_of_every_stage_may_stand_in_a_card(
    write: Callable[..., Settings], stage: str, output: str
) -> None:
    evidence = "[findings]" if stage == "converse" else "[question]"
    card = AGENT.replace("stage: interpret", f"stage: {stage}").replace("Reading", output)
    card = card.replace("[findings]", evidence)
    assert load_cards(write("agents/doubter.md", card)).agents["doubter"].stage == stage


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("agents/doubter.md", AGENT.replace("on_failure: rules", "on_failure: stop"), "on_failure"),
        ("agents/doubter.md", AGENT.replace("name: doubter", "name: other"), "file's name"),
        ("agents/doubter.md", AGENT.replace("[findings]", "[secrets]"), "evidence.0"),
        ("agents/doubter.md", AGENT.replace("[findings]", "[]"), "evidence"),
        ("agents/doubter.md", AGENT.replace("version: 1", "knowledge: [nothing]"), "version"),
        ("agents/doubter.md", AGENT.replace("on_f", "knowledge: [nil]\non_f"), "nil"),
        ("agents/doubter.md", AGENT[:60], "front matter"),
        ("agents/doubter.md", "", "front matter"),
        ("agents/doubter.md", AGENT.replace("Reading", "os.system"), "output"),
        ("agents/doubter.md", AGENT.replace("Reading", "StrategyPlan"), "Reading"),
        ("agents/doubter.md", AGENT.replace("explain-flow", "nowhere"), "no prompt 'nowhere'"),
        ("agents/doubter.md", AGENT.replace("tokens: 500", "tokens: 0"), "budget.tokens"),
        ("agents/doubter.md", AGENT.replace("version: 1", "version: 1\ntools: [shell]"), "tools"),
        ("agents/doubter.md", AGENT.replace("version: 1", "system: x"), "'system'"),
        ("agents/doubter.md", AGENT.replace("version: 1", "hash: x"), "'hash'"),
        ("agents/doubter.md", AGENT.replace("You doubt.", "  "), "system"),
        ("agents/doubter.md", "You doubt.", "front matter"),
        ("agents/doubter.md", "---\n- a\n---\nx", "name: value"),
        ("agents/doubter.md", "---\nname: [\n---\nx", "YAML"),
        ("agents/doubter.md", "---\nname: !!python/name:os.system\n---\nx", "YAML"),
        ("agents/doubter.md", b"---\nname: \xff\n---\nx", "UTF-8"),
        ("agents/doubter.md", AGENT + "x" * 300_000, "262144 bytes"),
        ("prompts/doubt.md", PROMPT.replace("[data]", "[data, purpose]"), "slots it declares"),
        ("prompts/doubt.md", PROMPT.replace("[data]", "[]"), "slots it declares"),
        ("prompts/doubt.md", PROMPT.replace("[data]", "[password]"), "inputs.0"),
        ("prompts/doubt.md", PROMPT.replace("{{data}}", "{{data.__class__}}"), "slots"),
        ("prompts/doubt.md", PROMPT + "{{", "stray"),
        ("prompts/doubt.md", PROMPT + "{% for x in y %}{{", "stray"),
        ("knowledge/dead-units.md", KNOWLEDGE.replace("finding", "rumour"), "kind"),
        ("knowledge/dead-units.md", KNOWLEDGE.replace('["A. Nobody, Nothing, 2020"]', "[]"), "sou"),
        ("knowledge/other.yaml", "a: 1", "metrics.yaml, strategies.yaml"),
        ("knowledge/metrics.yaml", "metrics: [{name: rms}]", "metrics.0"),
        ("knowledge/metrics.yaml", "metrics: []\nmore: 1", "more"),
    ],
)
def test_a_card_that_does_not_fit(
    write: Callable[..., Settings], name: str, content: str | bytes, message: str
) -> None:
    settings = write(name, content)
    with pytest.raises(CardError) as caught:
        load_cards(settings)
    said = str(caught.value)
    assert message in said
    assert Path(name).stem in said
    assert ", but " in said
    assert "\n" not in said


def test_names_stand_once_in_a_vocabulary(write: Callable[..., Settings]) -> None:
    text = (data_root() / "knowledge/metrics.yaml").read_text()
    with pytest.raises(CardError, match="names rms again"):
        load_cards(write("knowledge/metrics.yaml", text.replace("name: mean_abs", "name: rms")))


def test_a_strategy_needs_its_technique(write: Callable[..., Settings]) -> None:
    text = (data_root() / "knowledge/strategies.yaml").read_text()
    settings = write("knowledge/strategies.yaml", text.replace("layer-removal", "dead-units"))
    with pytest.raises(CardError, match=r"remove-layer.*'dead-units'"):
        load_cards(settings)


def test_a_folder_without_cards(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CardError, match="has none of them"):
            load_cards(Settings(cards=folder))


def test_an_installed_package_carries_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a wheel the folders lie in zsei/_data, and what lies beside the package is not ours."""
    package = tmp_path / "site-packages" / "zsei"
    for shelf in resources.SHELVES:
        (package / "_data" / shelf).mkdir(parents=True)
    (tmp_path / "site-packages" / "agents").mkdir()
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert data_root() == package / "_data"
    (package / "_data" / "prompts").rmdir()
    with pytest.raises(CardError, match="install ZSEI again"):
        data_root()


def test_reading_cards_loads_nothing_heavy() -> None:
    program = (
        "import sys; from zsei.resources import load_cards; from zsei.settings import Settings\n"
        "load_cards(Settings())\n"
        "assert not {'torch', 'litellm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
