"""Compute in 16 bits: the whole model, or those of its components that bear it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zsei.errors import SpeedUpRefused
from zsei.settings import SPEED_BOUNDS
from zsei.speedups.placement import critical_of, mean_divergence, place, upper
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import Params
from zsei.speedups.weighted import grouped, one_line, paths_of, refuse_opaque, weighted
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin

Dtype = Literal["bfloat16", "float16"]


class LowerPrecisionParams(Params):
    """Which type, and where."""

    dtype: Dtype = "bfloat16"
    components: Literal["all"] | tuple[str, ...] = "all"
    """`all`: weights, activations and residual stream alike. Ids: the weights of these components
    alone, all else in float32, with casts at their borders."""


@final
@dataclass(frozen=True, kw_only=True)
class LowerPrecision:
    """Weights and activations in bfloat16 (8 bits of mantissa) or float16 (11 bits, up to 65504).

    The whole model is fastest, for nothing is cast on the way. Where its outputs move too far, the
    components that bear it run lowered and the others keep float32: those off the critical path
    first, by measured sensitivity (`zsei.speedups.placement`). Outputs are float32 either way.

    Exact: no; a rounding of 2^-9 (bfloat16) or 2^-12 (float16) relative at every step.
    Costs: half the memory of the weights that are lowered, beside the original's.
    Misleads when: the processor has no instruction for the type. Float16 is then emulated, and many
    times slower; that is measured, not guessed.

    References: Micikevicius et al., "Mixed precision training", ICLR 2018; Kalamkar et al., "A
    study of BFLOAT16 for deep learning training", 2019.
    """

    name: ClassVar[str] = "lower-precision"
    title: ClassVar[str] = "Lower precision"
    order: ClassVar[int] = 30
    exact: ClassVar[bool] = False
    params: ClassVar[type[Params]] = LowerPrecisionParams

    most: int = 24
    """Groups of components whose sensitivity is measured one by one."""

    def variants(self, workload: Workload) -> tuple[LowerPrecisionParams, ...]:
        """Bfloat16 as a whole, placed where the whole is too coarse; float16 as a whole."""
        whole = LowerPrecisionParams()
        found = [whole, LowerPrecisionParams(dtype="float16")]
        try:
            runnable = self.apply(bare(workload.model, workload.input_names), whole, workload)
        except SpeedUpRefused:
            found.remove(whole)
            moved = float("inf")
        else:
            moved = upper(mean_divergence(runnable, workload))
        if moved > SPEED_BOUNDS[workload.objective.output]:
            placed = self._placed(workload)
            found = [*([placed] if placed else []), *found]
        return tuple(found)

    def _placed(self, workload: Workload) -> LowerPrecisionParams | None:
        """Bfloat16 on the components that bear it together; None where none does."""

        def lowered(ids: Sequence[str]) -> Runnable:
            steps = LowerPrecisionParams(components=tuple(ids))
            return self.apply(bare(workload.model, workload.input_names), steps, workload)

        ids = grouped(weighted(workload), workload, self.most)
        bound = SPEED_BOUNDS[workload.objective.output]
        critical = critical_of(workload.subject)
        found = place(workload, ids, lowered, bound=bound, critical=critical)
        return LowerPrecisionParams(components=found.lowered) if found.lowered else None

    def apply(
        self, runnable: Runnable, params: LowerPrecisionParams, workload: Workload
    ) -> Runnable:
        """A twin with weights of the lower type; it runs once before it is handed out."""
        refuse_opaque(runnable, self.title)
        dtype: torch.dtype = getattr(torch, params.dtype)
        if params.components == "all":
            # Tables that are not saved (rotary angles) keep float32 where the model can use them.
            ways: tuple[Callable[[nn.Module], None], ...] = (
                partial(lower, dtype=dtype, tables=False),
                partial(lower, dtype=dtype, tables=True),
            )
        else:
            paths = paths_of(params.components, workload)
            ways = (partial(_lower_parts, paths=paths, dtype=dtype),)
        failure: Exception | None = None
        for way in ways:
            twin = frozen_twin(runnable.module)
            way(twin)
            found = runnable.with_module(twin)
            try:
                with torch.no_grad():
                    found([tensor[:2] for tensor in workload.calibration[0].inputs])
            except Exception as error:  # whatever a model's own code raises on another type
                failure = failure or error
            else:
                return found
        assert failure is not None
        raise SpeedUpRefused(
            f"Every call of the model must exist in {params.dtype}; it stopped with "
            f"{one_line(failure)}. Lower only some components, or another type."
        ) from failure


def lower(module: nn.Module, *, dtype: torch.dtype, tables: bool = False) -> None:
    """Turn a module's weights into another type, and cast what enters and leaves it, in place.

    Args:
        module: A twin; its weights are replaced by new ones, which leaves the original's alone.
        dtype: The type inside. Floating point values leave as float32.
        tables: Whether buffers that are not saved are turned too.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        saved = part.state_dict(keep_vars=True).keys() - dict(part.named_parameters()).keys()
        for name, weight in list(part.named_parameters(recurse=False)):
            if weight.is_floating_point():
                # A weight that two modules share stays one.
                if weight not in made:
                    made[weight] = nn.Parameter(weight.to(dtype), requires_grad=False)
                setattr(part, name, made[weight])
        for name, table in list(part.named_buffers(recurse=False)):
            if table.is_floating_point() and (tables or name in saved):
                setattr(part, name, table.to(dtype))
    module.register_forward_pre_hook(partial(_cast_arguments, dtype=dtype), with_kwargs=True)
    module.register_forward_hook(_cast_result)


def _lower_parts(model: nn.Module, *, paths: Sequence[str], dtype: torch.dtype) -> None:
    for path in paths:
        try:
            part = model.get_submodule(path)
        except AttributeError as error:
            raise SpeedUpRefused(
                f"The component at {path} must still be a module of its own; an earlier step "
                f"replaced it. Leave one of the two out."
            ) from error
        lower(part, dtype=dtype)


def _cast_arguments(
    module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *, dtype: torch.dtype
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module
    return pytree.tree_map(partial(_cast, dtype=dtype), (args, named))


def _cast_result(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    del module, args
    return pytree.tree_map(partial(_cast, dtype=torch.float32), result)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
