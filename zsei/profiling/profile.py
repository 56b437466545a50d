"""Profile a model: time, operations, bytes and memory of its parts, and how they grow."""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from zsei.clock import Clock, Progress
from zsei.errors import DataError
from zsei.profiling.costs import module_costs, program_costs
from zsei.profiling.growth import growth, sequence_length
from zsei.profiling.instrument import Floats, Instrument, ModuleInstrument, ProgramInstrument
from zsei.profiling.memory import Held, along, input_bytes, parameter_bytes
from zsei.profiling.parts import calls_of, parts_of, roof_of
from zsei.profiling.place import on_device
from zsei.profiling.record import OUTSIDE, Call, MemoryUse, ProfileRecord
from zsei.records import digest
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import parameter_count
from zsei.subject.seeded import seeded
from zsei.subject.types import Batch, Subject
from zsei.timing.ceilings import DTYPES, ceilings
from zsei.timing.device import Device, find_device
from zsei.timing.interval import interval_of
from zsei.timing.pairs import interleave
from zsei.timing.peak import peak_memory

SHARES = {"prepare": 0.5, "measure": 0.35, "grow": 0.1, "ceilings": 0.05}
ROUNDS = 3
"""Interleaved rounds at least."""
MOST_ROUNDS = 9
PATIENCE = 0.2
"""Seconds of rounds after which `ROUNDS` are enough: only small models get more."""
AGREES = 0.05
"""Largest difference between the sum of the parts and the whole that is passed over."""


def profile_settings(**given: Any) -> Settings:
    """Settings with as many samples as one batch to measure and one held out."""
    return one_batch(Settings(**given))


def one_batch(settings: Settings) -> Settings:
    """The settings with samples for one batch on either side, where nobody says how many."""
    if "samples" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"samples": max(4, 2 * settings.batch_size)})


def profile(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    device: str = "cpu",
    objective: str = "auto",
    settings: Settings | None = None,
    grow: bool = True,
    progress: Progress | None = None,
    command: str = "",
) -> ProfileRecord:
    """Where the time and the memory of one forward pass go; the model itself is never changed.

    Measured on one real batch: in each round the exported program runs once as it is and once call
    by call, so that a slow moment hits both. Bytes and operations come from shapes. All of it, but
    for preparing and for the machine's ceilings (kept in `settings.home`), takes about as long as
    eleven forwards.

    Misleads when: calls take microseconds, since the clock and the interpreter then weigh as much
    as they do (`sum_of_parts` says so); a compiler would run several calls as one; or the batch is
    not like those of later use.

    Args:
        model: As for `analyze`.
        data: As for `analyze`.
        device: `cpu`, `cuda` or `cuda:N`.
        objective: As for `analyze`; it only decides how data are read.
        settings: As for `analyze`: `batch_size`, `length` and `threads` are the workload's. None
            takes `profile_settings()`.
        grow: Whether time and memory are also measured at smaller sizes.
        progress: Called with (stage, share done, seconds remaining or None, note).
        command: How it was asked for; kept in the record.

    Raises:
        DeviceError: The device is not there, or too small.
        DataError: The data do not fit, or do not fill the batch that was asked for.
        ZseiError: With the rule, what arrived and the likely fix.
    """
    place = find_device(device)
    settings = settings or profile_settings()
    clock = Clock(progress, settings.budget, SHARES)
    with seeded(settings):
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
        _check_filled(subject, settings)
        record = profile_subject(subject, place, settings, clock, grow=grow)
    return record.model_copy(update={"command": command, "timings": clock.seconds})


def profile_subject(
    subject: Subject, device: Device, settings: Settings, clock: Clock, *, grow: bool = True
) -> ProfileRecord:
    """Profile a subject that was prepared before; see `profile`."""
    with _plain_kernels():
        with clock.stage("measure"):
            subject, batch = on_device(subject, device)
            instrument = _instrument(subject, batch, device)
            memory, use = _memory(subject, instrument, batch, device)
            seconds, whole = _rounds(instrument, batch, device)
        grown = ()
        with clock.stage("grow"):
            if grow:
                grown = growth(subject, batch, device)
        spent = clock.seconds["measure"] + clock.seconds["grow"]
    dtype = _dtype(subject.model)
    with clock.stage("ceilings"):
        # A type without a ceiling of its own still has the memory's.
        found = ceilings(
            device, torch.get_num_threads(), (dtype,) if dtype in DTYPES else ("float32",),
            settings.home,
        )  # fmt: skip
    roof = roof_of(found, dtype)
    modules = isinstance(instrument, ModuleInstrument)
    costs = module_costs(subject, instrument.names) if modules else program_costs(subject)
    calls = calls_of(costs, seconds, memory)
    kinds = {c.id: str(c.kind) for c in reversed(subject.anatomy.components)}
    by_part = {name: name for name in kinds}
    ratio = interval_of(seconds.sum(1) / whole)
    asked = {
        "model": subject.model_hash, "device": device.name, "threads": torch.get_num_threads(),
        "inputs": [list(tensor.shape) for tensor in batch.inputs], "seed": settings.seed,
    }  # fmt: skip
    return ProfileRecord(
        id=digest(asked),
        model=subject.source.name,
        model_class=type(subject.model).__name__,
        model_hash=subject.model_hash,
        parameters=parameter_count(subject.model),
        versions={
            name: importlib.metadata.version(name)
            for name in ("zsei", "torch", "transformers", "numpy")
        },
        seed=settings.seed,
        device=str(device.torch),
        device_name=device.name,
        threads=torch.get_num_threads(),
        fidelity=subject.fidelity,
        inputs={
            name: tuple(tensor.shape)
            for name, tensor in zip(subject.input_names, batch.inputs, strict=True)
        },
        batch_size=batch.size,
        length=sequence_length(batch),
        rounds=len(whole),
        whole=interval_of(whole),
        sum_of_parts=ratio,
        parts=parts_of(calls, seconds, by_part, kinds, roof),
        kinds=parts_of(calls, seconds, kinds, {kind: kind for kind in kinds.values()}, roof),
        calls=calls,
        roof=roof,
        memory=use if memory is None else _with_peak(use, calls),
        growth=grown,
        forwards=spent / max(float(np.median(whole)), 1e-9),
        notes=(*subject.notes, *_said(ratio.median, seconds, subject, roof.note)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_filled(subject: Subject, settings: Settings) -> None:
    size = subject.calibration[0].size
    if "batch_size" in settings.model_fields_set and size < settings.batch_size:
        raise DataError(
            f"A batch of {settings.batch_size} needs {2 * settings.batch_size} different samples, "
            f"half of them held out; the data fill one of {size}. Give more data, or ask for a "
            f"batch of {size}."
        )


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fast path of torch's own encoder layers, which no program has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _instrument(
    subject: Subject, batch: Batch, device: Device
) -> ProgramInstrument | ModuleInstrument:  # fmt: skip
    if subject.program is not None:
        return ProgramInstrument(subject.program, device)
    return ModuleInstrument(subject.model, subject.input_names, subject.anatomy, device, batch)


def _memory(
    subject: Subject, instrument: ProgramInstrument | ModuleInstrument, batch: Batch, device: Device
) -> tuple[tuple[Held, ...] | None, MemoryUse]:
    """Memory along the program, which also warms it up; the peak alone where there is none."""
    use = MemoryUse(parameters=parameter_bytes(subject.model), inputs=input_bytes(batch))
    if isinstance(instrument, ProgramInstrument):
        return along(instrument, batch), use
    held = peak_memory(lambda: instrument.whole(batch), device).bytes
    return None, use.model_copy(update={"held": held})


def _with_peak(use: MemoryUse, calls: tuple[Call, ...]) -> MemoryUse:
    most = max(calls, key=lambda call: call.alive or 0)
    found = {"alive": most.alive, "alive_call": most.name, "component": most.component}
    told = [call for call in calls if call.held is not None]
    if told:
        top = max(told, key=lambda call: call.held or 0)
        found |= {"held": top.held, "held_call": top.name, "component": top.component}
    return use.model_copy(update=found)


def _rounds(instrument: Instrument, batch: Batch, device: Device) -> tuple[Floats, Floats]:
    """Seconds of the parts [rounds, parts] and of the whole [rounds], interleaved."""
    parts: list[Floats] = []
    sides = {
        "whole": lambda _: instrument.whole(batch),
        "parts": lambda _: parts.append(instrument.parts(batch)),
    }
    found = interleave(
        sides, device, rounds=MOST_ROUNDS, warm_up=int(device.is_cuda), budget=PATIENCE,
        least=ROUNDS,
    )  # fmt: skip
    whole = found.seconds["whole"]
    return np.stack(parts[-len(whole) :]), whole


def _dtype(model: nn.Module) -> str:
    """Type of most of the model's floating point parameters, by torch's name."""
    sizes: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            name = str(parameter.dtype).removeprefix("torch.")
            sizes[name] = sizes.get(name, 0) + parameter.numel()
    return max(sorted(sizes), key=lambda name: sizes[name], default="float32")


def _said(ratio: float, seconds: Floats, subject: Subject, no_peak: str) -> tuple[str, ...]:
    """What a reader should mind."""
    notes = []
    if abs(ratio - 1) > AGREES:
        each = float(np.median(seconds)) * 1e6
        cause = (
            f"half of the {seconds.shape[1]} parts take under {each:.3g} microseconds each, where "
            "the clock and the interpreter weigh as much as the work"
            if each < 50
            else "the machine was busy, or the plain forward reuses memory that single calls do not"
        )
        notes.append(
            f"The parts add up to {ratio:.3g} times the whole: {cause}. Shares of small parts are "
            f"inexact by that much."
        )
    if subject.program is None:
        notes.append(
            f"Timed module by module, since there is no program; {OUTSIDE} is what the model "
            f"computes outside of any module. Memory along the way could not be told."
        )
    if no_peak:
        notes.append(f"No roofline for parts that multiply matrices: {no_peak}.")
    return tuple(notes)
