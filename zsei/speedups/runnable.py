"""A way to run a model: what is called, and what holds around every call."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from zsei.subject.program import MainOutput, frozen_twin

Around = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Runnable:
    """A model with the speed-ups that were carried out on it so far. The user's is never in it."""

    module: nn.Module
    """Takes the model's own arguments by name. A copy that shares weights with the original, or a
    wrapper around one."""
    input_names: tuple[str, ...]
    around: tuple[Around, ...] = ()
    """Contexts entered, in order, around every call: thread counts, kernels, inference mode."""
    main_only: bool = False
    """Whether `module` gives the main output alone, where the model itself gives more."""

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The main output for the inputs in order."""
        with ExitStack() as stack:
            for enter in self.around:
                stack.enter_context(enter())
            return MainOutput(self.module, self.input_names)(*inputs)

    def with_module(self, module: nn.Module, *, main_only: bool | None = None) -> "Runnable":
        """The same way to run another module."""
        only = self.main_only if main_only is None else main_only
        return replace(self, module=module, main_only=only)

    def with_around(self, enter: Around) -> "Runnable":
        """With one more context, inside the others."""
        return replace(self, around=(*self.around, enter))


class Accelerated(nn.Module):
    """A runnable as the module a user calls: arguments by position or by name, as the model's."""

    def __init__(self, runnable: Runnable):
        super().__init__()
        self.module = runnable.module
        self._runnable = runnable

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives; its main output alone where a speed-up gives no more."""
        with ExitStack() as stack:
            for enter in self._runnable.around:
                stack.enter_context(enter())
            return self.module(*args, **kwargs)


def bare(module: nn.Module, input_names: Sequence[str]) -> Runnable:
    """A model as it is, on a twin that shares its weights."""
    return Runnable(module=frozen_twin(module), input_names=tuple(input_names))
