"""A service with a scripted analyst, a run to ask it about, and a client in the same process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from safetensors.numpy import save
from starlette.testclient import TestClient

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    CheckpointMetadata,
    PrunedArchitecture,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
    request_key,
)
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.locate import snapshot_of
from zsei.gate.breaker import Breaker
from zsei.records import Measurement
from zsei.service.app import Service, build_app
from zsei.service.checkpoints import Checkpoints
from zsei.service.desk import Desk, Parts
from zsei.service.ledger import Ledger


def weights(value: float = 1.0) -> bytes:
    """A whole safetensors file."""
    import numpy as np

    return save({"first.weight": np.full((2, 3), value, dtype=np.float32)})


def request(epoch: int = 1, run: str = "digits", **changed: Any) -> StructuralAnalysisRequest:
    """A request about an upload of that run and epoch."""
    name = changed.pop("request_id", f"{run}-{epoch}")
    where = changed.pop("weights", f"uploads/{run}.safetensors")
    whole = StructuralAnalysisRequest(
        request_id=name,
        idempotency_key=request_key(epoch=epoch, architecture_hash="0" * 12, request_id=name),
        checkpoint=CheckpointMetadata(run=run, epoch=epoch, weights=where),
        architecture=PrunedArchitecture(model_class="M", parameters=6, original_parameters=6),
    )
    return whole.model_copy(update=changed)


def decision_about(asked: StructuralAnalysisRequest, **changed: Any) -> StructuralPruningDecision:
    """An answer that approves nothing."""
    name = f"d-{asked.request_id}"
    whole = StructuralPruningDecision(
        decision_id=name,
        idempotency_key=f"{asked.checkpoint.epoch}:hash:{name}:conservative",
        request_id=asked.request_id,
        run=asked.checkpoint.run,
        epoch=asked.checkpoint.epoch,
        mode=asked.parameters.mode,
        safety=SafetyValidation(phase="preparation"),
        rejection_reason="in the phase 'preparation' nothing is cut",
    )
    return whole.model_copy(update=changed)


def report_about(asked: StructuralAnalysisRequest, **changed: Any) -> AnalysisReport:
    """How that analysis went."""
    whole = AnalysisReport(
        request_id=asked.request_id, idempotency_key=asked.idempotency_key,
        run=asked.checkpoint.run, epoch=asked.checkpoint.epoch, depth="full", confidence=1.0,
        seconds=2.0, peak_memory_bytes=1_000_000,
        ranking_accuracy=Measurement(name="kendall_tau", value=0.93, n=24),
    )  # fmt: skip
    return whole.model_copy(update=changed)


def applied_of(decision: StructuralPruningDecision, **changed: Any) -> ApplicationReport:
    """What was done with a decision."""
    whole = ApplicationReport(
        decision_id=decision.decision_id, run=decision.run, epoch=decision.epoch + 1,
        idempotency_key=f"{decision.epoch + 1}:{decision.decision_id}:applied",
        outcome="applied", reason="as decided", parameters=6,
    )  # fmt: skip
    return whole.model_copy(update=changed)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a scripted analyst answers."""

    decision: StructuralPruningDecision
    report: AnalysisReport


@dataclass(eq=False, kw_only=True)
class Script:
    """What the analysts of all runs did, and how they are to behave."""

    say: Callable[[StructuralAnalysisRequest], Said] = lambda asked: Said(
        decision=decision_about(asked), report=report_about(asked)
    )
    asked: list[tuple[StructuralAnalysisRequest, Snapshot]] = field(default_factory=list)
    heard: list[ApplicationReport] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    """Analyses wait for it."""

    def __post_init__(self) -> None:
        self.go.set()

    def open(self, folder: RunFolder) -> "ScriptedAnalyst":
        self.opened.append(folder.path.name)
        return ScriptedAnalyst(script=self, run=folder.path.name)


@dataclass(eq=False, kw_only=True)
class ScriptedAnalyst:
    script: Script
    run: str

    def answer(self, asked: StructuralAnalysisRequest, snapshot: Snapshot) -> Said:
        self.script.asked.append((asked, snapshot))
        assert self.script.go.wait(30)
        return self.script.say(asked)

    def heard(self, report: ApplicationReport) -> None:
        self.script.heard.append(report)

    def close(self) -> None:
        self.script.closed.append(self.run)


@dataclass(eq=False, kw_only=True)
class Served:
    """A service that runs, and what it is made of."""

    app: FastAPI
    service: Service
    script: Script
    client: TestClient
    events: list[str]

    @property
    def desk(self) -> Desk:
        return self.service.desk

    def upload(self, name: str = "digits.safetensors", content: bytes | None = None) -> Any:
        content = weights() if content is None else content
        return self.client.put(f"/v1/checkpoints/{name}", content=content)

    def send(self, message: Any, to: str = "requests") -> Any:
        return self.client.post(
            f"/v1/{to}", content=message.model_dump_json(),
            headers={"content-type": "application/json"},
        )  # fmt: skip

    def decided(self, request_id: str) -> StructuralPruningDecision:
        """The decision, once it is there."""
        for _ in range(3000):
            answer = self.client.get(f"/v1/decisions/{request_id}")
            if answer.status_code != 202:
                assert answer.status_code == 200, answer.text
                return StructuralPruningDecision.model_validate_json(answer.content)
            threading.Event().wait(0.01)
        raise AssertionError("no decision came")


def make_service(folder: Path, script: Script, events: list[str], **changed: Any) -> Service:
    """A service that keeps everything below a folder."""
    most = changed.pop("most", 64)
    checkpoints = Checkpoints(
        folder=folder / "checkpoints", largest=changed.pop("largest", 1_000_000)
    )
    checkpoints.folder.mkdir(parents=True, exist_ok=True)

    def snapshot(asked: StructuralAnalysisRequest) -> Snapshot:
        path = checkpoints.find(asked.checkpoint.weights)
        return replace(snapshot_of(checkpoints.folder, asked), path=path)

    desk = Desk(
        ledger=Ledger(runs=folder / "runs"),
        parts=Parts(
            open_analyst=script.open,
            snapshot=snapshot,
            refuse=lambda asked, why: decision_about(
                asked, depth="none", confidence=0.0, fallbacks=(why,), rejection_reason=why
            ),
            log=lambda _, event: events.append(event.event),
        ),
        most=most,
    )
    parts: dict[str, Any] = {
        "desk": desk, "checkpoints": checkpoints, "config": CheckpointConfig(),
        "worker_id": "worker-1", "engine": "local", "workers": 2, "breaker": Breaker,
    }  # fmt: skip
    return Service(**(parts | changed))


@contextmanager
def served(folder: Path, script: Script | None = None, **changed: Any) -> Iterator[Served]:
    """A service that answers while the block runs."""
    script = script or Script()
    events: list[str] = []
    service = make_service(folder, script, events, **changed)
    app = build_app(service)
    client = TestClient(app, base_url="http://127.0.0.1:8321")
    with client:
        yield Served(app=app, service=service, script=script, client=client, events=events)
        script.go.set()
