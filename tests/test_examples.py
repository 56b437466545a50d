"""Every example runs offline, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
EXPECTED = {
    "01_first_analysis.py": ("Spearman", "prune"),
    "02_your_own_model.py": ("dead-units", "accepted", "parameters became"),
    "03_ask.py": ("> what was accepted and why?", "Output sensitivity"),
    "04_with_an_llm.py": ("struck out: 1", "remove-layer"),
    "05_edges.py": ("writers sum to what is read", "agrees: scores of 24 edges"),
    "06_language.py": ("effective context: ", "final decisions stand"),
    "07_vision.py": ("resolution needed: ", "places"),
    "08_series.py": ("from the leader's past", "useful horizon"),
    "09_prune.py": ("<- accepted", "parameters became"),
    "10_profile.py": ("of the time, now", "memory is alive after", "events in trace.json"),
    "11_beside_training.py": ("gpt: seed, parameters left", "mean ", "curves: "),
    "12_speed.py": ("baseline: ", "written: ", "speed.html"),
    "13_coordinator.py": ("applied: ", "the same decisions", "100% with a result"),
    "14_claims.py": ("held: 27", "not held: ", "this machine has", "page: "),
}


ARGUMENTS = {"11_beside_training.py": ("gpt", "20", "1")}
"""One small training instead of twelve long ones."""
QUICK = {"ZSEI_RANDOM_PATHS": "5", "ZSEI_HALVES": "false", "ZSEI_SAMPLES": "64"}
"""Less than a reader gets, where an example does not say itself: what is asked for here does not
rest on it."""


def test_every_example_is_expected() -> None:
    assert set(EXPECTED) == {path.name for path in EXAMPLES.glob("*.py")}


LONG = (
    "01_first_analysis.py", "03_ask.py", "04_with_an_llm.py", "05_edges.py", "06_language.py",
    "07_vision.py", "08_series.py", "09_prune.py", "10_profile.py", "11_beside_training.py",
    "12_speed.py", "13_coordinator.py", "14_claims.py",
)  # fmt: skip
"""Minutes together; what they show, the demonstration and other tests run too."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in sorted(EXPECTED)]
)
def test_example_runs(name: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ZSEI_LLM"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, ())], cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
        env=environment | QUICK | {"ZSEI_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in EXPECTED[name]:
        assert words in done.stdout


@pytest.mark.long
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSEI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [o for cell in done.cells if cell.cell_type == "code" for o in cell.outputs]
    shown = [o["data"] for o in outputs if "data" in o]
    assert any("text/html" in data for data in shown), "a record shows itself as HTML"
