"""Planted speed-ups on a private shelf, and a clock that knows what each of them costs.

No test waits or measures: the race reads the seconds of a side off the wrappers its module is made
of, with a little noise that is the same every time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.settings import Settings
from zsei.speed.baseline import measure_baseline
from zsei.speed.measure import Bench
from zsei.speed.workload_of import workload_of
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params, SpeedUp
from zsei.speedups.workload import Workload
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.objective import Objective
from zsei.subject.program import frozen_twin, model_hash
from zsei.subject.types import Batch, ModelSource, Subject
from zsei.timing.device import find_device
from zsei.timing.pairs import Rounds


class Tiny(nn.Module):
    """Values [n, 4] of values [n, 6]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Wrapped(nn.Module):
    """A module with one more planted speed-up around it."""

    def __init__(self, inner: nn.Module, name: str, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.name, self.change = inner, name, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inner(x))


class NoParams(Params):
    """Which of its variants."""

    variant: int = 0


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A speed-up that does what it is told."""

    name: str
    exact: bool = True
    order: int = 50
    change: Callable[[Tensor], Tensor] = lambda out: out
    excludes: tuple[str, ...] = ()
    refuses: str = ""
    breaks: str = ""
    variants_there: int = 1
    title: ClassVar[str] = "Planted"
    params: ClassVar[type[Params]] = NoParams

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        del workload
        if self.refuses:
            raise SpeedUpRefused(self.refuses)
        if self.breaks:
            raise ValueError(self.breaks)
        return tuple(NoParams(variant=v) for v in range(self.variants_there))

    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        del workload
        both = [other for other in names_in(runnable.module) if other in self.excludes]
        if both:
            raise SpeedUpRefused(f"{self.name} cannot stand beside {both[0]}.")
        name = f"{self.name}/{params.variant}" if params.variant else self.name
        return runnable.with_module(Wrapped(runnable.module, name, self.change))


def names_in(module: nn.Module) -> Iterator[str]:
    """Planted speed-ups that a module is wrapped in."""
    for inner in module.modules():
        if isinstance(inner, Wrapped):
            yield inner.name


def clock(
    factors: Mapping[str, float], special: Mapping[frozenset[str], float] | None = None
) -> Callable[..., Rounds]:
    """A race whose seconds are the product of the factors, or what is said of a set of names."""

    def race(workload: Workload, sides: Mapping[str, Runnable], **options: Any) -> Rounds:
        del workload
        rounds = options.get("rounds", 7)
        noise = 1 + 0.01 * np.sin(np.arange(rounds))
        found = {}
        for number, (name, side) in enumerate(sides.items()):
            have = frozenset(names_in(side.module))
            cost = (special or {}).get(have, float(np.prod([factors.get(n, 1.0) for n in have])))
            found[name] = cost * np.roll(noise, number)
        return Rounds(seconds=found, batches=np.zeros(rounds, dtype=np.int64))

    return race


def bench(shelf: Sequence[SpeedUp], race: Callable[..., Rounds], **more: Any) -> Bench:
    """A bench for the tiny model under fidelity."""
    workload = workload_of(subject(), find_device("cpu"), 1)
    return Bench(
        workload=workload, baseline=measure_baseline(workload), shelf=shelf, race=race,
        settings=Settings(bootstrap=200, **more),
    )  # fmt: skip


def without_collecting(patch: pytest.MonkeyPatch) -> None:
    """Garbage is not collected before each measurement of memory, which takes half a second of a
    process that has loaded as much as the tests have; nothing that is measured here is garbage."""
    patch.setattr("zsei.timing.peak.gc.collect", lambda: 0)


def subject() -> Subject:
    """The tiny model with 32 calibration and 32 held-out samples, known by its modules alone."""
    model = frozen_twin(Tiny())
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(5))
    batches = tuple(Batch(inputs=(part,), groups=("all",) * 16) for part in x.split(16))
    return Subject(
        source=ModelSource(name="Tiny", kind="object"),
        model=model,
        model_hash=model_hash(model),
        program=None,
        input_names=("x",),
        objective=Objective(name="fidelity", output="values", reason="a test"),
        calibration=batches[:2],
        held_out=batches[2:],
        anatomy=read_modules(model, ("x",), batches[0].inputs),
    )


def boom(out: Tensor) -> Tensor:
    raise RuntimeError("the backend fell over")


def careless(out: Tensor) -> Tensor:
    """Changes what holds for the whole process, and then falls over."""
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(99)
    raise RuntimeError("left in a mess")


SHELF = (
    Planted(name="lean"),
    Planted(name="rough", exact=False, change=lambda out: out * 1.0005),
    Planted(name="liar", change=lambda out: out * 1.01),
    Planted(name="wild", exact=False, change=lambda out: out + 1),
    Planted(name="slow"),
    Planted(name="level"),
    Planted(name="crash", change=boom),
    Planted(name="careless", change=careless),
    Planted(name="nothing", change=lambda out: out * float("nan")),
    Planted(name="cut-off", change=lambda out: out[:, :2]),
    Planted(name="shy", refuses="It needs a device that is not there."),
    Planted(name="broken", breaks="no idea what it can do"),
    Planted(name="this", excludes=("that",), order=51),
    Planted(name="that", excludes=("this",), order=50),
)
FACTORS = {
    "lean": 0.5, "rough": 0.4, "liar": 0.1, "wild": 0.1, "slow": 2.0, "level": 1.0, "nothing": 0.1,
    "cut-off": 0.1, "this": 0.8, "that": 0.7,
}  # fmt: skip
