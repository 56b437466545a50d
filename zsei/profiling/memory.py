"""Memory along a program: what is alive after each call, and what the allocator held during it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from zsei.profiling.instrument import ProgramInstrument
from zsei.subject.types import Batch
from zsei.timing.allocations import quiet_profiler
from zsei.trace.interpreter import Values, call, drop

_LABEL = "zsei call "


@dataclass(frozen=True, kw_only=True)
class Held:
    """Memory at one call, beyond inputs and parameters."""

    alive: int
    """Bytes of the values alive once it is done, before any is let go."""
    held: int | None
    """Most bytes the allocator held while it ran; None where it tells nothing."""


def along(instrument: ProgramInstrument, batch: Batch) -> tuple[Held, ...]:
    """Memory at every call of one run.

    Alive are the storages of all values that a later call still reads, each once however many looks
    there are at it. The allocator's figure comes from its own events and so includes scratch space
    inside a call; it does not see what a library allocates by itself (oneDNN).
    """
    there = frozenset(_places((*instrument.engine.constants.values(), *batch.inputs)))
    if instrument.device.is_cuda:
        return tuple(_along_card(instrument, batch, there))
    events = (ProfilerActivity.CPU,)
    with quiet_profiler(), profile(activities=events, profile_memory=True) as seen:
        alive = [_alive(there, values) for values in _steps(instrument, batch)]
    held = _held(seen.profiler and seen.profiler.kineto_results, len(alive))
    return tuple(Held(alive=a, held=h) for a, h in zip(alive, held, strict=True))


def _steps(instrument: ProgramInstrument, batch: Batch) -> Iterator[Values]:
    """Run call by call; yields the values right after each, before any is let go."""
    with torch.no_grad():
        values = instrument.engine.start(batch)
        for number, step in enumerate(instrument.engine.steps):
            with record_function(f"{_LABEL}{number}"):
                values[step.name] = call(step, values)
            yield values
            drop(values, step.drops)


def _along_card(
    instrument: ProgramInstrument, batch: Batch, there: frozenset[int]
) -> Iterator[Held]:
    card = instrument.device.torch
    before = torch.cuda.memory_allocated(card)
    torch.cuda.reset_peak_memory_stats(card)
    for values in _steps(instrument, batch):
        most = torch.cuda.max_memory_allocated(card) - before
        yield Held(alive=_alive(there, values), held=most)
        torch.cuda.reset_peak_memory_stats(card)


def _alive(there: frozenset[int], values: Values) -> int:
    """Bytes of the storages of all values that were not there before, each storage once."""
    own = _places(values.values())
    return sum(size for place, size in own.items() if place not in there)


def _places(values: Iterable[Any]) -> dict[int, int]:
    """Address of each storage -> its bytes."""
    storages = (tensor.untyped_storage() for tensor in _tensors(values))
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _held(results: Any, calls: int) -> list[int | None]:
    """Most bytes allocated during each labelled call, from the allocator's events in time order."""
    spans: dict[int, tuple[int, int]] = {}
    changes: list[tuple[int, int]] = []
    for event in results.events():
        name = event.name()
        if name == "[memory]":
            changes.append((event.start_ns(), event.nbytes()))
        elif name.startswith(_LABEL):
            begin = event.start_ns()
            spans[int(name.removeprefix(_LABEL))] = begin, begin + event.duration_ns()
    changes.sort(key=lambda change: change[0])
    found: list[int | None] = []
    held = at = 0
    for number in range(calls):
        if number not in spans:
            found.append(None)
            continue
        begin, end = spans[number]
        while at < len(changes) and changes[at][0] < begin:
            held, at = held + changes[at][1], at + 1
        most = held
        while at < len(changes) and changes[at][0] <= end:
            held, at = held + changes[at][1], at + 1
            most = max(most, held)
        found.append(most)
    return found


def parameter_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    return sum(_places((*model.parameters(), *model.buffers())).values())


def input_bytes(batch: Batch) -> int:
    """Bytes of the inputs of a batch."""
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.inputs)
