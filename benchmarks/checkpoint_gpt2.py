"""A checkpoint of GPT-2 small (124 million random weights): what a worker needs for it.

Each worker is a process of its own, on one torch thread, as beside a training run. One worker does
all groups of layers in turn; then two workers share them. Wall time is that of the whole child,
from its start; memory is its peak resident memory as the kernel says.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS, GIGABYTES = 300.0, 4.0
"""What a checkpoint may take: wall time with two workers, memory of each."""
LENGTH, TEXTS = 64, 128
"""Tokens of a sample, and how many samples there are, calibration and held-out together."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker's run."""

    seconds: float
    resident_gigabytes: float
    places: int
    prepare_seconds: float
    measure_seconds: float
    cpu_seconds: float
    """Of the whole child: what its wall time would be with a core to itself."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    parameters: int
    one_worker: Worker
    """All groups, one after the other."""
    two_workers: tuple[Worker, Worker]
    """Every other group each, side by side."""

    @property
    def seconds(self) -> float:
        """Wall time of two workers."""
        return max(worker.seconds for worker in self.two_workers)

    @property
    def resident_gigabytes(self) -> float:
        """The largest worker."""
        return max(w.resident_gigabytes for w in (self.one_worker, *self.two_workers))


def write_checkpoint(folder: Path) -> int:
    """Write config, random weights and token ids; returns the number of parameters."""
    import numpy as np
    import torch
    from safetensors.torch import save_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    save_model(model, str(folder / "weights.safetensors"))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (TEXTS, LENGTH))
    np.savez(folder / "data.npz", input_ids=ids)
    return sum(p.numel() for p in model.parameters())


def work(folder: Path, share: int, of: int) -> None:
    """What a worker does: every `of`-th group of layers; prints what it took."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from zsei.checkpoint.config import CheckpointConfig
    from zsei.checkpoint.contracts import LEVELS
    from zsei.checkpoint.job import Job
    from zsei.checkpoint.measure.measure import measure
    from zsei.checkpoint.measure.subjects import Subjects
    from zsei.checkpoint.tasks import MeasureTask, Snapshot
    from zsei.settings import Settings

    torch.set_num_threads(1)
    begin = time.monotonic()
    model = GPT2LMHeadModel(GPT2Config())
    settings = Settings(home=folder / f"home-{share}-{of}")
    job = Job(run="benchmark", model=model, data=str(folder / "data.npz"), settings=settings)
    snapshot = Snapshot(epoch=1, path=folder / "weights.safetensors")
    subjects = Subjects(job=job)
    subject = subjects.at(snapshot)
    ready = subjects.ready()
    prepared = time.monotonic()
    layers: list[int | None] = [*range(12), None]
    groups = -(-len(layers) // CheckpointConfig().elesh.layers_per_worker)
    size = -(-len(layers) // groups)
    places = 0
    for number in range(share, groups, of):
        part = tuple(layers[number * size : (number + 1) * size])
        task = MeasureTask(id=f"{number}", snapshot=snapshot, layers=part, levels=LEVELS)
        places += len(measure(subject, task, job, ready).sites)
    done = time.monotonic()
    print(json.dumps([places, prepared - begin, done - prepared, time.process_time()]))


def start(folder: Path, share: int, of: int) -> "subprocess.Popen[str]":
    """A worker in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.checkpoint_gpt2", "--work", str(folder)]
    return subprocess.Popen(
        [*command, "--share", str(share), "--of", str(of)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", begin: float) -> Worker:
    """Wait for a worker, watching its memory."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.2)
    out, _ = process.communicate()
    seconds = time.monotonic() - begin
    if process.returncode:
        raise RuntimeError(f"the worker ended with {process.returncode}")
    places, prepared, measured, cpu = json.loads(out.splitlines()[-1])
    return Worker(
        seconds=seconds, resident_gigabytes=peak * 1024 / 1e9, places=places,
        prepare_seconds=prepared, measure_seconds=measured, cpu_seconds=cpu,
    )  # fmt: skip


def measure() -> Result:
    """One worker alone, then two side by side."""
    from concurrent.futures import ThreadPoolExecutor

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = write_checkpoint(folder)
        one = finish(start(folder, 0, 1), time.monotonic())
        begin = time.monotonic()
        running = [start(folder, share, 2) for share in range(2)]
        with ThreadPoolExecutor(max_workers=2) as pool:
            two = list(pool.map(lambda process: finish(process, begin), running))
    return Result(parameters=parameters, one_worker=one, two_workers=(two[0], two[1]))


def main() -> int:
    """Print the table; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--of", type=int, default=1, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work is not None:
        work(chosen.work, chosen.share, chosen.of)
        return 0
    result = measure()
    print(f"{result.parameters / 1e6:.0f} million weights, {LENGTH} tokens, {TEXTS} texts")
    for name, worker in (
        ("one worker, all layers", result.one_worker),
        ("two workers, first", result.two_workers[0]),
        ("two workers, second", result.two_workers[1]),
    ):
        print(
            f"{name:24} {worker.seconds:6.1f} s ({worker.prepare_seconds:.1f} to prepare, "
            f"{worker.measure_seconds:.1f} to measure; {worker.cpu_seconds:.0f} s of a core), "
            f"{worker.resident_gigabytes:.2f} GB, {worker.places} places"
        )
    print(f"limits: {SECONDS:.0f} s with two workers, {GIGABYTES:g} GB each")
    return int(result.seconds > SECONDS or result.resident_gigabytes > GIGABYTES)


if __name__ == "__main__":
    sys.exit(main())
