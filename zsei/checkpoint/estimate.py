"""How many workers a run needs, how long a checkpoint takes, and the memory of each: before it
starts.

    W >= ceil(P / (R T L))

P parameters, R parameters that one worker analyses per second and level, T seconds that a
checkpoint may take, L levels of the analysis (channels, heads, layers). One pass over the data
serves all levels, so a worker gets through R L parameters per second.
"""

from dataclasses import dataclass
from math import ceil

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.probe import Probe
from zsei.errors import UsageError

BASE_BYTES = 600_000_000
"""Resident memory of a worker that has loaded the libraries and no model."""
COPIES = 3
"""Of the parameters: the model, the checkpoint as it is read, the edited copy at the gate."""
ACTIVATIONS = 2
"""What autograd keeps of a batch, and as much again for what is looked at and its gradients."""
BESIDE_PASSES = 2.0
"""Seconds of an analysis per second of its forward and backward passes."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run's analysis will take. Times and memory are estimates, not promises."""

    parameters: int
    """P."""
    rate: float
    """R: parameters per second, level and worker."""
    window: float
    """T, in seconds."""
    levels: int
    """L."""
    needed: int
    """W: workers with which a checkpoint is analysed within T."""
    workers: int
    """W, or as many as there may be."""
    threads: int
    """Torch threads of each."""
    memory_bytes: int
    """Resident memory of each, at its largest."""
    limit_bytes: int
    """What each may take."""
    room_bytes: int | None = None
    """What the machine has free for all of them; None: not known."""

    @property
    def seconds(self) -> float:
        """P / (R L workers): how long a checkpoint takes."""
        return self.parameters / (self.rate * self.levels * self.workers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not go well, and what then happens."""
        found = []
        if self.needed > self.workers:
            found.append(
                f"{self.needed} workers would be needed to hold the {self.window:g} s between "
                "checkpoints; until then checkpoints wait their turn and decisions come later. "
                "Raise `run.every`, or lower the setting `samples`."
            )
        if self.memory_bytes > self.limit_bytes:
            found.append(
                f"that is more than the {self.limit_bytes / 1e9:.1f} GB a worker may take: layers "
                "that pass it are measured on channels only, with confidence 0.8 and a cautious "
                "decision. Raise `run.memory_gigabytes`, or lower the setting `batch_size`."
            )
        if self.room_bytes is not None and self.memory_bytes * self.workers > self.room_bytes:
            found.append(
                f"this machine has {self.room_bytes / 1e9:.1f} GB free. Lower the setting "
                "`batch_size`, or let the analysis run on another machine."
            )
        return tuple(found)

    def text(self) -> str:
        """One sentence for a person, and one more for each warning."""
        said = (
            f"{_counted(self.workers, 'worker')} of {_counted(self.threads, 'thread')}: "
            f"{_short(self.parameters)} parameters on {_counted(self.levels, 'level')}, about "
            f"{_short(self.rate)} a second and level each, so about {_time(self.seconds)} of the "
            f"{_time(self.window)} a checkpoint may take; about {self.memory_bytes / 1e9:.1f} GB "
            "of memory each."
        )
        return " ".join([said, *(f"Warning: {warning}" for warning in self.warnings)])


def workers_needed(*, parameters: int, rate: float, seconds: float, levels: int) -> int:
    """W = ceil(P / (R T L)), at least 1.

    Args:
        parameters: P.
        rate: R, parameters per second, level and worker.
        seconds: T, what a checkpoint may take.
        levels: L.

    Raises:
        UsageError: One of them is not above zero.
    """
    given = {"parameters": parameters, "rate": rate, "seconds": seconds, "levels": levels}
    for name, value in given.items():
        if not value > 0:
            raise UsageError(
                f"The number of workers follows from {', '.join(given)}, each above 0; "
                f"got {name} {value!r}."
            )
    return max(1, ceil(parameters / (rate * seconds * levels)))


def estimate(
    probe: Probe,
    config: CheckpointConfig,
    *,
    batches: int,
    backwards: int,
    groups: int,
    cores: int,
    gpus: int = 0,
    levels: int = 3,
    rate: float | None = None,
    room_bytes: int | None = None,
) -> Estimate:
    """What a run's analysis will take on this machine.

    Each group of layers is a task with a pass of its own over all batches: forward and `backwards`
    backward runs, and about as long again for what is read off them. So one worker takes
    s = groups · 2 · batches · (forward + backwards · backward) seconds, and R = P / (s L).

    Workers: W, but not above `analysis_workers_per_gpu` for each GPU (one, where there is none) nor
    above the cores, nor above what fits into the machine's memory. Threads:
    `parallel_analysis_threads` or the cores, whichever is less, shared among the workers.
    Memory of a worker: 600 MB + 3 · bytes of the parameters + 2 · bytes that autograd keeps of a
    batch. It misleads for models whose forward holds much that autograd does not keep, and where
    weights are not held in the type they were probed in.

    Args:
        probe: One batch, measured (`zsei.checkpoint.probe`).
        config: Limits of the run.
        batches: Batches of the calibration data.
        backwards: Backward runs per batch (the setting `probes`).
        groups: Tasks that one checkpoint is split into.
        cores: Processors of the machine.
        gpus: GPUs of the machine.
        levels: L.
        rate: R, where it is known from checkpoints that were analysed already.
        room_bytes: Memory the machine has free.

    Raises:
        UsageError: A number that must be above zero is not.
    """
    if rate is None:
        passes = batches * (probe.forward_seconds + backwards * probe.backward_seconds)
        taken = groups * BESIDE_PASSES * passes
        rate = probe.parameters / (taken * levels) if taken > 0 else 0.0
    window = config.run.checkpoint_window
    needed = workers_needed(parameters=probe.parameters, rate=rate, seconds=window, levels=levels)
    memory = memory_of(probe)
    most = min(config.elesh.analysis_workers_per_gpu * max(gpus, 1), max(cores, 1))
    if room_bytes is not None:
        most = min(most, max(1, room_bytes // memory))
    workers = min(needed, most)
    threads = min(config.elesh.parallel_analysis_threads, max(cores, 1))
    return Estimate(
        parameters=probe.parameters,
        rate=rate,
        window=window,
        levels=levels,
        needed=needed,
        workers=workers,
        threads=max(1, threads // workers),
        memory_bytes=memory,
        limit_bytes=int(config.run.memory_gigabytes * 1e9),
        room_bytes=room_bytes,
    )


def memory_of(probe: Probe) -> int:
    """Resident memory of a worker at its largest, in bytes."""
    return BASE_BYTES + COPIES * probe.parameter_bytes + ACTIVATIONS * probe.activation_bytes


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number != 1 else ''}"


def _short(number: float) -> str:
    for size, letter in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
