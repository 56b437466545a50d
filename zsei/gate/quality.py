"""What an edited model answers on held-out samples, beside what the original answers.

Everything is kept per sample, so that the judge can bound it. Letters: n sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsei.errors import DataError, ModelError
from zsei.gate.statistics import Floats
from zsei.subject.objective import (
    Objective,
    OutputKind,
    agreement,
    correct,
    divergence,
    loss,
    readout,
)
from zsei.subject.types import Batch, Subject
from zsei.trace.parallel import few_at_a_time

RunBatch = Callable[[Batch], Tensor]

_KEPT_BYTES = 1 << 27
"""Readouts of the original beyond this many bytes are computed again rather than kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """Per sample [n], what the edited model does beside the original. Numbers only."""

    output: OutputKind
    divergence: Floats
    """How far the readout moved: KL in nats, 1 - cos or relative L2."""
    agreement: Floats | None
    """Share of decisions unchanged, 0 to 1; None where outputs decide nothing."""
    loss: tuple[Floats, Floats] | None
    """Loss of the original and of the edited model; None without labels."""
    correct: tuple[Floats, Floats] | None
    """Share of right answers, original and edited; None where there is no right or wrong."""
    similarity: tuple[Floats, Floats, Floats] | None
    """Gold score, cosine of the original, cosine of the edited model; both rows of a pair carry
    them. None unless the objective is similarity."""
    groups: NDArray[np.int64]
    """Number of each sample's data group."""
    stride: int = 1
    """Rows of one independent sample: 2 where rows 2i and 2i + 1 are a pair."""
    nonfinite: int = 0
    """NaN or infinite numbers in the edited model's outputs; then nothing else was measured."""

    @property
    def n(self) -> int:
        """Samples measured."""
        return len(self.divergence)

    def of_group(self, group: int) -> "Quality":
        """The samples of one group; a pair belongs to the group of its first row."""
        of_sample = np.repeat(self.groups[:: self.stride], self.stride)[: self.n]
        rows = of_sample == group

        def pick(*arrays: Floats) -> tuple[Floats, ...]:
            return tuple(array[rows] for array in arrays)

        return Quality(
            output=self.output,
            divergence=self.divergence[rows],
            agreement=None if self.agreement is None else self.agreement[rows],
            loss=self.loss and pick(*self.loss),  # type: ignore[arg-type]
            correct=self.correct and pick(*self.correct),  # type: ignore[arg-type]
            similarity=self.similarity and pick(*self.similarity),  # type: ignore[arg-type]
            groups=self.groups[rows],
            stride=self.stride,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The original's answers on fixed batches, measured once for all proposals."""

    objective: Objective
    batches: tuple[Batch, ...]
    run: RunBatch
    kept: tuple[Tensor | None, ...]
    """Readout per batch; None where it was too large to keep and is computed again."""
    loss: Floats | None
    correct: Floats | None

    def readout(self, index: int) -> Tensor:
        """The original's readout of batch `index`."""
        kept = self.kept[index]
        return _read(self.run, self.objective, self.batches[index]) if kept is None else kept


def _read(run: RunBatch, objective: Objective, batch: Batch) -> Tensor:
    output = run(batch)
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()  # a divergence of half precision numbers is mostly rounding
    return readout(objective, output, batch)


def _array(tensors: Sequence[Tensor]) -> Floats:
    """One float64 array of all samples [n]."""
    return torch.cat([t.detach().double().cpu().flatten() for t in tensors]).numpy()


@torch.no_grad()
def measure_reference(run: RunBatch, subject: Subject, batches: Sequence[Batch]) -> Reference:
    """Run the original over the batches and keep its readouts, losses and right answers.

    Raises:
        DataError: When there is no batch.
        ModelError: When the original's own output is not finite, so that nothing can be compared.
    """
    if not batches:
        raise DataError("The gate judges on held-out samples and got none; give more data.")
    objective = subject.objective
    kept: list[Tensor | None] = []
    losses, rights, used = [], [], 0
    for batch, values in few_at_a_time(lambda b: _read(run, objective, b), batches):
        if not bool(torch.isfinite(values).all()):
            raise ModelError("The original's own output on held-out data is not finite.")
        if objective.supervised:
            losses.append(loss(objective, values, batch))
            right = correct(objective, values, batch)
            rights += [] if right is None else [right]
        used += values.numel() * values.element_size()
        kept.append(values if used <= _KEPT_BYTES else None)
    return Reference(
        objective=objective,
        batches=tuple(batches),
        run=run,
        kept=tuple(kept),
        loss=_array(losses) if losses else None,
        correct=_array(rights) if rights else None,
    )


@torch.no_grad()
def measure_quality(
    run: RunBatch, subject: Subject, batches: Sequence[Batch], reference: Reference
) -> Quality:
    """Run an edited model over the reference's batches and compare it sample by sample.

    Args:
        run: Edited model: batch to main output.
        subject: Whose objective says what an answer is.
        batches: The batches the reference was measured on.
        reference: The original's answers there.

    Raises:
        ModelError: When the edited output has another shape than the original's.
    """
    objective = subject.objective
    moved, same, losses, rights, edited_rows, original_rows = [], [], [], [], [], []
    answers = few_at_a_time(lambda b: _read(run, objective, b), batches)
    for index, (batch, values) in enumerate(answers):
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            return _broken(objective, bad)
        original = reference.readout(index)
        if values.shape != original.shape:
            raise ModelError(
                f"An edit must keep the output's shape; it is {tuple(values.shape)} instead of "
                f"{tuple(original.shape)}."
            )
        moved.append(divergence(objective, values, original, batch))
        if objective.output == "embedding":
            edited_rows.append(values)
            original_rows.append(original)
        elif (unchanged := agreement(objective, values, original, batch)) is not None:
            same.append(unchanged)
        if objective.supervised:
            losses.append(loss(objective, values, batch))
            right = correct(objective, values, batch)
            rights += [] if right is None else [right]
    if edited_rows:
        # A nearest neighbour is sought in the whole held-out set, not within a batch.
        whole = agreement(objective, torch.cat(edited_rows), torch.cat(original_rows), batches[0])
        same = [] if whole is None else [whole]
    # Finite outputs may still be too large to compare: their distance overflows.
    overflow = sum(int((~torch.isfinite(t)).sum()) for t in (*moved, *same, *losses))
    if overflow:
        return _broken(objective, overflow)
    return Quality(
        output=objective.output,
        divergence=_array(moved),
        agreement=_array(same) if same else None,
        loss=_pair(reference.loss, losses),
        correct=_pair(reference.correct, rights),
        similarity=_similarity(objective, batches, original_rows, edited_rows),
        groups=_group_numbers(batches),
        stride=2 if objective.name == "similarity" else 1,
    )


def _pair(before: Floats | None, after: list[Tensor]) -> tuple[Floats, Floats] | None:
    return None if before is None or not after else (before, _array(after))


def _broken(objective: Objective, bad: int) -> Quality:
    """What is left to say of a model whose outputs are not numbers."""
    nothing = np.empty(0)
    return Quality(
        output=objective.output, divergence=nothing, agreement=None, loss=None, correct=None,
        similarity=None, groups=np.empty(0, dtype=np.int64), nonfinite=bad,
    )  # fmt: skip


def _similarity(
    objective: Objective, batches: Sequence[Batch], before: list[Tensor], after: list[Tensor]
) -> tuple[Floats, Floats, Floats] | None:
    """Gold score and both cosines of each pair, given to both of its rows."""
    if objective.name != "similarity":
        return None
    gold = [batch.labels for batch in batches if batch.labels is not None]

    def cosines(rows: list[Tensor]) -> Floats:
        pairs = torch.cat(rows).unflatten(0, (-1, 2))
        return _array([(pairs[:, 0] * pairs[:, 1]).sum(-1).repeat_interleave(2)])

    return _array(gold), cosines(before), cosines(after)


def group_names(batches: Sequence[Batch]) -> tuple[str, ...]:
    """Names of the data groups, sorted; a sample's group number is its place here."""
    return tuple(sorted({name for batch in batches for name in batch.groups})) or ("all",)


def _group_numbers(batches: Sequence[Batch]) -> NDArray[np.int64]:
    names = group_names(batches)
    numbers = [
        names.index(name)
        for batch in batches
        for name in (batch.groups or (names[0],) * batch.size)
    ]
    return np.array(numbers, dtype=np.int64)
