"""One analysis of a tiny encoder, in a memory of its own, for all tests of conversations."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zsei
from zsei.chat import Desk, Limits
from zsei.chat.reopen import Reopened
from zsei.llm import Line, ScriptedLLM
from zsei.llm.scripted import Script
from zsei.memory import Memory
from zsei.records import AnalysisRecord
from zsei.resources import load_cards
from zsei.settings import Settings

SMALL = {
    "samples": 24, "batch_size": 6, "truth_samples": 8, "probes": 1, "halves": False,
    "random_paths": 0, "min_heads": 1, "min_channels": 4, "rounds": 1, "max_proposals": 3,
}  # fmt: skip
OPENED: dict[str, Reopened] = {}
"""The model, opened once for all tests; an action changes nothing in it."""


@cache
def original() -> tuple[Path, AnalysisRecord]:
    """The folder of a memory with one analysis, and the analysis."""
    home = Path(tempfile.mkdtemp(prefix="zsei-chat-")) / "home"
    settings = Settings(home=home, **SMALL)
    return home, zsei.analyze("factories:tiny_encoder", settings=settings)


def copied(home: Path) -> tuple[Settings, AnalysisRecord]:
    """A copy of that memory for one test."""
    source, record = original()
    shutil.copytree(source, home, dirs_exist_ok=True)
    # Other numbers of samples and sizes than the analysis had: its record must win.
    return Settings(home=home, min_heads=1, min_channels=4), record


def desk(home: Path, answers: Sequence[Script] | None = None, **given: Any) -> Desk:
    """A desk over a copy of that memory; answers make a scripted language model."""
    settings, _ = copied(home)
    line = Line(llm=ScriptedLLM(answers)) if answers is not None else None
    given.setdefault("limits", Limits())
    return Desk(
        memory=Memory(settings.home, home / "no-embedder"), cards=load_cards(settings),
        settings=settings, line=line, _opened=OPENED, **given,
    )  # fmt: skip


def step(kind: str, *components: str, **given: str) -> str:
    """A language model's choice, as JSON."""
    filled = {"proposal": "none", "strategy": "none", "text": "", **given}
    return json.dumps({"step": kind, "components": list(components), **filled})
