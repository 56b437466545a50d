"""Where claims are measured: workload, baseline, and the ways to run it, each made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from zsei.claims.claim import At, ClaimsFile
from zsei.errors import SpeedUpRefused
from zsei.gate.speed import SpeedEvidence
from zsei.records import Verdict
from zsei.settings import Settings
from zsei.speed.baseline import Baseline, main_output
from zsei.speed.measure import Bench as TrialBench
from zsei.speed.measure import answers, judged, named, sentence
from zsei.speed.state import undisturbed
from zsei.speed.training_trials import TrainingBench, training_bench, try_training
from zsei.speedups import SPEED_UPS, SpeedUp, Step, carry_out, find_speed_up
from zsei.speedups.runnable import Runnable
from zsei.speedups.training import TRAINING_SPEED_UPS, carry_out_training
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import TrainingSetup
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch
from zsei.timing.decision import Decided, measure_until_decided
from zsei.timing.threads import torch_threads

_FEW = 5
"""Rounds of a trial of training, whose time is not what is asked for."""

Measure = Callable[..., Decided]
"""`zsei.timing.decision.measure_until_decided`, or a stand-in whose clock is planted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """Steps carried out, with what became of outputs and answers."""

    runnable: Runnable
    evidence: SpeedEvidence
    verdict: Verdict
    """Of the gate, on all but the time (`zsei.gate.speed.same_answers`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """All that stays the same from claim to claim."""

    file: ClaimsFile
    workload: Workload
    baseline: Baseline
    settings: Settings
    cores: int
    """Cores of this machine that the process may use."""
    rounds: int
    """Timed rounds of a claim at most."""
    shelf: Sequence[SpeedUp] = SPEED_UPS
    training_shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS
    measure: Measure = measure_until_decided
    _made: dict[str, Tried | SpeedUpRefused] = field(default_factory=dict)
    _judged: dict[str, Verdict] = field(default_factory=dict)

    def tried(self, steps: Sequence[Step]) -> Tried:
        """The workload with steps carried out, its outputs and answers beside the baseline's.

        Raises:
            SpeedUpRefused: It cannot be had here, and why.
        """
        key = "|".join(step.model_dump_json() for step in steps)
        if key not in self._made:
            try:
                self._made[key] = self._try(steps)
            except SpeedUpRefused as refused:
                self._made[key] = refused
        found = self._made[key]
        if isinstance(found, SpeedUpRefused):
            raise found
        return found

    def _try(self, steps: Sequence[Step]) -> Tried:
        trials = TrialBench(
            workload=self.workload, baseline=self.baseline, settings=self.settings,
            shelf=self.shelf,
        )  # fmt: skip
        exact = all(find_speed_up(step.speedup, self.shelf).exact for step in steps)
        with undisturbed(), torch.no_grad():
            try:
                runnable = carry_out(steps, self.workload, self.shelf)
                main_output(runnable, self.workload, 0)
                evidence = answers(runnable, trials)
            except SpeedUpRefused:
                raise
            except Exception as error:
                raise SpeedUpRefused(
                    f"{named(steps)} must run on this model; it stopped with {sentence(error)}"
                ) from error
        return Tried(runnable=runnable, evidence=evidence, verdict=judged(evidence, exact, trials))

    def start(self) -> Runnable:
        """The baseline of the claims: the workload as it is, with the baseline's own steps."""
        return carry_out(self.file.baseline_of("inference"), self.workload, self.shelf)

    def training(self, steps: Sequence[Step]) -> TrainingSetup:
        """A training setup with steps carried out, on a copy of its own.

        Raises:
            SpeedUpRefused: It cannot be had here, and why.
            ObjectiveError: There is no loss to train by.
        """
        return carry_out_training(steps, self.workload, shelf=self.training_shelf)

    def trained(self, steps: Sequence[Step]) -> Verdict:
        """The gate's verdict on training with these steps: same steps, and as much learnt.

        Raises:
            SpeedUpRefused: It cannot be had here, and why.
            ObjectiveError: There is no loss to train by.
        """
        key = "|".join(step.model_dump_json() for step in steps)
        if key not in self._judged:
            self._judged[key] = try_training(self._training_bench, steps).trial.verdict
        return self._judged[key]

    @cached_property
    def _training_bench(self) -> TrainingBench:
        return training_bench(
            self.workload, self.settings, shelf=self.training_shelf, rounds=_FEW
        )  # fmt: skip

    def batches(self, at: At) -> tuple[Batch, ...]:
        """The held-out batches, cut or stretched to what a claim asks for.

        Raises:
            SpeedUpRefused: There are too few samples, or the model does not take this length.
        """
        made = self.workload.held_out
        if at.length is not None:
            made = tuple(stretched(batch, at.length) for batch in made)
        if at.batch is not None:
            made = rebatched(made, at.batch)
        if at != At():
            self._check(made[0], at)
        return made

    def _check(self, batch: Batch, at: At) -> None:
        try:
            with torch.no_grad(), torch_threads(self.workload.threads):
                self.baseline.runnable(batch.inputs)
        except Exception as error:
            shape = ", ".join(f"{name} {value}" for name, value in at if value is not None)
            raise SpeedUpRefused(
                f"The model must run at {shape}; it stopped with {sentence(error)}"
            ) from error


def rebatched(batches: Sequence[Batch], size: int) -> tuple[Batch, ...]:
    """Batches of exactly this many samples; what is left over is dropped.

    Args:
        batches: In order.
        size: Samples to a batch. More than a batch has joins neighbours of one shape.

    Raises:
        SpeedUpRefused: No batch of that size can be made of them.
    """
    whole: list[Batch] = []
    for batch in batches:
        alike = whole and [t.shape[1:] for t in whole[-1].inputs] == [
            t.shape[1:] for t in batch.inputs
        ]
        if alike and size > whole[-1].size:
            whole[-1] = _joined(whole[-1], batch)
        else:
            whole.append(batch)
    made = [
        _rows(batch, slice(first, first + size))
        for batch in whole
        for first in range(0, batch.size - size + 1, size)
    ]
    if not made:
        most = max(batch.size for batch in whole)
        raise SpeedUpRefused(
            f"Batches of {size} need as many held-out samples of one shape; there are {most}. "
            f"Raise samples in the workload."
        )
    return tuple(made)


def _joined(first: Batch, second: Batch) -> Batch:
    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    return replace(
        first,
        inputs=tuple(torch.cat(pair) for pair in zip(first.inputs, second.inputs, strict=True)),
        labels=both(first.labels, second.labels),
        mask=both(first.mask, second.mask),
        groups=(*first.groups, *second.groups),
    )


def _rows(batch: Batch, rows: slice) -> Batch:
    def cut(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[rows]

    return replace(
        batch, inputs=tuple(tensor[rows] for tensor in batch.inputs), labels=cut(batch.labels),
        mask=cut(batch.mask), groups=batch.groups[rows],
    )  # fmt: skip


def stretched(batch: Batch, length: int) -> Batch:
    """Samples of exactly this many positions: each one's real positions over and over.

    Timing and memory then see real values rather than padding. What has the length of the first
    input on axis 1 is stretched, all else stays; labels are left out.
    """
    long = batch.inputs[0].shape[1] if batch.inputs[0].ndim > 1 else 0
    if long == 0:
        raise SpeedUpRefused(
            f"A length needs inputs with positions on axis 1; the first input has the shape "
            f"{list(batch.inputs[0].shape)}."
        )
    mask = batch.mask if batch.mask is not None and batch.mask.shape[1] == long else None
    kept = [
        (torch.arange(long) if mask is None else mask[row].nonzero().flatten().cpu())
        for row in range(batch.size)
    ]
    places = [columns[torch.arange(length) % len(columns)] for columns in kept]

    def made(tensor: Tensor) -> Tensor:
        if tensor.ndim < 2 or tensor.shape[1] != long:
            return tensor
        rows = zip(tensor, places, strict=True)
        return torch.stack([row[columns.to(row.device)] for row, columns in rows])

    return replace(
        batch, inputs=tuple(made(tensor) for tensor in batch.inputs), labels=None,
        mask=None if batch.mask is None else torch.ones(
            batch.size, length, dtype=torch.bool, device=batch.mask.device
        ),
    )  # fmt: skip
