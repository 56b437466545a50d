"""A small training run whose checkpoints are analysed: requests, weights, engines in-process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from factories import tiny_gpt2
from safetensors.torch import save_file
from torch import nn

from zsei.checkpoint.config import CheckpointConfig, EleshConfig, RunConfig
from zsei.checkpoint.contracts import (
    AnalysisParameters,
    ApplicationReport,
    ChannelPruningTarget,
    CheckpointMetadata,
    Mode,
    PrunedArchitecture,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
    request_key,
)
from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import (
    DecideTask,
    GroupMeasure,
    Outline,
    OutlineTask,
    SiteMeasure,
    Snapshot,
    TaskResult,
)
from zsei.checkpoint.worker import OpenWorker
from zsei.engines.engine import Done, Limits
from zsei.records import Component, Conditions, Measurement, Provenance, Verdict
from zsei.settings import Settings
from zsei.surgery.module_edit import ModuleEdit, TensorCut, apply_module_edit

RUN = "tiny"


def small_job(home: Path, **changes: Any) -> Job:
    """A job about a GPT-2 of two layers; phases of 2, 4, 4 and 4 epochs, a cut every second one."""
    run = {"mode": "remove", "decide_every": 2, "ablate_every": 0, "target_sparsity": 0.2}
    elesh: dict[str, Any] = {
        "layers_per_worker": 1, "sketch_width": 2000, "sketch_depth": 3,
        "statistical_samples": 50,
        "structured_pruning": {
            "channel_analysis": {"min_channels_per_layer": 4},
            "safety_schedule": {
                "validation_epochs": 2, "conservative_epochs": 4, "moderate_epochs": 4,
                "aggressive_epochs": 4,
            },
        },
    }  # fmt: skip
    config = CheckpointConfig(
        elesh=EleshConfig.model_validate(elesh | changes.pop("elesh", {})),
        run=RunConfig.model_validate(run | changes.pop("run", {})),
    )
    model, data = changes.pop("model", None) or tiny_gpt2()
    settings = Settings(home=home, safety="aggressive", bootstrap=200, **changes)
    return Job(run=RUN, model=model, data=data, settings=settings, config=config)


class InProcess:
    """An engine whose workers are this process: one at a time, nothing is watched over."""

    name = "in-process"
    shares_disk = True

    def __init__(self, make: Callable[[], Callable[[Any], Any]], workers: int = 1):
        self._make, self._work, self.workers = make, None, workers
        self.asked: list[Any] = []

    def run(self, tasks: Sequence[Any], limits: Limits) -> list[Done]:
        """All tasks, in order."""
        self._work = self._work or self._make()
        self.asked += tasks
        return [self._one(task, self._work) for task in tasks]

    def _one(self, task: Any, work: Callable[[Any], Any]) -> Done:
        try:
            return Done(task=task, status="done", value=work(task))
        except Exception as error:
            return Done(task=task, status="error", why=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Nothing to stop."""


@dataclass
class Training:
    """A run that writes checkpoints and carries out what is approved."""

    folder: RunFolder
    model: nn.Module
    original: int = 0
    applied: list[str] = field(default_factory=list)
    edits: list[ModuleEdit] = field(default_factory=list)
    before: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.original = self.parameters

    @property
    def parameters(self) -> int:
        """Of the model as it is now."""
        return sum(p.numel() for p in self.model.parameters())

    def epoch(
        self, number: int, *, mode: Mode = "remove", name: str = ""
    ) -> tuple[StructuralAnalysisRequest, Snapshot]:
        """Move the weights a little and ask."""
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.001 * torch.randn(parameter.shape, generator=generator)
        path = self.folder.snapshot(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: p.clone() for n, p in self.model.state_dict().items()}, path)
        name = name or f"r{number}"
        request = StructuralAnalysisRequest(
            request_id=name,
            idempotency_key=request_key(epoch=number, architecture_hash="a", request_id=name),
            checkpoint=CheckpointMetadata(
                run=RUN, epoch=number, weights=f"snapshots/{path.name}", loss=1 / number
            ),
            architecture=PrunedArchitecture(
                model_class="GPT2LMHeadModel",
                parameters=self.parameters,
                original_parameters=self.original,
                applied=tuple(self.applied),
            ),
            parameters=AnalysisParameters(mode=mode),
        )
        return request, Snapshot(epoch=number, path=path)

    def apply(self, decision: StructuralPruningDecision, epoch: int) -> ApplicationReport:
        """Carry a decision out."""
        assert decision.approved_for_application
        assert decision.edit is not None
        self.before.append(self.model)
        self.model = apply_module_edit(self.model, decision.edit)
        self.applied.append(decision.decision_id)
        self.edits.append(decision.edit)
        return self.report(decision, epoch, "applied")

    def roll_back(self, decision: StructuralPruningDecision, epoch: int) -> ApplicationReport:
        """Put back what was cut last."""
        self.model = self.before.pop()
        self.applied.remove(decision.decision_id)
        self.edits.pop()
        return self.report(decision, epoch, "rolled back")

    def report(
        self, decision: StructuralPruningDecision, epoch: int, outcome: Any
    ) -> ApplicationReport:
        """What was done with a decision."""
        return ApplicationReport(
            decision_id=decision.decision_id,
            idempotency_key=f"{decision.decision_id}:{outcome}",
            run=RUN,
            epoch=epoch,
            outcome=outcome,
            reason="a test says so",
            parameters=self.parameters,
        )


def start(tmp_path: Path, **changes: Any) -> tuple[Training, Job, InProcess]:
    """A run, its job and an engine for it."""
    job = small_job(tmp_path / "home", **changes)
    assert isinstance(job.model, nn.Module)
    folder = RunFolder(path=tmp_path / "run")
    model, _ = tiny_gpt2()
    return Training(folder=folder, model=model), job, InProcess(OpenWorker(job=job))


NEURONS = 8


class Scripted:
    """An engine without workers: says what workers would, and fails where it is told to.

    A `fault` takes a task and gives what becomes of it, or None for nothing out of the ordinary.
    """

    name = "scripted"
    shares_disk = True

    def __init__(self, fault: Callable[[Any], Done | None] = lambda _: None, workers: int = 2):
        self.fault, self.workers = fault, workers
        self.asked: list[Any] = []
        self.limits: list[Limits] = []

    def run(self, tasks: Sequence[Any], limits: Limits) -> list[Done]:
        """All tasks, in order."""
        self.asked += tasks
        self.limits.append(limits)
        return [
            self.fault(task) or Done(task=task, status="done", value=scripted(task))
            for task in tasks
        ]

    def close(self) -> None:
        """Nothing to stop."""

    def of(self, kind: type) -> list[Any]:
        """Tasks of one type that were asked for."""
        return [task for task in self.asked if isinstance(task, kind)]


def scripted(task: Any) -> TaskResult:
    """What a worker says of a model of three layers with eight neurons each."""
    layers = 3 - sum(len(edit.dropped) for edit in task.snapshot.edits)
    if isinstance(task, OutlineTask):
        return Outline(layers=tuple(range(layers)))
    if isinstance(task, DecideTask):
        return scripted_decision(task)
    gone = [cut.name for edit in task.snapshot.edits for cut in edit.cuts]
    sites, components = [], []
    for layer in (number for number in task.layers if number is not None):
        name = f"h.{layer}"
        components.append(Component(id=name, kind="layer", path=name, layer=layer))
        components.append(
            Component(id=f"{name}/mlp", kind="mlp", path=f"{name}.mlp", layer=layer, parent=name)
        )
        units = NEURONS - gone.count(f"{name}.mlp.weight")
        # Neuron u is worth u + 1 and a little more at each epoch.
        taylor = tuple(u + 1 + 0.01 * task.snapshot.epoch for u in range(units))
        sites.append(
            SiteMeasure(component=f"{name}/mlp", kind="neuron", layer=layer,
                        parts={"taylor": taylor, "magnitude": (1.0,) * units}, parameters=units)
        )  # fmt: skip
    return GroupMeasure(
        layers=task.layers,
        depth="full",
        sites=tuple(sites),
        measurements={
            site.component: (Measurement(name="gradient_rms", value=0.5),) for site in sites
        },
        components=tuple(components),
        provenance=Provenance(
            zsei="0", model="scripted", model_class="Scripted", family="gpt2",
            model_hash=f"hash-{task.snapshot.epoch}", parameters=100, fidelity="program",
            versions={}, seed=0,
        ),
        conditions=Conditions(
            objective="causal-lm", objective_reason="scripted", metric="KL (nats)",
            groups={"all": 8}, calibration_samples=4, held_out_samples=4, input_shape={},
        ),
    )  # fmt: skip


def scripted_decision(task: DecideTask) -> StructuralPruningDecision:
    """The least important neuron of layer 0 goes, and the gate accepts it."""
    key = "h.0/mlp|neuron"
    worth = [(value, unit) for unit, value in enumerate(task.importance[key]) if value is not None]
    least = min(worth)[1]
    name = f"d{task.decision.epoch}-{least}"
    return task.decision.model_copy(
        update={
            "decision_id": name,
            "idempotency_key": f"{task.decision.epoch}:hash:{name}:{task.decision.level}",
            "channels": (
                ChannelPruningTarget(layer_name="h.0/mlp", kind="neuron", channel_indices=(least,),
                                     channel_importance=(worth[0][0],)),
            ),
            "edit": ModuleEdit(cuts=(TensorCut(name="h.0.mlp.weight", axis=0, removed=(least,)),)),
            "safety": task.decision.safety.model_copy(
                update={"verdict": Verdict(proposal_id=name, outcome="accepted", reason="scripted")}
            ),
            "approved_for_application": task.decision.mode != "observe",
            "rejection_reason": "observe only" if task.decision.mode == "observe" else "",
        }
    )  # fmt: skip


def asking(number: int, applied: Sequence[str] = (), **changes: Any) -> StructuralAnalysisRequest:
    """A request of the scripted run."""
    name = changes.pop("name", f"r{number}")
    architecture = {
        "model_class": "Scripted", "parameters": 100 - len(applied), "original_parameters": 100,
        "applied": tuple(applied),
    }  # fmt: skip
    return StructuralAnalysisRequest(
        request_id=name,
        idempotency_key=request_key(epoch=number, architecture_hash="a", request_id=name),
        checkpoint=CheckpointMetadata(
            run=changes.pop("run", RUN), epoch=number, weights=f"snapshots/{number:06d}.safetensors"
        ),
        architecture=PrunedArchitecture.model_validate(
            architecture | changes.pop("architecture", {})
        ),
        parameters=AnalysisParameters(mode=changes.pop("mode", "remove")),
        **changes,
    )


def at(number: int) -> Snapshot:
    """Weights that nobody reads."""
    return Snapshot(epoch=number, data=b"")
