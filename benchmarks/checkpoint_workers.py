"""Two workers against one over a stream of checkpoints of a small GPT: how much more gets done.

Each round gives the same measuring tasks, a few groups of layers for each of a few checkpoints, to
an engine of one worker and to one of two, one after the other; the order alternates. Workers are
started and warm before the first round, and each has one torch thread. The ratio is of wall time,
so the machine must have two cores that are doing nothing else: the share of both that other
processes took meanwhile is printed beside it.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import torch
from safetensors.torch import save_model
from transformers import GPT2Config, GPT2LMHeadModel

from zsei.checkpoint.config import CheckpointConfig, EleshConfig
from zsei.checkpoint.contracts import LEVELS
from zsei.checkpoint.job import Job
from zsei.checkpoint.tasks import MeasureTask, Snapshot
from zsei.checkpoint.worker import OpenWorker
from zsei.engines.engine import Engine, Limits
from zsei.engines.local import LocalEngine
from zsei.settings import Settings

LAYERS, GROUPS = 6, 2
AIM = 1.7


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    ratios: tuple[float, ...]
    """Wall time of one worker / wall time of two, per round."""
    one_seconds: float
    """Median of a round on one worker."""
    two_seconds: float
    others: float
    """Mean share of the machine that other processes took meanwhile, 0 to 1."""
    same: bool
    """Whether both gave the same measures."""


def tasks_of(folder: Path, checkpoints: int) -> tuple[Job, list[MeasureTask]]:
    """A job, and its measuring tasks over checkpoints that differ."""
    torch.manual_seed(0)
    size = {"vocab_size": 500, "n_embd": 128, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    ids = torch.randint(1, 500, (64, 64))
    groups = [(*range(group, LAYERS, GROUPS),) for group in range(GROUPS)]
    tasks = []
    for epoch in range(checkpoints):
        path = folder / f"{epoch}.safetensors"
        save_model(model, str(path))
        snapshot = Snapshot(epoch=epoch, path=path)
        tasks += [
            MeasureTask(id=f"{epoch}-{layers[0]}", snapshot=snapshot, layers=layers, levels=LEVELS)
            for layers in groups
        ]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    job = Job(
        run="benchmark",
        model=model,
        data={"input_ids": ids},
        settings=Settings(home=folder / "home"),
        # Each round measures the same, and must not find it done.
        config=CheckpointConfig(elesh=EleshConfig(analysis_cache_size=0)),
    )
    return job, tasks


def timed(engine: Engine, tasks: list[MeasureTask]) -> tuple[float, list[object]]:
    """Wall time of the tasks, and what came of them."""
    begin = time.perf_counter()
    done = engine.run(tasks, Limits())
    seconds = time.perf_counter() - begin
    failed = [one.why for one in done if one.status != "done"]
    if failed:
        raise RuntimeError(f"a task was not done: {failed[0]}")
    return seconds, [one.value.sites for one in done]


def measure(rounds: int = 5, checkpoints: int = 4) -> Result:
    """Interleaved rounds of both engines."""
    with tempfile.TemporaryDirectory() as name:
        job, tasks = tasks_of(Path(name), checkpoints)
        make = OpenWorker(job=job)
        with (
            LocalEngine(make, workers=1, priority="normal") as one,
            LocalEngine(make, workers=2, priority="normal") as two,
        ):
            seconds: dict[int, list[float]] = {1: [], 2: []}
            same = timed(one, tasks)[1] == timed(two, tasks)[1]
            busy = Others()
            for number in range(rounds):
                for engine in (one, two) if number % 2 else (two, one):
                    seconds[engine.workers].append(timed(engine, tasks)[0])
            others = busy.share()
    return Result(
        ratios=tuple(alone / both for alone, both in zip(seconds[1], seconds[2], strict=True)),
        one_seconds=median(seconds[1]),
        two_seconds=median(seconds[2]),
        others=others,
        same=same,
    )


class Others:
    """What processes other than this one and its workers take of the machine, from now on."""

    def __init__(self) -> None:
        self._begin = self._taken()

    @staticmethod
    def _taken() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        all_of_them = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        me = psutil.Process()
        own = 0.0
        for process in (me, *me.children(recursive=True)):
            spent = process.cpu_times()
            own += spent.user + spent.system
        return time.perf_counter(), all_of_them, own

    def share(self) -> float:
        """Share of all cores, 0 to 1."""
        now = self._taken()
        wall, everything, own = (b - a for a, b in zip(self._begin, now, strict=True))
        return max(0.0, everything - own) / (wall * (psutil.cpu_count() or 1))


def main() -> None:
    """Measure and print what was reached beside what is aimed at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoints", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(given.rounds, given.checkpoints)
    print(f"one worker {found.one_seconds:.2f} s, two {found.two_seconds:.2f} s a round (medians)")
    spread = f"{min(found.ratios):.2f} to {max(found.ratios):.2f}"
    print(f"two workers against one: {median(found.ratios):.2f} times ({spread}); to reach: {AIM}")
    print(f"same measures: {found.same}; other processes took {found.others:.0%} of the machine")


if __name__ == "__main__":
    main()
