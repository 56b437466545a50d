"""The coarser way: module hooks, for models that cannot be exported as one program.

A site's node is a module path. Every ablation is a full run. Heads, neurons inside a module and
residual joins cannot be seen from here.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsei.subject.program import MainOutput, pick_output
from zsei.subject.types import Batch, Replacement, Watch
from zsei.trace.engine import replaced


class ModuleEngine:
    """Runs a model under forward hooks, which are always removed again."""

    fidelity: Literal["program", "modules"] = "modules"
    concurrent: bool = False

    def __init__(self, model: nn.Module, input_names: Sequence[str]):
        self.model = model
        self.call = MainOutput(model, input_names).eval()
        self.modules = dict(model.named_modules())

    def run(self, batch: Batch, watch: Watch | None = None) -> Tensor:
        """The main output for a batch; `watch` sees (and may replace) module outputs it names."""
        with ExitStack() as stack:
            for name, seen in (watch or {}).items():
                hook = self.modules[name].register_forward_hook(_watching(seen))
                stack.callback(hook.remove)
            return self.call(*batch.inputs)

    def sweep(
        self, batch: Batch, replacements: Sequence[Replacement]
    ) -> Iterator[tuple[int, Tensor]]:
        """One full run per replacement."""
        for index, replacement in enumerate(replacements):
            with torch.no_grad(), ExitStack() as stack:
                module = self.modules[replacement.site.node]
                hook = module.register_forward_hook(_replacing(replacement))
                stack.callback(hook.remove)
                yield index, self.call(*batch.inputs)

    def together(self, batch: Batch, replacements: Sequence[Replacement]) -> Tensor:
        """One run with a hook per replacement; a bypassed layer hands on what now enters it."""
        with torch.no_grad(), ExitStack() as stack:
            for replacement in sorted(replacements, key=lambda r: r.value is None):
                module = self.modules[replacement.site.node]
                hook = module.register_forward_hook(_replacing(replacement))
                stack.callback(hook.remove)
            return self.call(*batch.inputs)

    def seconds(self, batch: Batch, repeats: int) -> Mapping[str, float]:
        """Median seconds per leaf module over repeated runs (a module called twice adds up)."""
        found: dict[str, list[float]] = {}
        started: dict[str, float] = {}
        with torch.no_grad():
            for _ in range(repeats):
                with ExitStack() as stack:
                    spent: dict[str, float] = {}
                    for name, module in self.modules.items():
                        if any(True for _ in module.children()):
                            continue
                        before = module.register_forward_pre_hook(_starting(name, started))
                        after = module.register_forward_hook(_ending(name, started, spent))
                        stack.callback(before.remove)
                        stack.callback(after.remove)
                    self.call(*batch.inputs)
                for name, value in spent.items():
                    found.setdefault(name, []).append(value)
        return {name: median(times) for name, times in found.items()}


def _with_main(output: Any, value: Tensor) -> Any:
    """A module's output with its main tensor exchanged."""
    if isinstance(output, Tensor):
        return value
    if isinstance(output, tuple) and isinstance(output[0], Tensor):
        return (value, *output[1:])
    raise TypeError(f"cannot replace the main tensor of {type(output).__name__}")


def _watching(seen: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        del module, args
        substitute = seen(pick_output(output))
        return None if substitute is None else _with_main(output, substitute)

    return hook


def _replacing(replacement: Replacement) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        del module
        entered = args[0] if args and isinstance(args[0], Tensor) else None
        return _with_main(output, replaced(pick_output(output), replacement, entered))

    return hook


def _starting(name: str, started: dict[str, float]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        del module, args
        started[name] = time.perf_counter()

    return hook


def _ending(name: str, started: dict[str, float], spent: dict[str, float]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args, output
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started[name]

    return hook
