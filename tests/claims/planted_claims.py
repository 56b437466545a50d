"""A clock that is told what each side takes, and a bench of planted speed-ups to try claims on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from speed.planted_speed import subject

from zsei.claims.bench import Bench
from zsei.claims.claim import Claim, ClaimsFile
from zsei.settings import Settings
from zsei.speed.baseline import measure_baseline
from zsei.speed.workload_of import workload_of
from zsei.speedups.speedup import SpeedUp
from zsei.timing.decision import Decided, look, sequential_interval
from zsei.timing.device import find_device
from zsei.timing.pairs import Rounds


class PlantedClock:
    """Measures as `measure_until_decided` does, but every side takes what it is told to.

    Each side is still run once, so that one that cannot run is found out.
    """

    def __init__(self, seconds: Mapping[str, float], noise: float = 0.0):
        self.seconds, self.noise = seconds, noise
        self.limits: list[tuple[float | None, float | None]] = []
        self.budgets: list[float | None] = []

    def __call__(
        self, sides: Mapping[str, Callable[[int], object]], device: Any, *,
        value: Callable[[Rounds], Any], least: float | None, most: float | None, batches: int,
        rounds: int, confidence: float, budget: float | None,
    ) -> Decided:  # fmt: skip
        del device
        self.limits.append((least, most))
        self.budgets.append(budget)
        for run in sides.values():
            run(0)
        wobble = 1 + self.noise * np.sin(np.arange(rounds) * 2.4)
        every = {
            name: self.seconds[name] * np.roll(wobble, place) for place, name in enumerate(sides)
        }
        said, why, count = "not decided", None, 0
        while why is None and count < rounds:
            count += 1
            so_far = Rounds(
                seconds={name: values[:count] for name, values in every.items()},
                batches=np.arange(count) % batches,
            )
            values = value(so_far)
            said, why = look(values, least, most, rounds, confidence)
        return Decided(
            decision=said, interval=sequential_interval(values, rounds, confidence),
            reason=why or "the rounds were used up", rounds=so_far,
        )  # fmt: skip


def claim(kind: str, **said: Any) -> Claim:
    """A claim about the planted speed-ups, by their names."""
    steps = [{"speedup": name} for name in said.pop("steps", ())]
    ways = [[{"speedup": name} for name in way] for way in said.pop("alternatives", ())]
    return Claim.model_validate(
        {"id": "it", "kind": kind, "steps": steps, "alternatives": ways, **said}
    )


def bench(
    shelf: Sequence[SpeedUp], seconds: Mapping[str, float], *, noise: float = 0.0, cores: int = 2,
    baseline: Sequence[str] = (), measure: Any = None,
) -> Bench:  # fmt: skip
    """Where claims about the tiny model are measured: planted speed-ups and a planted clock."""
    workload = workload_of(subject(), find_device("cpu"), 1)
    file = ClaimsFile.model_validate(
        {
            "model": "tiny", "baseline": [{"speedup": name} for name in baseline],
            "claims": [{"id": "it", "kind": "latency", "at_most": 1}],
        }
    )  # fmt: skip
    return Bench(
        file=file, workload=workload, baseline=measure_baseline(workload), cores=cores, rounds=60,
        settings=Settings(bootstrap=200), shelf=shelf,
        measure=measure or PlantedClock(seconds, noise),
    )  # fmt: skip
