"""ZSEI beside a training loop: one call at the end of each epoch.

Training hands over a copy of its weights and goes on; another process analyses them. What that
process decides is carried out here, at the next call, between two steps. Nothing of ours may stop
training: whatever fails is logged, counted, and told in the event that comes back.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.checkpoint.job import Job
from zsei.checkpoint.logs import Event as LogEvent
from zsei.checkpoint.logs import log_event
from zsei.errors import UsageError, ZseiError
from zsei.settings import Settings
from zsei.subject.program import parameter_count
from zsei.training.apply import Applied, Optimizers, apply_decision, report_of, unwrapped
from zsei.training.child import RESTARTS, Child, as_it_begins
from zsei.training.judge import Measured, judge
from zsei.training.post import Post, first_process
from zsei.training.run import configuration, open_run

Outcome = Literal[
    "observed", "skipped", "applied", "refused", "expired", "rolled back", "failed", "stopped"
]
_LOGGER = logging.getLogger("zsei")
_PAUSE = 0.02
"""Seconds between two looks for an answer, while one is waited for."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What one call did."""

    epoch: int
    outcome: Outcome
    """The most that happened: "observed" when the weights were handed over and nothing else,
    "skipped" when not even that was due or possible."""
    what: str
    """In words."""
    decision_id: str = ""
    copy_seconds: float = 0.0
    """That training waited for the copy of its weights. A clock's word."""
    parameters: int = 0
    """Of the model now."""


@dataclass(eq=False, kw_only=True)
class _Last:
    """What was carried out last and is not judged yet."""

    applied: Applied
    before: Measured


class Beside:
    """Analysis, and where the configuration allows it cutting, beside a training run.

        with zsei.Beside(model, optimizer, data, run="digits") as beside:
            for epoch in range(1, 151):
                train(...)
                beside.checkpoint(epoch, accuracy=..., loss=...)

    The random state, the number of threads, the modes and the gradients of training are not
    touched; with nothing cut the trained weights are the same to the bit as without.

    Args:
        model: The model in training; stays the same object.
        optimizer: Its optimizer, or all of them.
        data: As for `zsei.analyze`; used for analysis only. It should not be what training
            validates itself on.
        run: Name of the run.
        folder: Its folder; None: `runs/NAME` in the home of the settings.
        objective: As for `zsei.analyze`.
        config: A `CheckpointConfig`, a YAML or TOML file, or a dictionary with its keys.
        settings: As for `zsei.analyze`.
        ema: Averages of the weights (see `apply_decision`), cut alike.
        engine: `local` processes or `ray`.
        address: Of the Ray cluster.
        start: Start the process that analyses; else another one follows the folder.
        lockstep: Wait for answers, so that a run can be repeated to the bit: each request is
            answered before the next one, and at the epochs of decisions at once.

    Raises:
        UsageError: The configuration or the name of the run does not fit. Only here: afterwards
            nothing is raised but an interrupt.
        OutputError: The folder cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        data: Any,
        *,
        run: str,
        folder: Path | str | None = None,
        objective: str = "auto",
        config: CheckpointConfig | Path | str | Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        ema: Iterable[Any] = (),
        engine: Literal["local", "ray"] = "local",
        address: str | None = None,
        start: bool = True,
        lockstep: bool = False,
    ) -> None:
        self.config = configuration(config)
        settings = settings or Settings()
        self._first = first_process()
        """Of several processes that train one model, the first one observes."""
        self.run, self.folder = open_run(run, folder, settings.home, new=self._first)
        self.model, self.optimizer, self.ema = model, optimizer, tuple(ema)
        self.lockstep = lockstep
        self.errors = 0
        """Times that something of ours failed."""
        self.copy_seconds: list[float] = []
        """How long training waited for each copy of the weights."""
        self._post = Post(folder=self.folder, run=self.run, config=self.config)
        self._post.begin(unwrapped(model))
        self._last: _Last | None = None
        self._child: Child | None = None
        self._stopped = self._closed = False
        if start and self._first:
            job = Job(
                run=self.run, model=as_it_begins(unwrapped(model)), data=data,
                objective=objective, settings=settings, config=self.config,
            )  # fmt: skip
            arguments = ["--engine", engine] + (["--address", address] if address else [])
            priority = "normal" if lockstep else self.config.run.priority
            self._child = Child(self.folder, job, arguments, priority=priority)
            self._child.keep_alive()

    def checkpoint(
        self,
        epoch: int,
        *,
        accuracy: float | None = None,
        loss: float | None = None,
        step: int | None = None,
    ) -> Event:
        """Hand over the weights at the end of an epoch, and carry out what was decided before.

        In this order: what was done last is judged by the figures given here, and undone where
        they fell too far; a decision that came back is carried out; the weights are copied out
        and their analysis asked for. At most one thing is done to the model in a call.

        Args:
            epoch: Counted from 1, rising.
            accuracy: On training's own validation data, as a share of 1.
            loss: There as well.
            step: Steps so far.

        Returns:
            What was done. Nothing is raised but an interrupt.
        """
        try:
            return self._checkpoint(epoch, Measured(accuracy=accuracy, loss=loss), step)
        except Exception as error:  # training goes on, whatever we have done wrong
            return self._failed(epoch, error)

    def wait(self, epoch: int | None = None, timeout: float = 600.0) -> bool:
        """Wait for the answer about an epoch, by default the last one asked about.

        Returns:
            Whether it is there. Never raises but an interrupt.
        """
        wanted = self._post.last_asked if epoch is None else epoch
        end = time.monotonic() + timeout
        while not self._post.answered(wanted):
            if time.monotonic() >= end or not self._looked_after():
                return False
            time.sleep(_PAUSE)
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Say that the run is over; what still waits is answered, and the process then leaves.

        Args:
            timeout: Seconds to wait for that; it goes on alone afterwards.
        """
        if self._closed:
            return
        self._closed = True
        self._settled()
        try:
            if not self._first:
                return
            self.folder.end.touch()
            if self._child is not None:
                self._child.leave(timeout)
        except Exception as error:
            self._failed(self._post.last_epoch, error)

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checkpoint(self, epoch: int, measured: Measured, step: int | None) -> Event:
        if self._closed:
            raise UsageError("This run was closed; begin another `Beside` for more epochs.")
        if not self._first:
            return Event(epoch=epoch, outcome="skipped", what="the first process hands over")
        self._post.check(epoch, measured)
        if self.lockstep and self._post.last_asked:
            self.wait(timeout=self._patience)
        done = self._done(epoch, measured)
        sent, seconds = "", 0.0
        if self._looked_after():
            sent, seconds = self._handed_over(epoch, measured, step)
            if self.lockstep and sent and epoch % self.config.run.decide_every == 0:
                self.wait(epoch, timeout=self._patience)
                done = done or self._done(epoch, measured)
        outcome: Outcome = "observed" if sent else "stopped" if self._stopped else "skipped"
        what = sent or ("the analysis has stopped" if self._stopped else self._post.why_not)
        decision_id = ""
        if done is not None:
            outcome, what, decision_id = done
        return Event(
            epoch=epoch, outcome=outcome, what=what, decision_id=decision_id,
            copy_seconds=seconds, parameters=parameter_count(unwrapped(self.model)),
        )  # fmt: skip

    def _done(self, epoch: int, measured: Measured) -> tuple[Outcome, str, str] | None:
        """Do at most one thing to the model; the weights are handed over even if that fails."""
        try:
            return self._undone(epoch, measured) or self._acted(epoch, measured)
        except Exception as error:
            return "failed", self._failed(epoch, error).what, ""

    def _undone(self, epoch: int, measured: Measured) -> tuple[Outcome, str, str] | None:
        """Put back what was done last, where the figures say so."""
        last = self._last
        if last is None:
            return None
        decision = last.applied.decision
        triggers = self.config.elesh.structured_pruning.rollback_triggers
        found = judge(decision, last.before, measured, triggers)
        if found is None:
            return None
        if not found.roll_back:
            self._settled()
            return None
        self._last = None
        last.applied.roll_back()
        self._post.forget(decision.decision_id)
        self._report(epoch, decision, "rolled back", found.reason, last.before, measured)
        return "rolled back", found.reason, decision.decision_id

    def _acted(self, epoch: int, measured: Measured) -> tuple[Outcome, str, str] | None:
        """Carry out the oldest approved decision that came back."""
        answer = self._post.next_answer()
        if answer is None:
            return None
        decision, refused = answer.decision, self._post.refused(answer, epoch)
        if refused is not None:
            self._report(epoch, decision, *refused, measured, Measured())
            return *refused, decision.decision_id
        self._settled()  # one way back is kept: that of the last one
        applied = apply_decision(
            self.model, self.optimizer, decision, self.ema, folder=self.folder.path
        )
        if applied.outcome == "applied":
            self._last = _Last(applied=applied, before=measured)
            self._post.stands(decision)
        self._report(epoch, decision, applied.outcome, applied.reason, measured, Measured())
        return applied.outcome, applied.reason, decision.decision_id

    def _settled(self) -> None:
        """What was done last stays: let go of the way back."""
        if self._last is not None and self._last.applied.undo is not None:
            self._last.applied.undo.forget()
        self._last = None

    def _handed_over(self, epoch: int, measured: Measured, step: int | None) -> tuple[str, float]:
        if not self._post.due(epoch, wait=self.lockstep):
            return "", 0.0
        begin = time.perf_counter()
        self._post.copy_out(unwrapped(self.model), epoch)
        seconds = time.perf_counter() - begin
        self.copy_seconds.append(seconds)
        self._post.ask(unwrapped(self.model), epoch, measured, step)
        return "weights handed over", seconds

    def _looked_after(self) -> bool:
        """Whether the analysis goes on; a child that died is started again, three times at most."""
        if self._child is None or self._stopped:
            return not self._stopped
        before = self._child.restarts
        if not self._child.keep_alive():
            self._stopped = True
            why = f"The analysis died {RESTARTS + 1} times and is not started again; see the log."
            self._log("stopped", self._post.last_epoch, why, "warning")
            return False
        if self._child.restarts > before:
            self._log("restarted", self._post.last_epoch, "The analysis had died.", "warning")
        return True

    @property
    def _patience(self) -> float:
        return 2 * self.config.run.checkpoint_window

    def _report(
        self, epoch: int, decision: StructuralPruningDecision, outcome: Any, why: str,
        before: Measured, after: Measured,
    ) -> None:  # fmt: skip
        report = report_of(
            decision, outcome, why, epoch, parameter_count(unwrapped(self.model)),
            {"accuracy_before": before.finite_accuracy, "accuracy_after": after.finite_accuracy,
             "loss_before": before.finite_loss, "loss_after": after.finite_loss},
        )  # fmt: skip
        try:
            self.folder.send("applied", epoch, report)
        except ZseiError as error:
            # What was done is done; the next request says so too (`PrunedArchitecture.applied`).
            self._failed(epoch, error)

    def _failed(self, epoch: int, error: Exception) -> Event:
        self.errors += 1
        why = str(error) if isinstance(error, ZseiError) else f"{type(error).__name__}: {error}"
        self._log("failed", epoch, why, "error")
        return Event(epoch=epoch if isinstance(epoch, int) else 0, outcome="failed", what=why)

    def _log(self, event: str, epoch: Any, why: str, level: Any = "info") -> None:
        if level != "info":
            _LOGGER.log(logging.WARNING, "epoch %s: %s - %s", epoch, event, why)
        number = epoch if isinstance(epoch, int) and epoch > 0 else None
        log_event(
            self.folder.log,
            LogEvent(event=event, run=self.run, epoch=number, why=why, level=level),
        )
