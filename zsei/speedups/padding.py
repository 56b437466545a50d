"""Compute nothing for padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from zsei.errors import SpeedUpRefused
from zsei.speedups.bucketed import Bucketed
from zsei.speedups.packed import Packed, Packing
from zsei.speedups.probe import Inputs, mask_name, moved, padded_left, probe, token_names, tolerance
from zsei.speedups.rearranged import Rearranged, takes
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import EXACT, Params
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin
from zsei.timing.threads import torch_threads

BUCKETS = (4, 2, 8)
WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention", "attention_window")
"""Where a config says that a token sees its neighbourhood alone."""


class PaddingParams(Params):
    """What is done about padding."""

    mode: Literal["trim", "buckets", "pack"] = "pack"
    buckets: int = Field(default=4, ge=2)
    """Most groups of a batch, under `buckets`."""


@final
@dataclass(frozen=True, kw_only=True)
class Padding:
    """Removes padding before the model runs and puts the output back into the caller's shape.

    *trim* cuts the positions that no sample of the batch uses. *buckets* sorts the samples by real
    length and runs them in a few groups, each cut to its own longest, split where fewest positions
    are run. *pack* moves the real tokens of all samples into rows about as long as the longest
    (first fit, longest first), restarts the positions and lets no token see another sample's: the
    work follows the number of real tokens. It needs a model that takes `position_ids` and a mask
    [n, 1, t, t]; whether this one heeds them is tried.

    Exact: at real positions up to the order of sums (1e-6); outputs at padding are zeros. After a
    step of lower precision another shape of batch rounds otherwise, within what that step itself
    changed. Costs some sorting and one copy of the inputs and outputs; attention of a packed row
    spends time on pairs that are then hidden.
    Misleads when: the batches that are timed are more ragged than those in use; with equal lengths
    nothing is gained. A call of one sample gains nothing either.

    References: Krell et al., Efficient sequence packing without cross-contamination, 2021; Zeng et
    al., Boosting distributed training performance of the unpadded BERT model, 2022.
    """

    name: ClassVar[str] = "padding"
    title: ClassVar[str] = "Padding removal"
    order: ClassVar[int] = 61
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = PaddingParams

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """Packing where the model heeds it, then 4, 2 and 8 buckets; trimming where batches have
        positions that nobody uses.
        """
        mask = _mask(workload)
        batches = (*workload.calibration, *workload.held_out)
        masks = [batch.inputs[workload.input_names.index(mask)] != 0 for batch in batches]
        if all(bool(real.all()) for real in masks):
            raise SpeedUpRefused(
                "Padding can be removed where there is some; all samples are equally long."
            )
        found: list[PaddingParams] = []
        reasons: list[str] = []
        wanted = [PaddingParams(), *(PaddingParams(mode="buckets", buckets=k) for k in BUCKETS)]
        if any(not bool(real.any(0).all()) for real in masks):
            wanted.append(PaddingParams(mode="trim"))
        start = bare(workload.model, workload.input_names)
        for params in wanted:
            try:
                self.apply(start, params, workload)
            except SpeedUpRefused as refused:
                reasons.append(str(refused))
            else:
                found.append(params)
        if not found:
            raise SpeedUpRefused(reasons[-1])
        return tuple(found)

    @torch.no_grad()
    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        """A wrapper, once it has given the same outputs on a few ragged samples."""
        mask = _mask(workload)
        tokens = (mask, *(name for name in token_names(workload, mask) if name != mask))
        inputs = probe(workload)
        if params.mode == "pack":
            wrapper = _packed(runnable, tokens, inputs, workload)
        else:
            groups = params.buckets if params.mode == "buckets" else 1
            wrapper = _bucketed(runnable, tokens, groups, inputs, workload)
        found = runnable.with_module(wrapper, main_only=True)
        if _compiled(runnable):
            # The shapes that the wrapper makes are compiled now rather than at first use.
            with torch_threads(workload.threads):
                for batch in (*workload.calibration, *workload.held_out):
                    found(batch.inputs)
        return found


def _mask(workload: Workload) -> str:
    name = mask_name(workload)
    if name is None:
        raise SpeedUpRefused(
            f"Padding is known by an input that says which tokens are real (attention_mask, "
            f"[n, t]); {type(workload.model).__name__} is given "
            f"{', '.join(workload.input_names)} and the data names no padding."
        )
    return name


def _plain(runnable: Runnable) -> Runnable:
    """What a trial runs: not the compiled form, which would compile for the trial's shapes."""
    # A copy of a compiled module is the module before it was compiled.
    return runnable.with_module(frozen_twin(runnable.module)) if _compiled(runnable) else runnable


def _compiled(runnable: Runnable) -> bool:
    return getattr(runnable.module, "_compiled_call_impl", None) is not None


def _bucketed(
    runnable: Runnable, tokens: tuple[str, ...], groups: int, inputs: Inputs, workload: Workload
) -> Rearranged:
    start = bare(workload.model, workload.input_names)
    length = inputs[workload.input_names.index(tokens[0])].shape[1]
    short = tuple(
        tensor[1:2, : length // 2] if name in tokens else tensor[1:2]
        for name, tensor in zip(workload.input_names, inputs, strict=True)
    )
    long, cut = start(inputs), start(short)
    per_position = long.ndim > 1 and long.shape[1] == length and cut.shape[1] == length // 2

    def made(
        side: Runnable, left: bool = False, shifted: bool = False, most: int = len(inputs[0])
    ) -> Bucketed:
        # A trial runs each of its samples alone, which cuts what any other grouping could.
        return Bucketed(side, tokens=tokens, groups=most, per_position=per_position,
                        cut_left=left, shifted=shifted)  # fmt: skip

    real = _real(tokens, inputs, workload) if per_position else None
    _compare(runnable, made, inputs, real, workload, "buckets" if groups > 1 else "trim")
    # Positions that a model counts from the left end need telling, or must stay.
    mirrored = padded_left(inputs, tokens, workload)
    real = _real(tokens, mirrored, workload) if per_position else None
    whole = start(mirrored)
    told = [False, *([True] if takes(start.module, "position_ids") else [])]
    for shifted in told if "position_ids" not in tokens else [False]:
        cut_too = start.with_module(made(start, True, shifted), main_only=True)
        if moved(whole, _tried(cut_too, mirrored, whole), real) <= EXACT:
            kept = not shifted or takes(runnable.module, "position_ids")
            return made(runnable, kept, shifted and kept, groups)
    return made(runnable, most=groups)


def _packed(
    runnable: Runnable, tokens: tuple[str, ...], inputs: Inputs, workload: Workload
) -> Rearranged:
    others = [name for name in workload.input_names if name not in tokens]
    config: Any = getattr(workload.model, "config", None)
    windows = [name for name in WINDOWS if getattr(config, name, None)]
    if others or windows:
        what = f"an input per sample ({others[0]})" if others else f"a window ({windows[0]})"
        raise SpeedUpRefused(
            f"Packing lets a row hold several samples; {type(workload.model).__name__} has {what}, "
            f"which a row cannot carry. Use padding with mode=buckets."
        )
    start = bare(workload.model, workload.input_names)
    given, real = start(inputs), _real(tokens, inputs, workload)
    for packing in _packings(config):
        tried = start.with_module(Packed(start, tokens=tokens, packing=packing), main_only=True)
        if moved(given, _tried(tried, inputs, given), real) <= EXACT:
            break
    else:
        raise SpeedUpRefused(
            f"Packing needs a model that heeds position_ids and a mask [n, 1, t, t] and gives one "
            f"output per position; {type(workload.model).__name__} gave other outputs so. Use "
            f"padding with mode=buckets."
        )

    def made(side: Runnable) -> Packed:
        return Packed(side, tokens=tokens, packing=packing)

    _compare(runnable, made, inputs, real, workload, "pack")
    return made(runnable)


def _packings(config: Any) -> Iterator[Packing]:
    after = getattr(config, "pad_token_id", None)
    for counted in (None, 0, *([after + 1] if isinstance(after, int) else [])):
        for causal in (False, True):
            yield Packing(causal=causal, counted=counted)


def _real(tokens: tuple[str, ...], inputs: Inputs, workload: Workload) -> Tensor:
    return inputs[workload.input_names.index(tokens[0])] != 0


def _tried(runnable: Runnable, inputs: Inputs, given: Tensor) -> Tensor:
    """The output, or nothing like it where the model cannot be run so."""
    try:
        return runnable(inputs)
    except Exception:
        return given.new_zeros(0)


def _compare(
    runnable: Runnable, made: Any, inputs: Inputs, real: Tensor | None, workload: Workload,
    mode: str,
) -> None:  # fmt: skip
    """Raises `SpeedUpRefused` where the wrapper changes what the runnable gives."""
    plain = _plain(runnable)
    try:
        before = plain(inputs)
        after = plain.with_module(made(plain), main_only=True)(inputs)
        bound = tolerance(plain, workload, inputs, real)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SpeedUpRefused(
            f"Padding removal ({mode}) must be able to run the model on other batches; "
            f"{type(plain.module).__name__} stopped with: {reason[:300]}. Leave it out here."
        ) from error
    difference = moved(before, after, real)
    if difference > bound:
        raise SpeedUpRefused(
            f"Padding removal ({mode}) must leave outputs at real positions within {bound:.1e} of "
            f"the largest; {type(workload.model).__name__} moves by {difference:.1e}: what it "
            f"gives depends on padding. Leave it out here."
        )
