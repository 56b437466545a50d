"""Wrappers that call a model on other batches than the caller's."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zsei.errors import UsageError
from zsei.speedups.runnable import Runnable
from zsei.subject.program import pick_output


class Rearranged(nn.Module):
    """Takes the model's arguments by position or by name and gives its main output alone.

    A subclass says in `rearranged` how the calls are made.
    """

    def __init__(self, runnable: Runnable):
        super().__init__()
        self.inner = runnable.module
        self.input_names = runnable.input_names

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """The main output for the caller's batch."""
        if len(args) > len(self.input_names):
            raise UsageError(
                f"A model sped up by rearranging batches takes {', '.join(self.input_names)} and "
                f"nothing else by position; {len(args)} were given. Name the others."
            )
        return self.rearranged(dict(zip(self.input_names, args, strict=False)) | named)

    def rearranged(self, named: Mapping[str, Tensor]) -> Tensor:
        """The main output, made of calls of `run`."""
        return self.run(named)

    def run(self, named: Mapping[str, Tensor]) -> Tensor:
        """One call of the model: main output for inputs by name."""
        return run_named(self.inner, self.input_names, named)


def run_named(module: nn.Module, names: tuple[str, ...], named: Mapping[str, Tensor]) -> Tensor:
    """The main output of a module for inputs by name, those beyond `names` included.

    A module whose forward has other names (`nn.Sequential`) gets those of `names` by position.
    """
    accepted = inspect.signature(module.forward).parameters
    kinds = {parameter.kind for parameter in accepted.values()}
    wraps = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if wraps or all(name in accepted for name in names):
        return pick_output(module(**named, **extra))
    first = [named[name] for name in names]
    rest = {name: tensor for name, tensor in named.items() if name not in names}
    return pick_output(module(*first, **rest, **extra))


def takes(module: nn.Module, name: str) -> bool:
    """Whether a module's forward may take an argument of this name; only a trial says whether it
    heeds it.
    """
    accepted = inspect.signature(module.forward).parameters
    opened = any(kind.kind is inspect.Parameter.VAR_KEYWORD for kind in accepted.values())
    return name in accepted or opened
