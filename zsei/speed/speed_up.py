"""Measures speed-ups of a model from the baseline to the settings file; reads like a table of
contents.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from zsei.clock import Clock, Progress
from zsei.gate.sandbox import verify_unchanged
from zsei.settings import Settings
from zsei.speed.alone import measure_alone
from zsei.speed.baseline import BASELINE, measure_baseline
from zsei.speed.measure import ROUNDS, Bench, Race
from zsei.speed.race import race as interleaved
from zsei.speed.record import SpeedRecord
from zsei.speed.record_of import record_of
from zsei.speed.state import undisturbed
from zsei.speed.together import FINAL_ROUNDS, Order, combine
from zsei.speed.workload_of import workload_of
from zsei.speedups import SPEED_UPS, SpeedUp
from zsei.speedups.shelf import chosen
from zsei.subject.prepare import prepare
from zsei.subject.seeded import seeded
from zsei.timing.device import find_device

SHARES = {"prepare": 0.1, "alone": 0.6, "together": 0.3}
"""Share of the whole that each stage takes; used for the estimate only."""
BEFORE_TOGETHER = 0.6
"""Share of the budget that single speed-ups may reach into; the rest is for combining them."""
ONE_RACE = 0.05
"""Share of the budget after which a race begins no further round."""


def speed_up(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    objective: str = "auto",
    settings: Settings | None = None,
    device: str = "cpu",
    threads: int | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    order: Order | None = None,
    rounds: int = ROUNDS,
    final_rounds: int = FINAL_ROUNDS,
    progress: Progress | None = None,
    command: str = "",
    shelf: Sequence[SpeedUp] = SPEED_UPS,
    race: Race = interleaved,
) -> SpeedRecord:
    """Measure every speed-up against one baseline, alone, then those that held together.

    The baseline is the model in float32 with eager attention, each batch padded to its own longest
    sample. A speed-up is accepted when its outputs and answers on held-out samples stay inside
    their bounds and the interval of its measured speed-up lies wholly above 1.

    Args:
        model: As for `zsei.analyze`. It is never changed.
        data: As for `zsei.analyze`; held-out samples are what is timed and judged.
        objective: `auto` or a name in `zsei.subject.objective.OBJECTIVES`.
        settings: Samples, batch size, length, safety, bounds, `budget` seconds; None reads
            `zsei.toml` and `ZSEI_*`.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: Torch threads of the baseline; None takes the setting, else torch's choice.
        only: Names of the speed-ups to measure; None takes all.
        without: Names of those to leave out.
        order: From the accepted trials to names in the order in which they are combined; None
            takes the fastest first. It decides nothing else.
        rounds: Timed rounds of each trial at most.
        final_rounds: Timed rounds of the whole.
        progress: Called with (stage, share done, seconds remaining or None, note).
        command: What repeats this measurement, for the record.
        shelf: The speed-ups there are.
        race: Times sides against each other.

    Returns:
        The record; its `settings` are None when nothing was accepted.

    Raises:
        ZseiError: With the rule, what arrived and the likely fix; nothing is left changed.

    Misleads when: the machine is busy with work that comes and goes (intervals then straddle 1), or
    the data's lengths are not those of use.
    """
    settings = settings or Settings()
    speedups, place = chosen(shelf, only, without), find_device(device)
    clock = Clock(progress, settings.budget, SHARES)
    with seeded(settings), undisturbed():
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
            workload = workload_of(subject, place, threads or settings.threads)
            bench = Bench(
                workload=workload, baseline=measure_baseline(workload), settings=settings,
                shelf=shelf, race=race, rounds=rounds,
                seconds=None if settings.budget is None else settings.budget * ONE_RACE,
            )  # fmt: skip
            time = race(workload, {BASELINE: bench.baseline.runnable}, rounds=rounds)
        with clock.stage("alone") as report:
            alone = measure_alone(
                bench, speedups, lambda: clock.out_of_time(BEFORE_TOGETHER), report
            )
        with clock.stage("together") as report:
            together = combine(
                bench, alone, order=order, final_rounds=final_rounds,
                out_of_time=clock.out_of_time, report=report,
            )  # fmt: skip
        verify_unchanged(subject)
    # Only the last measurement counts: the fastest of many short ones is fast by luck in part.
    accepted = together is not None and together.trial.verdict.outcome == "accepted"
    return record_of(
        workload, settings, use="inference", measured=workload.held_out,
        asked={"max_divergence": settings.max_divergence}, baseline=time.time(BASELINE),
        alone=alone, together=together,
        applied=together.trial if together is not None and accepted else None, command=command,
    )  # fmt: skip
