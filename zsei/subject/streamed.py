"""Models too large to hold: their weights stay in a memory-mapped file and come layer by layer.

A whole-model analysis holds the weights about four times at its peak: themselves, their gradients,
an edited copy and the copy that was saved and loaded back. Where float32 weights do not fit four
times into the available memory (or `stream` says so), nothing is loaded: parameters are
views of a mapped float32 file, and what was read of them is given back to the system after use.
Giving back never loses anything, since the file still holds it. Half-precision weights are widened
once, tensor by tensor, into a file that is removed from the folder as soon as it is mapped: the
numbers are then those of a whole-model analysis, which computes in float32 too.
"""

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from zsei.errors import ModelError
from zsei.settings import Settings
from zsei.subject.streamed_files import Stored, read_headers, widen

COPIES = 4
"""How many times the float32 weights must fit into memory for an analysis to hold them."""
ROOM = 1.0
"""GB that a streamed analysis needs beside its largest weight."""
SAMPLES = 32
"""Samples of a streamed analysis, calibration and held-out together, unless set."""
BATCH = 4
ABLATED = 8
TRUTH = 4
PROPOSALS = 2
PATHS = 20
"""Random paths a critical one is compared with, each a run of the whole model: just enough for a
place above 95 % of them."""
_ATTRIBUTE = "mapped_weights"


@dataclass(frozen=True, kw_only=True)
class MappedWeights:
    """The addresses at which weight files are mapped into memory."""

    spans: tuple[tuple[int, int], ...]
    """(first, end) of every mapping, ascending."""
    bytes: int
    """Bytes of parameters that lie in them."""
    memory: float
    """GB the analysis may use."""

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Give the memory of mapped tensors back; their values are read again when needed.

        Tensors that are not mapped are left alone, and where the system has no `madvise` nothing
        happens.
        """
        for tensor in tensors:
            first = tensor.data_ptr()
            end = first + tensor.numel() * tensor.element_size()
            if any(low <= first and end <= high for low, high in self.spans):
                _give_back(first, end)


def _give_back(first: int, end: int) -> None:
    first -= first % mmap.PAGESIZE
    call = getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
    if call is not None:
        call(ctypes.c_void_p(first), ctypes.c_size_t(end - first), ctypes.c_int(mmap.MADV_DONTNEED))


def mapped_weights(model: nn.Module) -> MappedWeights | None:
    """Where a streamed model's weights are mapped; None for a model that is held in memory."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, MappedWeights) else None


def release(model: nn.Module, tensors: Iterable[Tensor] | None = None) -> None:
    """Give back what was read of a streamed model's weights; nothing for any other model.

    Args:
        model: The model.
        tensors: Which of its weights; None for all.
    """
    mapped = mapped_weights(model)
    if mapped is not None:
        mapped.release(model.parameters() if tensors is None else tensors)


def hand_on(model: nn.Module, module: nn.Module) -> None:
    """Note on a module that shares a streamed model's weights where they are mapped."""
    mapped = mapped_weights(model)
    if mapped is not None:
        setattr(module, _ATTRIBUTE, mapped)


class ReleasingInterpreter(fx.Interpreter):
    """Runs a streamed program, each weight given back behind the call that reads it."""

    def run_node(self, n: fx.Node) -> Any:
        """One call."""
        value = super().run_node(n)
        read = [a for a in n.all_input_nodes if a.op == "get_attr"]
        release(self.module, [t for a in read if isinstance(t := self.env.get(a), Tensor)])
        return value


def release_behind(model: nn.Module) -> None:
    """Have every module of a streamed model give its weights back after its forward."""
    mapped = mapped_weights(model)
    if mapped is None:
        return
    for module in model.modules():
        own = tuple(module.parameters(recurse=False))
        if own:
            module.register_forward_hook(lambda *_, own=own: mapped.release(own))


def available_memory(settings: Settings) -> float:
    """GB the analysis may use: the setting `memory`, else what the system says is free."""
    if settings.memory is not None:
        return settings.memory
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            known = dict(line.split(":", 1) for line in lines)
        free = int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(free, _group_limit()) / 1e9


def _group_limit() -> float:
    """What a control group allows, in bytes."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return float(Path(name).read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
    return float("inf")


def plan(folder: Path, settings: Settings) -> tuple[Stored, ...]:
    """The tensors to stream when a folder's model is to be streamed, else ().

    Raises:
        ModelError: Damaged or missing weight files, or less memory than even streaming takes.
    """
    stored = read_headers(folder)
    whole = sum(tensor.float_bytes for tensor in stored) / 1e9
    largest = max((tensor.float_bytes for tensor in stored), default=0) / 1e9
    memory = available_memory(settings)
    if settings.stream == "never":
        if whole > memory:
            raise ModelError(
                f"With stream=never the weights must fit into memory; {folder.name} takes "
                f"{whole:.1f} GB as float32 and {memory:.1f} GB are free. Set stream=auto."
            )
        return ()
    if settings.stream == "auto" and COPIES * whole <= memory:
        return ()
    if 2 * largest + ROOM > memory:
        raise ModelError(
            f"A streamed analysis needs room for its largest weight twice and {ROOM:.0f} GB; that "
            f"is {2 * largest + ROOM:.1f} GB for {folder.name} and {memory:.1f} GB are free. Close "
            f"other programs, raise the setting memory, or use a larger machine."
        )
    return stored


@contextmanager
def float_folder(
    folder: Path, stored: tuple[Stored, ...], settings: Settings
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A folder whose weights are float32, to be mapped inside, and what a reader should know.

    The given one where it is already; else a copy that is deleted on leaving. What is mapped of it
    stays readable until the model goes, and the system then frees the disk.
    """
    narrow = sorted({t.dtype for t in stored} - {"F32", "I64", "I32", "U8", "I8", "BOOL"})
    if not narrow:
        yield folder, ()
        return
    home = settings.home.expanduser()
    home.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="streamed-", dir=home))
    try:
        widen(folder, stored, target)
        whole = sum(tensor.float_bytes for tensor in stored) / 1e9
        yield target, (
            f"Weights stored as {', '.join(narrow)} were widened to a float32 file of "
            f"{whole:.2f} GB for the time of the analysis.",
        )  # fmt: skip
    finally:
        shutil.rmtree(target, ignore_errors=True)


def attach(model: nn.Module, folder: Path, settings: Settings) -> tuple[str, ...]:
    """Note on the model where its weights are mapped from `folder`, and what a reader should know.

    Called before the folder's files are removed.
    """
    spans = _spans(folder)
    inside = total = 0
    for tensor in model.parameters():
        size = tensor.numel() * tensor.element_size()
        first = tensor.data_ptr()
        total += size
        inside += size * any(low <= first and first + size <= high for low, high in spans)
    memory = available_memory(settings)
    why = f"{COPIES} times their size, which an analysis that holds them takes, is not free"
    if settings.stream == "always":
        why = "so the setting stream=always asks"
    setattr(model, _ATTRIBUTE, MappedWeights(spans=spans, bytes=inside, memory=memory))
    notes = [
        f"The weights ({total / 1e9:.2f} GB as float32) were streamed from a mapped file, layer by "
        f"layer: {why}. Each number is that of a whole-model analysis on the same samples, to "
        f"rounding."
    ]
    if total - inside > total // 100:
        notes.append(
            f"{(total - inside) / 1e9:.2f} GB of the weights had to be held in memory: the model's "
            f"class stores them in another layout than the file."
        )
    return tuple(notes)


def _spans(folder: Path) -> tuple[tuple[int, int], ...]:
    """Where this process has files of a folder mapped (Linux; elsewhere nothing is given back)."""
    files = {str(path.resolve()) for path in folder.glob("*.safetensors")}
    found = []
    try:
        with Path("/proc/self/maps").open(encoding="utf-8") as lines:
            for line in lines:
                parts = line.split(maxsplit=5)
                if len(parts) == 6 and parts[5].strip() in files:
                    low, high = parts[0].split("-")
                    found.append((int(low, 16), int(high, 16)))
    except OSError:
        return ()
    return tuple(_merged(sorted(found)))


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that touch, as one."""
    low, high = spans[0] if spans else (0, 0)
    for first, end in spans[1:]:
        if first > high:
            yield low, high
            low = first
        high = max(high, end)
    if high > low:
        yield low, high


def too_large_to_copy(model: nn.Module) -> str:
    """Why a streamed model cannot be edited and judged in the memory there is; "" where it can."""
    mapped = mapped_weights(model)
    if mapped is None or COPIES * mapped.bytes / 1e9 <= mapped.memory:
        return ""
    return (
        f"the model is streamed, and judging an edit takes gradients of all weights, an edited "
        f"copy, and that copy saved and loaded back; the available memory does not hold {COPIES} "
        f"times the {mapped.bytes / 1e9:.1f} GB of its weights"
    )


def fitted(settings: Settings, model: nn.Module) -> tuple[Settings, tuple[str, ...]]:
    """Settings for a model and what was made smaller: a streamed one takes fewer samples.

    What the user set stays. Calling it again with its own result changes nothing.
    """
    if mapped_weights(model) is None:
        return settings, ()
    limits = {
        "samples": SAMPLES, "batch_size": BATCH, "ablation_sample": ABLATED,
        "truth_samples": TRUTH, "max_proposals": PROPOSALS, "random_paths": PATHS,
    }  # fmt: skip
    update = {
        name: limit
        for name, limit in limits.items()
        if name not in settings.model_fields_set and getattr(settings, name) > limit
    }
    if not update:
        return settings, ()
    told = ", ".join(f"{name} {getattr(settings, name)} -> {new}" for name, new in update.items())
    note = f"A streamed analysis is a smaller one unless told otherwise: {told}."
    return settings.model_copy(update=update), (note,)
