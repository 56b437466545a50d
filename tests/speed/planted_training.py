"""A shelf of planted speed-ups of training, each with one property, and a planted clock."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.speed.training import TrainingRace
from zsei.speedups.speedup import Params, Step
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import TrainingSetup, adamw
from zsei.speedups.workload import Workload
from zsei.timing.pairs import Rounds
from zsei.timing.peak import Peak

Change = Callable[[TrainingSetup], TrainingSetup]


def planted(
    title: str, change: Change, *, exact: bool = True, gain: Gain = "time", order: int = 30
) -> Any:
    """A speed-up that does one thing to a setup."""

    class Planted:
        params = Params

        def variants(self, workload: Workload) -> tuple[Params, ...]:
            return (Params(),)

        def apply(self, setup: TrainingSetup, params: Params, workload: Workload) -> TrainingSetup:
            return change(setup)

    made: Any = Planted()
    made.name, made.title, made.order, made.exact, made.gain = title, title, order, exact, gain
    return made


def nothing(setup: TrainingSetup) -> TrainingSetup:
    """The same training."""
    return setup


def other_rate(setup: TrainingSetup) -> TrainingSetup:
    """A learning rate that is 0.1 % larger."""
    return replace(setup, recipe=adamw(1.001e-4))


def no_decay(setup: TrainingSetup) -> TrainingSetup:
    """AdamW that forgets its weight decay."""
    return replace(setup, recipe=adamw(1e-4, weight_decay=0.0))


def scaled_loss(factor: float) -> Change:
    """Gradients of another loss."""

    def change(setup: TrainingSetup) -> TrainingSetup:
        def compiler(whole: nn.Module) -> Any:
            return lambda *given: whole(*given) * factor

        return replace(setup, compiler=compiler)

    return change


def one_gradient(setup: TrainingSetup) -> TrainingSetup:
    """The loss as it is, and one gradient that is not."""
    first = setup.parameters[0]
    first.register_hook(lambda slope: slope * 1.001)
    return setup


def unlearning(setup: TrainingSetup) -> TrainingSetup:
    """Steps the wrong way, and large ones."""

    def recipe(parameters: Sequence[nn.Parameter], implementation: str) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5, maximize=True)

    return replace(setup, recipe=recipe)


def counted_twice(setup: TrainingSetup) -> TrainingSetup:
    """Batch norms that see every batch twice."""
    norms = [m for m in setup.module.modules() if isinstance(m, nn.BatchNorm1d)]

    def again(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        with torch.no_grad():
            module.forward(*given)

    for norm in norms:
        norm.register_forward_hook(again)
    return setup


def crash(setup: TrainingSetup) -> TrainingSetup:
    """Breaks at the first step."""

    @contextmanager
    def enter() -> Any:
        torch.set_num_threads(2)
        raise ValueError("planted crash")
        yield

    around: Callable[[], AbstractContextManager[object]] = enter
    return setup.with_around(around)


def refuse(setup: TrainingSetup) -> TrainingSetup:
    """Cannot be had."""
    raise SpeedUpRefused("planted refusal")


@dataclass(frozen=True, kw_only=True)
class PlantedClock:
    """Stands in for `compare_training`: times and bytes follow from the names of the steps."""

    times: Mapping[str, float]
    """Name of a speed-up -> time with it / without it."""
    bytes: Mapping[str, int]
    """Name of a speed-up -> bytes it takes away."""
    noise: float = 0.0
    synergy: float = 1.0
    """Factor on the time of two steps or more."""
    standing: ClassVar[int] = 1000

    def __call__(
        self, workload: Workload, sides: Mapping[str, Sequence[Step]], **given: Any
    ) -> TrainingRace:
        """The race as planted."""
        rounds = int(given["rounds"])
        wave = 1 + self.noise * np.cos(np.pi * np.arange(rounds))

        def time(steps: Sequence[Step]) -> float:
            factor = float(np.prod([self.times.get(step.speedup, 1.0) for step in steps]))
            return factor * (self.synergy if len(steps) > 1 else 1.0)

        def peak(steps: Sequence[Step]) -> Peak:
            saved = sum(self.bytes.get(step.speedup, 0) for step in steps)
            return Peak(bytes=500 - saved, allocated=0, allocations=0)

        return TrainingRace(
            rounds=Rounds(
                seconds={n: time(s) * (wave if s else np.ones(rounds)) for n, s in sides.items()},
                batches=np.zeros(rounds, dtype=np.int64),
            ),
            peaks={n: peak(s) for n, s in sides.items()} if given.get("memory", True) else {},
            standing=dict.fromkeys(sides, self.standing),
            prepared=dict.fromkeys(sides, 0.0),
        )
