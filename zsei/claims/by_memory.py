"""Claims about memory: of the whole model, or of the attention call alone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.claims.bench import Bench
from zsei.claims.claim import Claim
from zsei.claims.found import Found, by_number, not_measurable
from zsei.claims.ways import REFUSED, Way, ways_of
from zsei.errors import SpeedUpRefused
from zsei.records import Failure, Measurement
from zsei.speed.measure import named, sentence
from zsei.speedups.attention_backend import kernel
from zsei.speedups.runnable import Runnable
from zsei.subject.types import Batch
from zsei.timing.peak import peak_memory
from zsei.timing.threads import torch_threads

OWN_ALLOCATOR = ("onnx-runtime",)
"""Speed-ups whose memory torch's allocator does not see."""


def memory(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """How many times less memory (x), or how much of the baseline's is gone (%).

    Formula: M = bytes of all weights + most bytes alive at once during a call, beyond those alive
    when it began; x = M(baseline) / M(claimed), % = 100 (1 - M(claimed) / M(baseline)). With `of:
    attention` M is the second term of softmax(q kᵀ / √d) v alone, for one sample with the model's
    heads at the claimed length. Allocations are counted, so no clock and no noise takes part.
    """
    del budget
    if claim.of == "attention":
        return _attention(bench, claim)
    batches = bench.batches(claim.at)
    ways = ways_of(bench, claim)
    if not ways.usable:
        return ways.none()
    unseen = [way for way in ways.usable if any(s.speedup in OWN_ALLOCATOR for s in way.steps)]
    seen = [way for way in ways.usable if way not in unseen]
    left_out = (*ways.left_out, *(_unseen(way) for way in unseen))
    if not seen:
        return not_measurable(left_out[-1].why).with_(left_out=left_out)
    largest = max(batches, key=lambda batch: sum(tensor.numel() for tensor in batch.inputs))
    before = held(bench, bench.start(), largest)
    after = {place: held(bench, way.runnable, largest) for place, way in enumerate(seen)}
    place = min(after, key=lambda place: after[place])
    found = compared(claim, before, after[place])
    return found.with_(
        steps=seen[place].steps, left_out=left_out,
        measurements=(*seen[place].measurements, *found.measurements),
    )  # fmt: skip


def compared(claim: Claim, before: int, after: int) -> Found:
    """The verdict on two numbers of bytes."""
    share = claim.measured_in == "%"
    value = 100 * (1 - after / before) if share else before / after
    found = by_number(claim, value)
    told = (("baseline_bytes", before), ("claimed_bytes", after))
    return found.with_(
        reason=f"{found.reason} less: {megabytes(before)} became {megabytes(after)}",
        measurements=tuple(Measurement(name=n, value=b, unit="bytes") for n, b in told),
    )


def megabytes(size: float) -> str:
    """Bytes as megabytes of 10^6."""
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e6:,.0f} MB"


def _unseen(way: Way) -> Failure:
    why = "it allocates memory of its own, which torch's allocator does not see"
    return Failure(stage=REFUSED, what=way.name, why=why)


def held(bench: Bench, runnable: Runnable, batch: Batch) -> int:
    """Bytes of the weights and of the worst moment of a call, from the second call on."""
    with torch.no_grad(), torch_threads(bench.workload.threads):
        runnable(batch.inputs)
        peak = peak_memory(lambda: runnable(batch.inputs), bench.workload.device)
    return weights(runnable.module) + peak.bytes


def weights(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, each storage once."""
    sizes: dict[int, int] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _attention(bench: Bench, claim: Claim) -> Found:
    """The attention call alone, as eager code writes it out and as the claimed backend does it."""
    length = claim.at.length
    assert length is not None, "checked when the claim was read"
    heads, size = heads_of(bench)
    shape = (claim.at.batch or 1, heads, length, size)
    device = bench.workload.device
    generator = torch.Generator().manual_seed(bench.settings.seed)
    q, k, v = (torch.randn(shape, generator=generator).to(device.torch) for _ in range(3))

    def peak(call: Callable[[], Tensor]) -> int:
        with torch.no_grad(), torch_threads(bench.workload.threads):
            return peak_memory(call, device).bytes

    after: dict[int, int] = {}
    left_out: list[Failure] = []
    for place, steps in enumerate(claim.ways):
        backend = str(steps[0].params.get("backend", "sdpa"))
        try:
            after[place] = peak(lambda backend=backend: _fused(q, k, v, backend))
        except (RuntimeError, SpeedUpRefused) as error:
            why = f"it must run at {length} positions, but stopped with {sentence(error)}"
            left_out.append(Failure(stage=REFUSED, what=named(steps), why=why))
    if not after:
        reason = " ".join(f"{failure.what}: {failure.why}" for failure in left_out)
        return not_measurable(reason).with_(left_out=tuple(left_out))
    place = min(after, key=lambda place: after[place])
    found = compared(claim, peak(lambda: eager(q, k, v)), after[place])
    where = f"at {length} positions, {heads} heads of {size}"
    return found.with_(
        steps=claim.ways[place], left_out=tuple(left_out), reason=f"{found.reason} ({where})"
    )


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, [n, h, t, d], with the scores [n, h, t, t] written out."""
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]))
    return scores.softmax(-1) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    if backend == "eager":
        return eager(q, k, v)
    if not backend.startswith("sdpa"):
        raise SpeedUpRefused(
            f"the call alone is measured of torch's own kernels; {backend} is none"
        )
    with kernel(backend):  # type: ignore[arg-type]
        return F.scaled_dot_product_attention(q, k, v)


def heads_of(bench: Bench) -> tuple[int, int]:
    """Heads of the model's first attention and the width of one.

    Raises:
        SpeedUpRefused: No attention was found in the model.
    """
    anatomy = bench.workload.subject.anatomy
    head = next((part for part in anatomy.components if part.kind == "head"), None)
    if head is not None and head.parent is not None:
        return anatomy.component(head.parent).units, head.width
    raise SpeedUpRefused(
        "Memory of the attention needs a model with attention; none was found in "
        f"{type(bench.workload.model).__name__}."
    )
