"""A training run's side of its mail: what was asked, what came back, and what stands."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import (
    AnalysisParameters,
    CheckpointMetadata,
    PerformanceRequirements,
    PrunedArchitecture,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
    request_key,
)
from zsei.checkpoint.run_folder import RunFolder
from zsei.errors import UsageError
from zsei.subject.program import parameter_count
from zsei.training.judge import Measured
from zsei.training.weights_out import (
    architecture_hash,
    architecture_of,
    room_for_snapshot,
    tidy_snapshots,
    write_weights,
)

_MODES = ("observe", "mask", "remove")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A decision that came back, and what it was asked about."""

    decision: StructuralPruningDecision
    epoch: int
    architecture: str


@dataclass(eq=False, kw_only=True)
class Post:
    """What training knows of the mail of its run."""

    folder: RunFolder
    run: str
    config: CheckpointConfig
    last_epoch: int = 0
    last_asked: int = 0
    why_not: str = ""
    """Why the last checkpoint was not handed over."""
    _original: int = 0
    _architecture: str = ""
    _asked: dict[int, str] = field(default_factory=dict)
    """Epoch -> hash of the architecture that was asked about; answered ones leave."""
    _applied: list[str] = field(default_factory=list)
    _masked: list[str] = field(default_factory=list)

    def begin(self, model: nn.Module) -> None:
        """Count what the run begins with."""
        self._original = parameter_count(model)
        self._architecture = architecture_hash(self._described(model))

    def check(self, epoch: int, measured: Measured) -> None:
        """Take note of an epoch.

        Raises:
            UsageError: It is none, or does not come after the last one, or an accuracy is none.
        """
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 1:
            raise UsageError(
                f"Epochs count from 1, and this one is {epoch!r}; add 1 to a count from 0."
            )
        if epoch <= self.last_epoch:
            raise UsageError(
                f"Epochs rise, and {epoch} comes after {self.last_epoch}; a run that goes back to "
                "an earlier checkpoint is another run. This checkpoint is not analysed."
            )
        accuracy = measured.finite_accuracy
        if accuracy is not None and abs(accuracy) > 1:
            raise UsageError(
                f"An accuracy is a share of 1, and this one is {accuracy:g}; divide a percentage "
                "by 100. This checkpoint is not analysed."
            )
        self.last_epoch = epoch

    def due(self, epoch: int, *, wait: bool) -> bool:
        """Whether the weights of an epoch are to be handed over; else `why_not`."""
        run = self.config.run
        if epoch % run.every:
            self.why_not = f"every {run.every} epochs are analysed"
        elif not wait and not room_for_snapshot(self.folder, run.keep_snapshots):
            self.why_not = f"{run.keep_snapshots} checkpoints still wait for their analysis"
        else:
            return True
        return False

    def copy_out(self, model: nn.Module, epoch: int) -> None:
        """Write the weights of an epoch.

        Raises:
            OutputError: They cannot be written.
        """
        write_weights(model, self.folder.snapshot(epoch))
        tidy_snapshots(self.folder, self.config.run.keep_snapshots)

    def ask(self, model: nn.Module, epoch: int, measured: Measured, step: int | None) -> None:
        """Ask for the analysis of weights that were written.

        Raises:
            OutputError: The request cannot be written.
        """
        run, described = self.config.run, self._described(model)
        self._architecture = architecture_hash(described)
        request_id = f"{self.run}-{epoch:06d}"
        request = StructuralAnalysisRequest(
            request_id=request_id,
            idempotency_key=request_key(
                epoch=epoch, architecture_hash=self._architecture, request_id=request_id
            ),
            checkpoint=CheckpointMetadata(
                run=self.run,
                epoch=epoch,
                step=step,
                weights=self.folder.snapshot(epoch).relative_to(self.folder.path).as_posix(),
                accuracy=measured.finite_accuracy,
                loss=measured.finite_loss,
            ),
            architecture=described,
            parameters=AnalysisParameters(mode=run.mode),
            requirements=PerformanceRequirements(
                timeout_seconds=run.checkpoint_window, memory_gigabytes=run.memory_gigabytes
            ),
        )
        self.folder.send("requests", epoch, request)
        self._asked[epoch] = self._architecture
        self.last_asked = epoch

    def answered(self, epoch: int) -> bool:
        """Whether an epoch, or a later one in its place, was answered."""
        return max(self.folder.epochs("decisions"), default=0) >= epoch

    def next_answer(self) -> "Answer | None":
        """The oldest answer that asks for something to be done and was not seen to yet.

        Raises:
            UsageError: One cannot be read; it counts as seen to.
        """
        for epoch in self.folder.epochs("decisions"):
            asked_about = self._asked.pop(epoch, None)
            if asked_about is None:
                continue
            decision = self.folder.read("decisions", epoch, StructuralPruningDecision)
            if decision is None or not decision.approved_for_application:
                continue
            if decision.mode != "observe":
                return Answer(decision=decision, epoch=epoch, architecture=asked_about)
        return None

    def refused(
        self, answer: "Answer", epoch: int
    ) -> tuple[Literal["refused", "expired"], str] | None:
        """Why an answer is not carried out at an epoch; None when it is."""
        run, decision = self.config.run, answer.decision
        if (decision.run, decision.epoch) != (self.run, answer.epoch):
            return "refused", (
                f"it is about epoch {decision.epoch} of `{decision.run}` and answers the request "
                f"about epoch {answer.epoch} of `{self.run}`"
            )
        if epoch - answer.epoch > run.expire_after:
            return "expired", (
                f"it is about epoch {answer.epoch} and is carried out up to {run.expire_after} "
                f"epochs later; this is epoch {epoch}"
            )
        if answer.architecture != self._architecture:
            return "refused", "the model was cut or put back since the checkpoint it is about"
        if _MODES.index(decision.mode) > _MODES.index(run.mode):
            return "refused", f"the configuration allows to {run.mode}, not to {decision.mode}"
        if self._masked and decision.mode == "remove":
            return "refused", "units are held at zero, which a removal would number anew"
        return None

    def stands(self, decision: StructuralPruningDecision) -> None:
        """Take note of what was carried out."""
        self._applied.append(decision.decision_id)
        if decision.mode == "mask":
            self._masked.append(decision.decision_id)
        self._architecture = ""

    def forget(self, decision_id: str) -> None:
        """Take note of what was put back."""
        for held in (self._applied, self._masked):
            if decision_id in held:
                held.remove(decision_id)
        self._architecture = ""

    def _described(self, model: nn.Module) -> PrunedArchitecture:
        return architecture_of(model, self._original, self._applied, self._masked)


def first_process() -> bool:
    """Whether this is the only process of a training, or the first of several."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0
