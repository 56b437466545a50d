"""Runs one batch as a whole, or part by part with the time of each.

Of a program the parts are its calls, of a model that has none its modules. Parts follow each other
without overlap; what a model computes outside of any module is a part of its own at the end.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsei.graph.traffic import CONTAINERS
from zsei.profiling.record import OUTSIDE
from zsei.profiling.stopwatch import Stopwatch
from zsei.subject.program import MainOutput, Program
from zsei.subject.types import Anatomy, Batch
from zsei.timing.device import Device
from zsei.trace.interpreter import ProgramEngine, call, drop

Floats = NDArray[np.float64]


class Instrument(Protocol):
    """What is timed."""

    names: tuple[str, ...]
    """Names of the parts, in the order in which they run."""

    def whole(self, batch: Batch) -> Tensor:
        """A plain forward."""
        ...

    def parts(self, batch: Batch) -> Floats:
        """Seconds of each part in one run, [parts]."""
        ...


class ProgramInstrument:
    """The calls of a program."""

    def __init__(self, program: Program, device: Device):
        self.program = program
        self.engine = ProgramEngine(program)
        self.device = device
        self.names = tuple(step.name for step in self.engine.steps)

    def whole(self, batch: Batch) -> Tensor:
        """The program's own forward."""
        with torch.no_grad():
            return self.program(*batch.inputs)

    def parts(self, batch: Batch) -> Floats:
        """Call by call; letting go of values nothing reads any more is part of a call, as it is of
        the plain forward.
        """
        watch = Stopwatch(self.device)
        with torch.no_grad():
            values = self.engine.start(batch)
            watch.mark()
            for step in self.engine.steps:
                values[step.name] = call(step, values)
                drop(values, step.drops)
                watch.mark()
        return np.diff(watch.seconds())


class ModuleInstrument:
    """The modules of a model, under hooks that are always removed again.

    Timed are the modules of components, and modules without children that stand in none. One that
    runs again has a part for every time.
    """

    def __init__(
        self, model: nn.Module, input_names: Sequence[str], anatomy: Anatomy, device: Device,
        batch: Batch,
    ):  # fmt: skip
        self.model = model
        self.call = MainOutput(model, input_names).eval()
        self.device = device
        self.paths = timed_modules(model, anatomy)
        self.names = (*self._run(batch)[0], OUTSIDE)

    def whole(self, batch: Batch) -> Tensor:
        """The model's own forward."""
        with torch.no_grad():
            return self.call(*batch.inputs)

    def parts(self, batch: Batch) -> Floats:
        """Module by module, and what is left of the run."""
        names, found = self._run(batch)
        seconds = dict(zip((*names, OUTSIDE), found, strict=True))
        return np.array([seconds.get(name, 0.0) for name in self.names])

    def _run(self, batch: Batch) -> tuple[list[str], list[float]]:
        with torch.no_grad(), hooked(self.model, self.paths, self.device) as seen:
            seen.mark("")
            self.call(*batch.inputs)
            seen.mark("")
        passed = seen.spans()
        total = float(passed[-1][1])
        count: Counter[str] = Counter()
        names, seconds = [], []
        for path, span in passed[:-1]:
            count[path] += 1
            names.append(path if count[path] == 1 else f"{path}#{count[path]}")
            seconds.append(span)
        return names, [*seconds, max(0.0, total - sum(seconds))]


@dataclass(kw_only=True)
class Seen:
    """Moments at which modules began and ended: a label with each mark, "" for the run itself."""

    watch: Stopwatch
    labels: list[str] = field(default_factory=list)

    def mark(self, label: str) -> None:
        """This moment, under a label."""
        self.labels.append(label)
        self.watch.mark()

    def spans(self) -> list[tuple[str, float]]:
        """(label, seconds) between the two marks of each label, in the order of their ends."""
        seconds, opened, found = self.watch.seconds(), dict[str, float](), list[tuple[str, float]]()
        for label, at in zip(self.labels, seconds, strict=True):
            if label in opened:
                found.append((label, float(at) - opened.pop(label)))
            else:
                opened[label] = float(at)
        return found


@contextmanager
def hooked(model: nn.Module, paths: Sequence[str], device: Device) -> Iterator[Seen]:
    """Mark the beginning and the end of these modules for as long as it lasts."""
    seen = Seen(watch=Stopwatch(device))
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for path in paths:
            mark = _marking(seen, path)
            stack.callback(modules[path].register_forward_pre_hook(mark).remove)
            stack.callback(modules[path].register_forward_hook(mark).remove)
        yield seen


def _marking(seen: Seen, path: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        seen.mark(path)

    return hook


def timed_modules(model: nn.Module, anatomy: Anatomy, *, leaves: bool = True) -> tuple[str, ...]:
    """Paths of the modules of components, none inside another; and of leaves in no component."""
    modules = dict(model.named_modules())
    own = set(kinds_of_modules(anatomy)) & set(modules)
    if leaves:
        own |= {path for path, module in modules.items() if path and not any(module.children())}
    return tuple(path for path in modules if path in own and not _inside(path, own))


def kinds_of_modules(anatomy: Anatomy) -> dict[str, str]:
    """Path of the module of each component -> its kind, that of the attention or MLP it stands in.

    A module is left out where it also holds something of another kind: the MLP of torch's encoder
    layer has no module of its own, but its linears have.
    """
    kinds = {component.id: component.kind for component in reversed(anatomy.components)}
    own: dict[str, str] = {}
    held: dict[str, set[str]] = {}
    for component in reversed(anatomy.components):
        if not component.path or component.kind in ("head", "output", "residual", "input"):
            continue
        around = kinds.get(component.parent or "", "")
        kind = around if around in CONTAINERS else component.kind
        own[component.path] = kind
        pieces = component.path.split(".")
        for end in range(1, len(pieces) + 1):
            held.setdefault(".".join(pieces[:end]), set()).add(kind)
    return {path: kind for path, kind in own.items() if held[path] == {kind} and kind != "layer"}


def _inside(path: str, others: set[str]) -> bool:
    pieces = path.split(".")
    return any(".".join(pieces[:i]) in others for i in range(1, len(pieces)))
