"""Seconds that each part of a model takes in a forward, by hooks under a clock."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from zsei.records import Component
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload
from zsei.subject.types import Anatomy
from zsei.timing.device import Device
from zsei.timing.threads import torch_threads

REST = "(rest)"
"""What lies between the timed modules: activations, residual sums, the wrappers' own work."""
REPEATS = 3
BATCHES = 2
_TIMED = frozenset(
    {"embedding", "attention", "mlp", "experts", "norm", "conv", "linear", "pool", "recurrent"}
)

PartTimes = Mapping[str, float]
"""Component -> seconds of one batch, `REST` among them."""


def timed_modules(anatomy: Anatomy) -> dict[str, str]:
    """Module path -> component that its time counts for. No path lies within another.

    A component's module is taken where everything inside it belongs to it; else its own parts
    are, one by one, and count for the attention or MLP they are in.
    """
    known = {component.id: component for component in anatomy.components}

    def owners(component: Component) -> Iterator[str]:
        at: Component | None = component
        while at is not None:
            yield at.id
            at = known.get(at.parent) if at.parent else None

    def whole(component: Component) -> bool:
        inside = component.path + "."
        return all(
            component.id in owners(other)
            for other in anatomy.components
            if other.path.startswith(inside)
        )

    found = {
        c.path: c for c in anatomy.components if c.path and c.kind in _TIMED and whole(c)
    }  # fmt: skip
    top = [p for p in found if not any(p.startswith(other + ".") for other in found)]

    def counts_for(component: Component) -> str:
        wide = (o for o in owners(component) if known[o].kind in ("attention", "mlp", "experts"))
        return next(wide, component.id)

    return {path: counts_for(found[path]) for path in top}


def part_times(
    workload: Workload,
    sides: Mapping[str, Runnable],
    *,
    repeats: int = REPEATS,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, PartTimes | None]:
    """Seconds of each part for several ways to run the workload, interleaved.

    The median over repeats of each of the first batches, averaged over batches. Calls of a module
    within one forward (batches in pieces, a shared module) are added up.

    Args:
        workload: Model and batches.
        sides: Name -> way to run it.
        repeats: Timed forwards of every batch, after one that is not.
        now: The clock on the CPU; a card's own events stand in for it there.

    Returns:
        None for a side whose module is one opaque piece: compiled, or run by another runtime.

    Misleads when: parts are so small that the hooks' own time (a microsecond each) is a share of
    them; on a card, where calls of several parts may overlap.
    """
    paths = timed_modules(workload.subject.anatomy)
    found = {name: _modules(side.module, paths) for name, side in sides.items()}
    clear = {name: modules for name, modules in found.items() if modules}
    watch = _Watch(device=workload.device, now=now)
    batches = workload.held_out[:BATCHES]
    times: dict[str, list[list[dict[str, float]]]] = {n: [[] for _ in batches] for n in clear}
    with torch.no_grad(), torch_threads(workload.threads):
        for number, batch in enumerate(batches):
            for name in clear:
                sides[name](batch.inputs)
            for _ in range(repeats):
                for name, modules in clear.items():
                    with watch.on(modules):
                        whole = watch.read(lambda s=sides[name], b=batch: s(b.inputs))
                    times[name][number].append(whole)
    return {name: _summed(times[name]) if name in clear else None for name in sides}


def ratios(times: Mapping[str, PartTimes | None], before: str, after: str) -> PartTimes | None:
    """Seconds after / before of each part; None where either is opaque."""
    first, second = times.get(before), times.get(after)
    if first is None or second is None:
        return None
    return {part: second.get(part, 0.0) / first[part] for part in first if first[part] > 0}


def _summed(runs: list[list[dict[str, float]]]) -> PartTimes | None:
    """Median over repeats, mean over batches; None where no hook was ever called."""
    names = sorted({part for batch in runs for run in batch for part in run})
    if set(names) <= {REST}:
        return None
    return {
        part: float(np.mean([np.median([run.get(part, 0.0) for run in batch]) for batch in runs]))
        for part in names
    }


def _modules(module: nn.Module, paths: Mapping[str, str]) -> dict[str, tuple[nn.Module, ...]]:
    """Component -> its modules inside a runnable's module, whatever wraps it; empty if opaque."""
    named = dict(module.named_modules())
    if not paths or any(_compiled(inner) for inner in named.values()):
        return {}
    first = min(paths)
    starts = [n.removesuffix(first) for n in named if n == first or n.endswith("." + first)]
    for start in sorted(starts, key=len):
        if all(start + path in named for path in paths):
            found: dict[str, tuple[nn.Module, ...]] = {}
            for path, part in paths.items():
                found[part] = (*found.get(part, ()), named[start + path])
            return found
    return {}


def _compiled(module: nn.Module) -> bool:
    """Whether calls of its parts are no calls any more."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or type(module).__name__ == "OptimizedModule"


@dataclass(kw_only=True)
class _Watch:
    """Notes when hooked modules begin and end."""

    device: Device
    now: Callable[[], float]
    open: dict[int, list[Any]] = field(default_factory=dict)
    seen: list[tuple[str, Any, Any]] = field(default_factory=list)

    def mark(self) -> Any:
        if not self.device.is_cuda:
            return self.now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def on(self, modules: Mapping[str, tuple[nn.Module, ...]]) -> Iterator[None]:
        handles = []
        for part, own in modules.items():
            for module in own:
                handles.append(module.register_forward_pre_hook(self._begin))
                handles.append(module.register_forward_hook(self._end(part)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.open.clear()

    def _begin(self, module: nn.Module, _: Any) -> None:
        self.open.setdefault(id(module), []).append(self.mark())

    def _end(self, part: str) -> Callable[[nn.Module, Any, Any], None]:
        def end(module: nn.Module, _: Any, __: Any) -> None:
            self.seen.append((part, self.open[id(module)].pop(), self.mark()))

        return end

    def read(self, call: Callable[[], object]) -> dict[str, float]:
        """Seconds of each part of one call, and of what is left of it."""
        self.seen.clear()
        begin = self.mark()
        call()
        end = self.mark()
        self.device.wait()
        found: dict[str, float] = {}
        for part, start, stop in self.seen:
            found[part] = found.get(part, 0.0) + self.between(start, stop)
        found[REST] = max(0.0, self.between(begin, end) - sum(found.values()))
        return found

    def between(self, start: Any, stop: Any) -> float:
        return start.elapsed_time(stop) / 1000 if self.device.is_cuda else stop - start
