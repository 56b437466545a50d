"""How much faster MiniLM runs on this machine: each technique alone, then together.

32 sentences of STS-B in one batch, padded to its longest; the baseline is eager attention in
float32. All ways run in turn, round by round, on the same batch; a speed-up is the median over
rounds of baseline / side with its 90 % interval. The share of a technique is its part of the
logarithm of the whole, in the order in which they are added.

Run with `python -m benchmarks.speed_minilm --threads 2 --rounds 15` on a machine with nothing else
to do. Sentences are read from the folder that ZSEI_EVAL_DATA names (`../shared/data` without it);
without it the default text stands in, which is less mixed.
"""

import argparse
import csv
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from zsei.errors import SpeedUpRefused, UsageError
from zsei.settings import Settings
from zsei.speed.race import race
from zsei.speed.workload_of import workload_of
from zsei.speedups import Step, carry_out
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.workload import Workload
from zsei.subject.objective import divergence, readout
from zsei.subject.prepare import prepare
from zsei.timing.device import find_device
from zsei.timing.interval import Interval
from zsei.timing.pairs import Rounds

GOAL, COSINE = 4.0, 0.999
BATCH = 32
ATTENTION = Step(speedup="attention-backend", params={"backend": "sdpa"})
PACK = Step(speedup="padding", params={"mode": "pack"})
BUCKETS = Step(speedup="padding", params={"mode": "buckets", "buckets": 4})
BFLOAT16 = Step(speedup="lower-precision", params={"dtype": "bfloat16"})
INFERENCE = Step(speedup="inference-mode")
COMPILE = Step(speedup="compile", params={"dynamic": True, "freeze": True})
INT8 = Step(speedup="onnx-runtime", params={"precision": "int8"})
FLOAT32 = Step(speedup="onnx-runtime")
ONE_THREAD = Step(speedup="threads", params={"intra": 1})

ALONE = (ATTENTION, PACK, BUCKETS, BFLOAT16, INFERENCE, ONE_THREAD, COMPILE, FLOAT32, INT8)
ROADS: tuple[tuple[Step, ...], ...] = (
    (PACK, BFLOAT16, ATTENTION, INFERENCE),
    (BUCKETS, BFLOAT16, ATTENTION, INFERENCE),
    (PACK, BFLOAT16, INFERENCE),
    (PACK, BFLOAT16, INFERENCE, COMPILE),
    (BUCKETS, FLOAT32),
    (BUCKETS, INT8),
)
"""Combinations worth trying; the fastest inside the bound is taken apart."""


def sentences(count: int, seed: int = 0) -> list[str] | None:
    """Sentences of STS-B dev drawn from its whole length; None where the file is missing."""
    folder = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")).resolve()
    file = folder / "stsb" / "dev.csv"
    if not file.exists():
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        texts = sorted({text for row in csv.reader(lines) for text in row[:2]})
    return random.Random(seed).sample(texts, count)


def workload(threads: int) -> Workload:
    """MiniLM with one calibration and one held-out batch."""
    settings = Settings(samples=2 * BATCH, batch_size=BATCH, length=128)
    subject = prepare("demo:minilm", sentences(2 * BATCH), settings=settings)
    return workload_of(subject, find_device("cpu"), threads)


def made(
    work: Workload, ways: Mapping[str, Sequence[Step]], console: Console
) -> dict[str, Runnable]:
    """What can be carried out here; the rest is told with its reason."""
    found: dict[str, Runnable] = {"baseline": bare(work.model, work.input_names)}
    for name, steps in ways.items():
        try:
            found[name] = carry_out(steps, work)
        except (SpeedUpRefused, UsageError) as refused:
            console.print(f"[dim]{name}: {refused}[/dim]")
    return found


@torch.no_grad()
def cosine(work: Workload, runnable: Runnable) -> float:
    """Mean cosine between the sentences' embeddings and the baseline's."""
    start, moved = bare(work.model, work.input_names), []
    for batch in work.held_out:
        before, after = (
            readout(work.objective, side(batch.inputs), batch) for side in (start, runnable)
        )
        moved.append(divergence(work.objective, after, before, batch))
    return 1 - float(torch.cat(moved).mean())


def text(steps: Sequence[Step]) -> str:
    """Steps in one line."""
    return " + ".join(step.text() for step in steps)


def told(speed_up: Interval) -> str:
    """A speed-up with its interval."""
    return f"{speed_up.median:.2f}x [{speed_up.low:.2f}, {speed_up.high:.2f}]"


def table(title: str, work: Workload, sides: Mapping[str, Runnable], rounds: Rounds) -> Table:
    """Speed-up and cosine of every side."""
    shown = Table("", "speed-up", "ms", "mean cosine", title=title)
    for name, side in sides.items():
        shown.add_row(
            name, told(rounds.speed_up(name, "baseline")),
            f"{1000 * rounds.time(name).median:.1f}", f"{cosine(work, side):.6f}",
        )  # fmt: skip
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave compiled ways out")
    chosen = parser.parse_args()
    console = Console(width=150)
    if sentences(1) is None:
        console.print("STS-B is missing (ZSEI_EVAL_DATA): the default text stands in.")
    work = workload(chosen.threads)
    masks = [batch.mask for batch in work.held_out if batch.mask is not None]
    tokens, positions = (sum(int(f(m)) for m in masks) for f in (torch.sum, torch.numel))
    console.print(
        f"{work.device.name}, {chosen.threads} threads; {positions} positions in a batch of "
        f"{BATCH}, {tokens} of them real tokens ({positions / tokens:.2f} to one)"
    )

    def kept(steps: Sequence[Step]) -> bool:
        return not (chosen.no_compile and COMPILE in steps)

    alone = made(work, {step.text(): (step,) for step in ALONE if kept([step])}, console)
    rounds = race(work, alone, rounds=chosen.rounds, warm_up=2)
    console.print(table("Alone", work, alone, rounds))
    roads = made(work, {text(road): road for road in ROADS if kept(road)}, console)
    raced = race(work, roads, rounds=chosen.rounds, warm_up=2)
    console.print(table("Together", work, roads, raced))
    inside = [
        road for road in ROADS if text(road) in roads and cosine(work, roads[text(road)]) >= COSINE
    ]
    if not inside:
        raise SystemExit(f"No combination keeps a mean cosine of {COSINE}.")
    best = max(inside, key=lambda road: raced.speed_up(text(road), "baseline").median)
    growing = {text(best[: count + 1]): best[: count + 1] for count in range(len(best))}
    taken_apart = made(work, growing, console)
    last = race(work, taken_apart, rounds=2 * chosen.rounds, warm_up=2)
    shares = Table("added", "speed-up so far", "alone", "share", title="The best, step by step")
    total, before, product = last.speed_up(text(best), "baseline"), 1.0, 1.0
    for (name, steps), step in zip(growing.items(), best, strict=True):
        if name not in taken_apart:
            continue
        so_far = last.speed_up(name, "baseline")
        single = rounds.speed_up(step.text(), "baseline").median
        share = math.log(so_far.median / before) / math.log(total.median)
        shares.add_row(steps[-1].text(), told(so_far), f"{single:.2f}x", f"{share:.0%}")
        before, product = so_far.median, product * single
    console.print(shares)
    found = cosine(work, taken_apart[text(best)])
    held = total.low >= GOAL and found >= COSINE
    console.print(
        f"Together {told(total)} at mean cosine {found:.6f}; the product of the parts would have "
        f"said {product:.2f}x. Goal {GOAL:.0f}x at {COSINE}: {'held' if held else 'not held'}."
    )


if __name__ == "__main__":
    main()
