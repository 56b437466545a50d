"""Carries out a decision on a model in training: all of it, or nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from zsei.checkpoint.contracts import ApplicationReport, Mode, StructuralPruningDecision
from zsei.errors import SurgeryRefused, ZseiError
from zsei.subject.program import parameter_count
from zsei.training.averages import cut_average
from zsei.training.changes import Entries, carry_out
from zsei.training.cut import prepare_cut
from zsei.training.mask import Held, as_masks, hold_at_zero
from zsei.training.optimizer import check_complete, cut_optimizer, plain
from zsei.training.undo import Undo, remember

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True, eq=False)
class Applied:
    """What was done with a decision."""

    decision: StructuralPruningDecision
    outcome: Literal["applied", "refused"]
    reason: str
    """In one sentence; of a refusal the rule, what arrived and the likely fix."""
    mode: Mode
    parameters_before: int
    parameters: int
    undo: Undo | None = None
    held: Held | None = None
    """Of a mask: what holds it."""

    def roll_back(self) -> None:
        """Bring the model, the optimizers and the averages back to what they were, to the bit.

        Raises:
            ModelError: The copies on disk are gone; nothing is changed.
        """
        if self.undo is not None:
            self.undo.restore()
        if self.held is not None:
            self.held.release()

    def report(self, epoch: int, **measured: float | None) -> ApplicationReport:
        """The message about it.

        Args:
            epoch: When it was done.
            measured: `accuracy_before` and the other figures of `ApplicationReport`.
        """
        return report_of(self.decision, self.outcome, self.reason, epoch, self.parameters, measured)


def apply_decision(
    model: nn.Module,
    optimizers: Optimizers,
    decision: StructuralPruningDecision,
    emas: Iterable[Any] = (),
    *,
    folder: Path | None = None,
) -> Applied:
    """Carry out an approved decision on a model in training, between two steps.

    The model stays the same object. Parameters that are cut become new ones, in the model, in the
    optimizers' groups and in their memory; averages are cut alike. When anything does not fit,
    nothing at all is changed and the outcome is "refused".

    Args:
        model: The model in training, or its wrapper of one process.
        optimizers: All of its optimizers; with none, the model alone is cut.
        decision: The answer to a request about this very architecture.
        emas: Averages of its weights: `AveragedModel`, any other copy of the model, tensors by
            name, or a list in the order of the parameters.
        folder: Where the way back is kept when it is large; None: in memory.

    Misleads when: other lists of parameters exist that were made by hand before: they hold the old
    ones, and so clip or average what is not trained any more. Make them again.
    """
    given = (optimizers,) if isinstance(optimizers, torch.optim.Optimizer) else tuple(optimizers)
    wrapper, model, averages = model, unwrapped(model), tuple(emas)
    plains = tuple({id(plain(each)): plain(each) for each in given}.values())
    before = parameter_count(model)
    try:
        _check(decision, wrapper)
        undo, held = _do(model, plains, decision, averages, folder)
    except (ZseiError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        why = str(error) if isinstance(error, ZseiError) else f"{type(error).__name__}: {error}"
        return Applied(
            decision=decision, outcome="refused", reason=why, mode=decision.mode,
            parameters_before=before, parameters=before,
        )  # fmt: skip
    after = parameter_count(model)
    return Applied(
        decision=decision,
        outcome="applied",
        reason=_done(decision, before, after),
        mode=decision.mode,
        parameters_before=before,
        parameters=after,
        undo=undo,
        held=held,
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside the wrappers of torch."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # torch.compile
        else:
            return model


def report_of(
    decision: StructuralPruningDecision,
    outcome: Literal["applied", "refused", "expired", "rolled back"],
    reason: str,
    epoch: int,
    parameters: int,
    measured: dict[str, float | None],
) -> ApplicationReport:
    """The message about what was done with a decision."""
    return ApplicationReport(
        decision_id=decision.decision_id,
        idempotency_key=f"{epoch}:{decision.decision_id}:{outcome}",
        run=decision.run,
        epoch=epoch,
        outcome=outcome,
        reason=reason,
        parameters=parameters,
        **measured,  # type: ignore[arg-type]
    )


def _do(
    model: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, ...],
    decision: StructuralPruningDecision,
    averages: tuple[Any, ...],
    folder: Path | None,
) -> tuple[Undo, Held | None]:
    if decision.mode == "mask":
        masks = as_masks(model, decision.masks.masks)
        undo = remember(model, optimizers, averages, folder=folder)
        try:
            return undo, hold_at_zero(model, optimizers, masks, averages)
        except BaseException:
            undo.restore()
            raise
    assert decision.edit is not None
    cut = prepare_cut(model, decision.edit)
    check_complete(cut, optimizers)
    changes = [*cut.changes]
    for optimizer in optimizers:
        changes += cut_optimizer(optimizer, cut)
    for average in averages:
        changes += cut_average(average, model, decision.edit, cut)
    changes += _statistics(model, decision)
    undo = remember(model, optimizers, averages, replaced=cut.tensors, folder=folder)
    undo.structure = (*carry_out(changes), *undo.structure)
    return undo, None


def _statistics(model: nn.Module, decision: StructuralPruningDecision) -> Iterator[Entries]:
    """The running statistics that come with a cut, as changes that follow it."""
    gone = {cut.name: len(cut.removed) for cut in decision.edit.cuts} if decision.edit else {}
    for name, values in decision.buffers.items():
        path, _, leaf = name.rpartition(".")
        known = model.get_submodule(path)._buffers.get(leaf)
        left = None if known is None else known.numel() - gone.get(name, 0)
        if known is None or left != len(values):
            raise SurgeryRefused(
                f"A decision names the statistics as they are behind the cut; `{name}` has "
                f"{'no buffer' if left is None else left} there and {len(values)} arrived. Ask "
                "about the model as it is now."
            )
        value = torch.tensor(values, dtype=known.dtype, device=known.device)
        yield Entries(place=model.get_submodule(path)._buffers, values={leaf: value})


def _check(decision: StructuralPruningDecision, model: nn.Module) -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not decision.approved_for_application:
        raise SurgeryRefused(
            f"Only an approved decision is carried out; {decision.decision_id} is not "
            f"({decision.rejection_reason or 'no reason given'})."
        )
    if decision.mode == "observe":
        raise SurgeryRefused(
            f"{decision.decision_id} was made to observe only; ask with the mode mask or remove."
        )
    if decision.mode == "mask" and not decision.masks.masks:
        raise SurgeryRefused(f"{decision.decision_id} names no entries to hold at zero.")
    if decision.mode == "remove" and decision.edit is None:
        raise SurgeryRefused(
            f"{decision.decision_id} comes without the cut by parameter name: the model's class "
            "cannot be edited. Hold the units at zero instead (mode mask)."
        )
    together = isinstance(model, nn.parallel.DistributedDataParallel)
    if together or (distributed and torch.distributed.get_world_size() > 1):
        raise SurgeryRefused(
            "Several processes train this model and would have to change it at the same moment; "
            "observe only, and cut between two runs."
        )


def _done(decision: StructuralPruningDecision, before: int, after: int) -> str:
    counts = {
        "channel": sum(len(t.channel_indices) for t in decision.channels if t.kind == "channel"),
        "neuron": sum(len(t.channel_indices) for t in decision.channels if t.kind == "neuron"),
        "head": sum(len(target.head_indices) for target in decision.attention_heads),
        "layer": len(decision.layers),
    }
    what = [f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n]
    if decision.mode == "mask":
        return f"{', '.join(what) or 'units'} held at zero"
    return f"{', '.join(what) or 'units'} removed, parameters {before:,} -> {after:,}"
