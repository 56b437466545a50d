"""The new values that proposals bring along, alone and together."""

import base64
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import AnalysisRecord, KeptTensor, Proposal
from zsei.strategies import find_strategy
from zsei.strategies.strategy import Fitting
from zsei.subject.program import Program
from zsei.subject.types import Subject
from zsei.surgery.edits import BypassLayer, Edit, ReplaceLayer
from zsei.surgery.fold import Means, bias_shifts
from zsei.surgery.program_form import plan_edits
from zsei.surgery.resize import keep
from zsei.surgery.weights import Weights


def fits(proposal: Proposal) -> bool:
    """Whether a proposal's edits come with values fitted to calibration data."""
    return isinstance(find_strategy(proposal.strategy), Fitting)


def fitted(subject: Subject, proposal: Proposal, edits: Sequence[Edit]) -> Weights:
    """The values a proposal brings, sized as before any unit is cut; {} for most strategies.

    Args:
        subject: The model and its calibration data.
        proposal: The proposal.
        edits: What its strategy made of it.

    Raises:
        UsageError: The model's structure does not allow it.
        SurgeryRefused: Likewise, or the numbers cannot be fitted.
    """
    strategy = find_strategy(proposal.strategy)
    if not isinstance(strategy, Fitting):
        return {}
    try:
        found = strategy.weights(subject, edits, proposal)
    except RuntimeError as error:  # what torch raises for sums that cannot be solved
        reason = str(error).strip().splitlines()[0]
        raise SurgeryRefused(f"{proposal.strategy} cannot be fitted: {reason}") from error
    wrong = sorted(name for name, value in found.items() if not value.isfinite().all())
    if wrong:
        raise SurgeryRefused(
            f"{proposal.strategy} was fitted to values that are not finite, for {wrong[0]} is not; "
            f"find where the model's values leave the finite numbers first."
        )
    return found


def together(
    program: Program, edits: Sequence[Edit], parts: Iterable[Weights], means: Means
) -> Weights:
    """The values of several proposals as their edits together leave them.

    What units the edits cut goes of the values too, and the folded means of removed units are in
    the biases. Values inside layers that go are left out.

    Args:
        program: The unedited program.
        edits: All edits.
        parts: The values that each proposal brings.
        means: See `bias_shifts`.

    Raises:
        SurgeryRefused: Two of them give one parameter different values, or the edits are refused.
    """
    joined: dict[str, Tensor] = {}
    for part in parts:
        if both := sorted(joined.keys() & part.keys()):
            raise SurgeryRefused(
                f"Two of the proposals give `{both[0]}` new values of their own, each fitted "
                f"without the other; apply one of them."
            )
        joined |= part
    if not joined:
        return {}
    removed = [e.site.component for e in edits if isinstance(e, BypassLayer | ReplaceLayer)]
    maps = [f"{e.site.component}.map." for e in edits if isinstance(e, ReplaceLayer)]
    gone = plan_edits(program, edits).group.parameters
    shifts = bias_shifts(program, edits, means)
    found = {}
    for name, value in joined.items():
        inside = any(name.startswith(f"{layer}.") for layer in removed)
        if inside and not name.startswith(tuple(maps)):
            continue
        left = keep(value, gone.get(name, {}))
        found[name] = left + shifts[name].to(left.dtype) if name in shifts else left
    return found


def kept_tensor(value: Tensor) -> KeptTensor:
    """A tensor as a record holds it."""
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return KeptTensor(
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        data=base64.b64encode(raw).decode("ascii"),
    )


def read_tensor(kept: KeptTensor) -> Tensor:
    """The tensor that a record holds."""
    raw = bytearray(base64.b64decode(kept.data))
    if not raw:
        return torch.zeros(kept.shape, dtype=getattr(torch, kept.dtype))
    return torch.frombuffer(raw, dtype=getattr(torch, kept.dtype)).reshape(kept.shape)


def kept_values(fitted: Mapping[str, Weights]) -> dict[str, dict[str, KeptTensor]]:
    """The values of accepted proposals as a record holds them."""
    return {
        proposal: {name: kept_tensor(value) for name, value in sorted(values.items())}
        for proposal, values in sorted(fitted.items())
    }


def values_of(record: AnalysisRecord, proposals: Iterable[Proposal]) -> list[Weights]:
    """The values that a record holds for proposals.

    Raises:
        UsageError: One was not accepted, so its values were not kept.
    """
    found = []
    for proposal in proposals:
        kept = record.fitted.get(proposal.id)
        if kept is None and fits(proposal):
            raise UsageError(
                f"The fitted values of {proposal.id} ({proposal.strategy}) are kept only when the "
                f"gate accepts it, and in {record.id} it did not. Leave it out, or analyse again "
                f"with a safety level that accepts it."
            )
        found.append({name: read_tensor(value) for name, value in (kept or {}).items()})
    return found
