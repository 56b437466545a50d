"""A training run whose analysis meets faults of every kind: workers, files, numbers, disks.

Used by the tests, and at full length by `benchmarks/checkpoint_faults.py`.
"""

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from analyst_case import Training, small_job
from factories import tiny_gpt2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zsei.checkpoint.analyst import Analyst, Answered
from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.subjects import Subjects
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import DecideTask, MeasureTask, Snapshot
from zsei.checkpoint.worker import OpenWorker
from zsei.engines.engine import Engine
from zsei.gate.baseline import measure_baseline
from zsei.gate.phases import CAPS, TrainingRun
from zsei.gate.sandbox import try_edits
from zsei.records import Proposal, Verdict
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits

IN_WORKERS = ("hang", "kill", "kill once", "memory", "exception", "kill while deciding")
IN_FILES = ("half a file", "flipped bits", "no file", "another model", "NaN weights")
FAULTS = (*IN_WORKERS, *IN_FILES, "NaN gradients", "full disk")
MEMORY = 1.6
"""Gigabytes a worker may take; torch and a tiny model take about 0.6."""

DOCUMENTED = {
    "hang": ("basic",),
    "kill": ("basic",),
    "kill once": ("full",),
    "memory": ("channels",),
    "exception": ("basic",),
    "kill while deciding": ("full",),
    "half a file": ("previous",),
    "flipped bits": ("previous",),
    "no file": ("previous",),
    "another model": ("previous",),
    "NaN weights": ("previous",),
    "NaN gradients": ("basic", "full"),
    "full disk": ("full",),
    "": ("full",),
}
"""Fault -> the depths its fallback leaves. Where gradients are NaN a note says so and the
confidence is 0.5, whatever else could be measured."""


class CrackedNorm(nn.LayerNorm):
    """A norm whose gradient is NaN, and whose output is as ever, while `whole` is 0: the root of a
    square is not differentiable at 0.
    """

    def __init__(self, like: nn.LayerNorm):
        super().__init__(list(like.normalized_shape), like.eps)
        self.whole: Tensor
        self.register_buffer("whole", torch.ones(1))

    def forward(self, input: Tensor) -> Tensor:
        """The norm, and nothing added to it."""
        out = super().forward(input)
        return out + 0 * torch.sqrt((out * self.whole) ** 2)


def cracked_gpt2() -> tuple[nn.Module, Any]:
    """A GPT-2 of two layers whose gradients can be made NaN by a buffer."""
    model, data = tiny_gpt2()
    body: Any = model.transformer
    norm = CrackedNorm(body.ln_f)
    norm.load_state_dict(body.ln_f.state_dict(), strict=False)
    body.ln_f = norm.eval()
    return model, data


@dataclass(frozen=True, kw_only=True)
class FaultyWorkers:
    """Workers that go wrong at the epochs for which a file says how."""

    job: Job
    folder: Path

    def __call__(self) -> Callable[[Any], Any]:
        """The work of the real worker, and what gets in its way."""
        work = OpenWorker(job=self.job)()

        def faulty(task: Any) -> Any:
            path = self.folder / str(task.snapshot.epoch)
            name = path.read_text() if path.exists() else ""
            whole = isinstance(task, MeasureTask) and not task.basic and len(task.levels) > 1
            deciding = name == "kill while deciding"
            if isinstance(task, DecideTask) if deciding else whole:
                go_wrong(name, path)
            return work(task)

        return faulty


def go_wrong(name: str, path: Path) -> None:
    """What a worker does instead of its task."""
    if name == "hang":
        time.sleep(3600)
    elif name == "exception":
        raise ArithmeticError("a worker that was told to fail")
    elif name == "kill once":
        path.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    elif name.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "memory":
        kept = []
        for _ in range(40):  # a gigabyte and more a second, up to 8
            kept.append(bytes(os.urandom(1 << 16) * 3200))
            time.sleep(0.1)


@dataclass
class Faulty:
    """A run, its analysis, and what became of each checkpoint."""

    training: Training
    job: Job
    engine: Engine
    faults: Path
    rows: list[tuple[str, Answered | Exception]] = field(default_factory=list)
    approved: list[tuple[StructuralPruningDecision, Snapshot, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Approved decisions that did not hold when they were judged again, and why."""
    _analyst: Analyst | None = None

    def __post_init__(self) -> None:
        self._analyst = Analyst(self.training.folder, self.job, self.engine)

    def checkpoint(self, epoch: int, fault: str = "") -> None:
        """One checkpoint with a fault, answered; what is approved is carried out."""
        assert self._analyst is not None
        request, snapshot = self.training.epoch(epoch)
        stands = tuple(self.training.edits)
        if fault in IN_WORKERS:
            self.faults.mkdir(parents=True, exist_ok=True)
            (self.faults / str(epoch)).write_text(fault)
        assert snapshot.path is not None
        damage(snapshot.path, fault)
        try:
            with full_disk() if fault == "full disk" else nothing():
                answered = self._analyst.answer(request, snapshot)
        except Exception as error:
            self.rows.append((fault, error))
            return
        self.rows.append((fault, answered))
        decision = answered.decision
        if decision.approved_for_application:
            found = replace(snapshot, edits=stands)
            self.approved.append((decision, found, self.training.original))
            self._analyst.heard(self.training.apply(decision, epoch))

    def put_back(self, epoch: int) -> None:
        """The run puts back what was cut last, if it was cut at the epoch before."""
        assert self._analyst is not None
        if self.approved and self.approved[-1][0].epoch == epoch - 1:
            self._analyst.heard(self.training.roll_back(self.approved[-1][0], epoch))

    def judge_last(self) -> None:
        """Judge the cut that was approved last once more."""
        if why := wrong_with(self.job, *self.approved[-1]):
            self.wrong.append(why)

    def restart(self) -> None:
        """The analysis ends, and another one goes on in its place."""
        self._analyst = Analyst(self.training.folder, self.job, self.engine)


def start_faulty(
    tmp_path: Path, make_engine: Callable[[Callable[[], Any]], Engine], **changes: Any
) -> Faulty:
    """A run of the model that can crack, with an engine for its workers."""
    job = small_job(tmp_path / "home", model=cracked_gpt2(), **changes)
    faults = tmp_path / "faults"
    model, _ = cracked_gpt2()
    training = Training(folder=RunFolder(path=tmp_path / "run"), model=model)
    engine = make_engine(FaultyWorkers(job=job, folder=faults))
    return Faulty(training=training, job=job, engine=engine, faults=faults)


def damage(path: Path, fault: str) -> None:
    """Do to a checkpoint's file what happens to files."""
    content = path.read_bytes()
    if fault == "half a file":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "flipped bits":
        path.write_bytes(b"\xff" * 64 + content[64:])
    elif fault == "no file":
        path.unlink()
    elif fault in ("another model", "NaN weights", "NaN gradients"):
        weights = load_file(path)
        if fault == "another model":
            weights["transformer.wte.weight"] = torch.zeros(3, 3)
        elif fault == "NaN weights":
            weights["transformer.h.1.mlp.c_fc.weight"][3, 4] = float("nan")
        else:
            weights["transformer.ln_f.whole"] = torch.zeros(1)
        save_file(weights, path)


@contextmanager
def nothing() -> Iterator[None]:
    """No fault."""
    yield


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 256 bytes: what a full disk does to a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def judged_again(
    job: Job, decision: StructuralPruningDecision, snapshot: Snapshot, original: int
) -> Verdict:
    """The gate's verdict on a decision's own words, by a subject that was made from nothing."""
    subject = Subjects(job=job).at(snapshot)
    sites = {(site.component, site.kind): site for site in subject.anatomy.sites}
    edits: list[Edit] = [
        RemoveUnits(site=sites[t.layer_name, t.kind], units=t.channel_indices)
        for t in decision.channels
    ]
    edits += [
        RemoveUnits(site=sites[t.layer_name, "head"], units=t.head_indices)
        for t in decision.attention_heads
    ]
    edits += [BypassLayer(site=sites[t.layer_name, "layer"]) for t in decision.layers]
    rules = job.config.elesh.structured_pruning
    settings = job.settings.model_copy(
        update={
            "safety": decision.level,
            "min_channels": rules.channel_analysis.min_channels_per_layer,
            "min_heads": rules.attention_analysis.min_heads_per_layer,
            "max_layer_share": rules.layer_analysis.max_layer_removal_ratio,
        }
    )
    baseline = measure_baseline(subject, settings)
    proposal = Proposal(id="again", strategy="checkpoint", components=())
    run = TrainingRun(phase=decision.safety.phase, parameters=original)
    return try_edits(subject, proposal, "layers", edits, baseline, settings, run=run).verdict


def wrong_with(
    job: Job, decision: StructuralPruningDecision, snapshot: Snapshot, original: int
) -> str:
    """Why an approved decision does not hold when it is judged again; "" when it does."""
    verdict = judged_again(job, decision, snapshot, original)
    left = decision.statistics.parameters_after if decision.statistics else 0
    if verdict.outcome != "accepted":
        return f"epoch {decision.epoch}: {verdict.reason}"
    if 1 - left / original > CAPS[decision.safety.phase] + 1e-9:
        return f"epoch {decision.epoch}: {left} of {original} parameters are left"
    return ""


def as_documented(fault: str, answered: Answered | Exception) -> bool:
    """Whether an analysis ended with a result, or with what the documentation says instead."""
    if isinstance(answered, Exception):
        return False
    report, decision = answered.report, answered.decision
    if report.depth == "full" and fault not in ("NaN gradients",):
        said = bool(report.fallbacks) or fault not in ("full disk",)
        return said and (decision.approved_for_application or bool(decision.rejection_reason))
    known = report.depth in DOCUMENTED[fault] or (report.depth == "none" and fault in IN_FILES)
    return known and bool(report.fallbacks) and report.confidence <= 0.8


def plan(count: int, share: float = 0.5, seed: int = 0) -> list[str]:
    """A fault, or none, for each checkpoint; of all kinds about as many."""
    chooser = random.Random(seed)
    wanted = [FAULTS[i % len(FAULTS)] for i in range(int(count * share))]
    found = [*wanted, *[""] * (count - len(wanted))]
    chooser.shuffle(found)
    return found


def table(faulty: Faulty) -> str:
    """What became of all checkpoints, by fault."""
    lines = [f"{'fault':22}{'times':>6}{'as documented':>15}{'exceptions':>12}  depths"]
    for fault in ("", *FAULTS):
        rows = [answered for name, answered in faulty.rows if name == fault]
        if not rows:
            continue
        good = sum(as_documented(fault, row) for row in rows)
        raised = sum(isinstance(row, Exception) for row in rows)
        depths = Counter(row.report.depth for row in rows if isinstance(row, Answered))
        told = ", ".join(f"{name} {n}" for name, n in sorted(depths.items()))
        lines.append(f"{fault or '(none)':22}{len(rows):6}{good:15}{raised:12}  {told}")
    good = sum(as_documented(name, row) for name, row in faulty.rows)
    raised = sum(isinstance(row, Exception) for _, row in faulty.rows)
    total = len(faulty.rows)
    lines.append(f"{'all':22}{total:6}{good:15}{raised:12}  {good / total:.1%}")
    wrong = "; ".join(faulty.wrong)
    lines.append(f"approved {len(faulty.approved)}, wrongly {len(faulty.wrong)} {wrong}".strip())
    return "\n".join(lines)
