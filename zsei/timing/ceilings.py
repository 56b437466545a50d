"""How fast a machine multiplies and moves numbers at best: the two ends of a roofline.

Measured once per process, device and number of threads, and kept in a file where a folder is given.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from zsei.errors import DeviceError, UsageError
from zsei.records import Record
from zsei.timing.device import Device, seconds
from zsei.timing.threads import torch_threads

DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Types a ceiling can be asked for, by torch's names."""
FILE = "ceilings.json"
REPEATS = 5
PATIENCE = 0.1
"""Seconds one product may take; where it would take more, the matrices are smaller. A processor
without float16 arithmetic is some 80 times slower at it than at float32."""
SIDE = 1024
"""Side of the square matrices on the CPU: large enough to be limited by arithmetic."""
CUDA_SIDE = 8192
"""The same on a card, whose units are filled by nothing smaller."""
STREAM = 1 << 23
"""Numbers that are added to others on the CPU: 32 MiB each, more than most caches hold."""
CUDA_STREAM = 1 << 27

Positive = Annotated[float, Field(gt=0)]


class Ceilings(Record):
    """What one device can do at best with so many threads.

    Formula: peak = 2 s^3 / seconds of a product of two s x s matrices (s = 1024 on a CPU, 8192 on a
    card, halved until one takes under 0.1 s; int8 into int32). bandwidth = 12 n / seconds of adding
    one float32 vector of n numbers to another (two read, one written). Each is the best of five
    runs after one to warm up, on random numbers: a card that multiplies zeros draws less power and
    clocks higher than it ever will on real data.

    Misleads when: something else keeps the machine busy meanwhile; or a card's float32 product may
    use TF32 (`torch.backends.cuda.matmul.allow_tf32`), which holds for the model as well. A model's
    own kernels may pass the peak by a little where their matrices have a better shape.

    References: Williams, Waterman and Patterson, "Roofline", Communications of the ACM 52(4), 2009;
    McCalpin, "Memory bandwidth and machine balance in current high performance computers", 1995.
    """

    device: str
    """The processor's or the card's own name."""
    torch: str
    """Version of torch, whose kernels were measured."""
    threads: int
    """Torch threads; a card's figures do not depend on them."""
    peak: dict[str, Positive]
    """Type -> operations per second of a large matrix product."""
    bandwidth: Positive
    """Bytes per second, read and written."""
    could_not_tell: dict[str, str] = Field(default_factory=dict)
    """Type -> why there is no figure for it."""

    def ridge(self, dtype: str = "float32") -> float | None:
        """Operations per byte above which arithmetic, and below which memory, is the limit.

        None where the type has no peak.
        """
        peak = self.peak.get(dtype)
        return None if peak is None else peak / self.bandwidth


class _Kept(Record):
    """The file: everything measured so far."""

    schema_version: Literal[1] = 1
    ceilings: tuple[Ceilings, ...] = ()


def ceilings(
    device: Device,
    threads: int | None = None,
    dtypes: Sequence[str] = DTYPES,
    folder: Path | None = None,
) -> Ceilings:
    """The ceilings of a device, measured where they are not known yet.

    Args:
        device: Where.
        threads: Torch threads; None takes the present number. The present number is restored.
        dtypes: Types asked for, of `DTYPES`.
        folder: Where `ceilings.json` is kept; None keeps them for this process alone. The folder
            is made where it is missing. A file that is damaged or another's is replaced; one that
            cannot be written is left, for the figures do not depend on it.

    Raises:
        UsageError: A type is none of `DTYPES`.
        DeviceError: The device's memory is full.
    """
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise UsageError(
            f"A ceiling is one of {', '.join(DTYPES)}; {unknown[0]!r} is none of them."
        )
    threads = threads or torch.get_num_threads()
    known = _read(folder / FILE) if folder else ()
    key = (device.name, torch.__version__, threads)
    others = tuple(old for old in known if (old.device, old.torch, old.threads) != key)
    same = next((old for old in known if old not in others), None)
    told = {*same.peak, *same.could_not_tell} if same else set[str]()
    if same and told.issuperset(dtypes):
        return same
    found = _measured(device, threads, tuple(d for d in DTYPES if d in told or d in dtypes))
    if folder:
        _write(folder / FILE, _Kept(ceilings=(*others, found)))
    return found


@lru_cache
def _measured(device: Device, threads: int, dtypes: tuple[str, ...]) -> Ceilings:
    peaks: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for dtype in dtypes:
        found = peak(device, threads, dtype)
        if isinstance(found, str):
            reasons[dtype] = found
        else:
            peaks[dtype] = found
    return Ceilings(
        device=device.name, torch=torch.__version__, threads=threads, peak=peaks,
        bandwidth=bandwidth(device, threads), could_not_tell=reasons,
    )  # fmt: skip


@lru_cache
def peak(device: Device, threads: int, dtype: str, side: int | None = None) -> float | str:
    """Operations per second of a matrix product of this type, or why it cannot be told.

    Args:
        device: Where.
        threads: Torch threads.
        dtype: One of `DTYPES`.
        side: Side of the matrices; None takes the device's.
    """
    side = side or (CUDA_SIDE if device.is_cuda else SIDE)
    try:
        with torch_threads(threads), torch.no_grad():
            pilot = max(side // 8, 32)
            cost = best(_product(device, dtype, pilot), device, repeats=1) / pilot**3
            while side > pilot and cost * side**3 > PATIENCE:
                side //= 2
            return 2 * side**3 / best(_product(device, dtype, side), device)
    except (RuntimeError, AttributeError, TypeError) as error:
        said = str(error).partition("\n")[0]
        return f"torch multiplies no {dtype} matrices on {device.name}: {said}"


@lru_cache
def bandwidth(device: Device, threads: int, numbers: int | None = None) -> float:
    """Bytes per second of a sum of two long float32 vectors, read and written.

    Args:
        device: Where.
        threads: Torch threads.
        numbers: Length of the vectors; None takes the device's.

    Raises:
        DeviceError: The vectors do not fit on the device.
    """
    numbers = numbers or (CUDA_STREAM if device.is_cuda else STREAM)
    try:
        with torch_threads(threads), torch.no_grad():
            source, total = _random(device, numbers), _random(device, numbers)
            return 3 * 4 * numbers / best(lambda: total.add_(source), device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"Measuring a bandwidth needs {8 * numbers >> 20} MiB on the device; {device.name} has "
            f"less that is free. End what else runs there."
        ) from error


def best(call: Callable[[], object], device: Device, repeats: int = REPEATS) -> float:
    """Least seconds of a few calls after one to warm up: the others waited for something else."""
    call()
    return max(min(seconds(call, device) for _ in range(repeats)), 1e-9)


def _random(device: Device, *shape: int) -> Tensor:
    """Normal numbers from a generator of its own: the user's random state is not touched."""
    generator = torch.Generator(device.torch).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device.torch)


def _product(device: Device, dtype: str, side: int) -> Callable[[], object]:
    left, right = _random(device, side, side), _random(device, side, side)
    if dtype == "int8":
        one, two = ((30 * m).clamp(-127, 127).to(torch.int8) for m in (left, right))
        two = two.t() if device.is_cuda else two  # the layout a card's kernels take
        return lambda: torch._int_mm(one, two)  # pyright: ignore[reportPrivateImportUsage]
    kind = getattr(torch, dtype)
    left, right = left.to(kind), right.to(kind)
    product = torch.empty(side, side, dtype=kind, device=device.torch)
    return lambda: torch.mm(left, right, out=product)


def _read(path: Path) -> tuple[Ceilings, ...]:
    try:
        return _Kept.model_validate_json(path.read_bytes()).ceilings
    except (OSError, ValidationError):
        return ()


def _write(path: Path, kept: _Kept) -> None:
    """Replace the file in one step: whoever reads it meanwhile sees the old one or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE}.")
    except OSError:
        return
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(kept.model_dump(mode="json"), file, indent=1)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
