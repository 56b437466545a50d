"""The project's conventions, each as a test: a rule nobody checks is a rule nobody keeps."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zsei"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350
LIST_OF_TYPES = "records.py"
"""The one file that may be longer: the types that cross stages are read side by side."""

STAGES = (
    "records", "errors", "settings", "cards", "resources", "clock", "timing", "llm", "subject",
    "trace", "measures", "graph", "importance", "analyzers", "surgery", "strategies", "gate",
    "pruning", "profiling", "speedups", "speed", "claims", "advice", "memory", "report", "engines",
    "assembly", "checkpoint", "training", "pipeline", "measuring", "chat", "service", "cli",
)  # fmt: skip
"""A module imports from its own stage and from those left of it."""

DISPLAYS = {
    ("records.py", "graph"), ("records.py", "report"), ("graph/export.py", "report"),
    ("profiling/record.py", "report"),
}  # fmt: skip
"""Records and graphs show themselves: a method asks the drawing stages when it is displayed."""


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _stage(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_stages(path: Path) -> Iterator[str]:
    """Stages of ours that a module imports, anywhere in it; `zsei` alone has no stage."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            stage = rest.partition(".")[0]
            if head == "zsei" and stage in STAGES:
                yield stage


def test_every_module_belongs_to_a_stage() -> None:
    outside = {"__init__", "__main__", *STAGES}
    assert [_name(path) for path in MODULES if _stage(path) not in outside] == []


def test_imports_go_one_way() -> None:
    # The public names and the entry stand above the stages.
    inside = [p for p in MODULES if p.parent != PACKAGE or p.stem not in ("__init__", "__main__")]
    wrong = [
        f"{_name(path)} imports {stage}, which comes after it"
        for path in inside
        for stage in sorted(set(_imported_stages(path)))
        if STAGES.index(stage) > STAGES.index(_stage(path)) and (_name(path), stage) not in DISPLAYS
    ]
    assert wrong == []


def test_a_file_holds_one_idea() -> None:
    lines = {_name(path): len(path.read_text().splitlines()) for path in MODULES}
    long = {name: n for name, n in lines.items() if n > LONGEST and name != LIST_OF_TYPES}
    assert long == {}, "split them where a second idea begins"


def test_what_is_public_is_documented() -> None:
    bare = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            bare.append(f"{_name(path)} itself")
        undocumented = [name for name, node in _public(tree) if not ast.get_docstring(node)]
        bare += [f"{_name(path)}: {name}" for name in undocumented]
    assert bare == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and methods; what stands inside a function is its own."""
    for node in scope.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", inner) for name, inner in _public(node))


def test_the_public_names_are_what_the_package_resolves() -> None:
    import zsei

    assert len(set(zsei.__all__)) == len(zsei.__all__)
    for name in zsei.__all__:
        assert getattr(zsei, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        zsei.nonsense  # noqa: B018


def test_cards_are_data() -> None:
    """A package called `agents` would shadow another well-known one."""
    shelves = [ROOT / shelf for shelf in ("agents", "prompts", "knowledge")]
    assert all(any(shelf.iterdir()) for shelf in shelves)
    assert [path for shelf in shelves for path in shelf.rglob("*.py")] == []


def test_no_file_knows_one_machine() -> None:
    """No absolute path of one machine and no address of a package registry."""
    pattern = re.compile(
        r"(?:^|[^\w.~-])/(?:home|root|work|farm|opt)/[a-z.]"
        r"|https?://\S*(?:/simple/|/packages/|\.whl|registry)"
    )
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing says which files are ours")
    found = []
    for path in (ROOT / name for name in listing.split("\0") if name):
        try:
            lines = path.read_text().splitlines()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # binary, or deleted but not yet committed
        found += [f"{path}:{n}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


HEAVY = {"litellm", "chromadb", "sentence_transformers"}


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        ("import zsei", HEAVY),
        ("import sys, zsei.cli; assert zsei.cli.main(['--help']) == 0", HEAVY | {"torch"}),
        ("import sys, zsei.cli; assert zsei.cli.main(['--version']) == 0", HEAVY | {"torch"}),
    ],
    ids=["import", "help", "version"],
)
def test_starting_loads_nothing_heavy(program: str, forbidden: set[str]) -> None:
    report = "import json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, check=True, text=True
    )
    loaded = set(json.loads(ended.stderr))
    assert "zsei" in loaded
    assert loaded & forbidden == set()


def test_every_finding_code_has_a_knowledge_card() -> None:
    from zsei.analyzers import ANALYZERS
    from zsei.checkpoint.history.trends import CODES
    from zsei.resources import load_cards
    from zsei.settings import Settings

    cards = load_cards(Settings()).knowledge
    codes = [*(analyzer.code for analyzer in ANALYZERS), *CODES]
    assert len(set(codes)) == len(codes)
    assert {code for code in codes if code not in cards} == set()
    assert {cards[code].kind for code in codes} == {"finding"}
    assert {name for name, card in cards.items() if card.kind == "finding"} == set(codes)


def test_every_strategy_is_in_the_vocabulary() -> None:
    from zsei.resources import load_cards
    from zsei.settings import Settings
    from zsei.strategies import STRATEGIES

    vocabulary = load_cards(Settings()).strategies
    assert {s.name: s.edit_kind for s in STRATEGIES} == {
        name: entry.edits for name, entry in vocabulary.items()
    }
