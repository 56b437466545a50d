"""A small record, and a pipeline that returns it, so that the command line can be tested alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import zsei
from zsei.records import (
    AnalysisRecord,
    Answer,
    Citation,
    Component,
    Conditions,
    Failure,
    Outcome,
    Proposal,
    Provenance,
    Verdict,
)


def sample_record(*outcomes: Outcome, llm_failed: bool = False) -> AnalysisRecord:
    """A record with one proposal and verdict per outcome."""
    proposals = tuple(
        Proposal.make(strategy="prune-neurons", components=("mlp",), params={"count": index + 1})
        for index in range(len(outcomes))
    )
    verdicts = tuple(
        Verdict(proposal_id=proposal.id, outcome=outcome, reason="measured")
        for proposal, outcome in zip(proposals, outcomes, strict=True)
    )
    failure = Failure(stage="advice", what="interpret the flow", why="no answer within 60 s")
    return AnalysisRecord(
        id="r-0123456789ab",
        provenance=Provenance(
            zsei=zsei.__version__,
            model="factories:tiny_mlp",
            model_class="Sequential",
            family="mlp",
            model_hash="00",
            parameters=1234,
            fidelity="program",
            versions={},
            seed=0,
        ),
        conditions=Conditions(
            objective="fidelity",
            objective_reason="no labels",
            metric="relative L2",
            groups={"all": 8},
            calibration_samples=4,
            held_out_samples=4,
            input_shape={"x": (4, 8)},
        ),
        components=(Component(id="mlp", kind="mlp", path="0"),),
        proposals=proposals,
        verdicts=verdicts,
        failures=(failure,) if llm_failed else (),
    )


class FakePipeline(ModuleType):
    """Stands in for `zsei.pipeline`: returns one record and lists what it was asked."""

    def __init__(self, record: AnalysisRecord) -> None:
        super().__init__("zsei.pipeline")
        self.record = record
        self.calls: list[SimpleNamespace] = []
        self.during: Callable[[], None] = lambda: None
        """Called in the middle of everything, for tests that disturb it."""
        self.voice = "rules"

    def analyze(self, model: str, data: Any = None, **options: Any) -> AnalysisRecord:
        self.calls.append(SimpleNamespace(name="analyze", model=model, data=data, **options))
        self.during()
        return self.record

    def save(self, record: AnalysisRecord, folder: Path) -> dict[str, Path]:
        path = folder / "record.json"
        path.write_text(record.model_dump_json())
        self.calls.append(SimpleNamespace(name="save", folder=folder))
        self.during()
        return {"record": path}

    def ask(self, question: str, *, settings: Any) -> Answer:
        self.calls.append(SimpleNamespace(name="ask", question=question, settings=settings))
        citations = (Citation(run=self.record.id),)
        return Answer(question=question, text="Two.", citations=citations, voice=self.voice)

    def chosen(self, record: AnalysisRecord, strategies: Any) -> list[Proposal]:
        ids = {p.id for p in record.accepted()} if strategies == "accepted" else set(strategies)
        return [proposal for proposal in record.proposals if proposal.id in ids]

    def edit(self, record: AnalysisRecord, model: Any, strategies: Any, **options: Any) -> Any:
        from torch import nn

        self.calls.append(SimpleNamespace(name="edit", strategies=strategies, **options))
        return SimpleNamespace(model=nn.Linear(3, 2), form="module", note="")

    def save_model(self, edited: Any, folder: Path) -> None:
        (folder / "recipe.json").write_text("{}")
        self.during()


def install(monkeypatch: pytest.MonkeyPatch, record: AnalysisRecord) -> FakePipeline:
    """Put a fake pipeline where the commands import it from."""
    fake = FakePipeline(record)
    monkeypatch.setitem(sys.modules, "zsei.pipeline", fake)
    monkeypatch.setattr(zsei, "pipeline", fake, raising=False)
    return fake
