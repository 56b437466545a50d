"""Choose how attention is computed."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from zsei.errors import SpeedUpRefused
from zsei.speedups.probe import probe
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin

Backend = Literal[
    "eager", "sdpa", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flash-attention-2"
]
KERNELS: dict[str, SDPBackend] = {
    "sdpa-math": SDPBackend.MATH,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}
ON_CPU: tuple[Backend, ...] = ("sdpa", "sdpa-flash", "sdpa-math")
ON_CUDA: tuple[Backend, ...] = (
    "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "flash-attention-2",
)  # fmt: skip


class AttentionBackendParams(Params):
    """Which implementation, and of torch's which kernel."""

    backend: Backend = "sdpa"


@final
@dataclass(frozen=True, kw_only=True)
class AttentionBackend:
    """Computes softmax(q kᵀ / √d) v in another way; no weight and no formula changes.

    *eager* writes the scores [n, h, t, t] to memory. *sdpa* is torch's
    `scaled_dot_product_attention`, which takes the best kernel by itself; *sdpa-flash*,
    *sdpa-efficient*, *sdpa-cudnn* and *sdpa-math* hold it to one. Flash and efficient kernels go
    through keys in blocks and keep running sums, so that memory grows with t instead of t².
    *flash-attention-2* is the package flash-attn, on a card and in half precision. In a plain torch
    module that calls `scaled_dot_product_attention` (`nn.TransformerEncoder` among them, whose
    fused fast path is then off) the kernel is chosen, the model's own code stays.

    Exact: up to the order of sums (1e-6 in float32). Rows that may see no key at all are undefined
    and differ between kernels. Costs nothing to set up; attention weights cannot be asked for.
    Misleads when: sequences are short, where attention is a few per cent of the time and its memory
    is less than the MLP's; the gain grows with length.

    References: Dao et al., FlashAttention, NeurIPS 2022; Rabe and Staats, Self-attention does not
    need O(n²) memory, 2021.
    """

    name: ClassVar[str] = "attention-backend"
    title: ClassVar[str] = "Attention backend"
    order: ClassVar[int] = 10
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = AttentionBackendParams

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """The backends that run the model here, each tried on a few samples."""
        start = bare(workload.model, workload.input_names)
        found: list[Params] = []
        reasons: list[str] = []
        for backend in ON_CUDA if workload.device.is_cuda else ON_CPU:
            params = AttentionBackendParams(backend=backend)
            try:
                self.apply(start, params, workload)
            except SpeedUpRefused as refused:
                reasons.append(str(refused))
            else:
                found.append(params)
        if not found:
            raise SpeedUpRefused(reasons[0])
        return tuple(found)

    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        """Another implementation on a twin of the module, and its kernel around every call."""
        backend: Backend = params.backend
        if backend == "flash-attention-2":
            _check_flash(workload)
        chosen = runnable.with_module(_implemented(runnable.module, backend))
        if backend not in ("eager", "flash-attention-2"):
            chosen = chosen.with_around(lambda: kernel(backend))
        calls = _tried(chosen, probe(workload), backend)
        if backend.startswith("sdpa") and not calls:
            raise SpeedUpRefused(
                f"The backend {backend} must meet a call of scaled_dot_product_attention; "
                f"{type(workload.model).__name__} made none. Its attention is written out by hand, "
                f"or it has none."
            )
        return chosen


@contextmanager
def kernel(backend: Backend) -> Iterator[None]:
    """Torch's attention held to one kernel (*sdpa*: any), without the fused fast path of
    `nn.MultiheadAttention`, which goes around it. What was in force before is restored.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(KERNELS[backend]) if backend in KERNELS else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _implemented(module: nn.Module, backend: Backend) -> nn.Module:
    """A twin with the implementation set; the same module where its class lets nobody choose."""
    choose = getattr(module, "set_attn_implementation", None)
    if not callable(choose):
        if backend in ("eager", "flash-attention-2"):
            raise SpeedUpRefused(
                f"The backend {backend} is chosen in a model of transformers; "
                f"{type(module).__name__} is none. Take one of {', '.join(ON_CPU)}."
            )
        return module
    twin: Any = frozen_twin(module)
    wanted = backend.partition("-")[0] if backend in KERNELS else backend.replace("-", "_")
    try:
        twin.set_attn_implementation(wanted)
    except (ValueError, ImportError, RuntimeError) as error:
        raise _refused(backend, module, error) from error
    if twin.config._attn_implementation != wanted:
        raise SpeedUpRefused(
            f"The backend {backend} must be one the model's class has; "
            f"{type(module).__name__} keeps its own attention."
        )
    return twin


def _check_flash(workload: Workload) -> None:
    missing = [
        said
        for there, said in (
            (workload.device.is_cuda, f"the device is {workload.device.torch}"),
            (find_spec("flash_attn") is not None, "the package flash-attn is not installed"),
        )
        if not there
    ]
    if missing:
        raise SpeedUpRefused(
            f"The backend flash-attention-2 needs a CUDA card and the package flash-attn; "
            f"{' and '.join(missing)}. Use sdpa, whose kernels need neither."
        )


class _Calls(TorchFunctionMode):
    """Counts calls of `scaled_dot_product_attention`; those inside `multi_head_attention_forward`,
    which makes one where it is not asked for the weights, are hidden from the mode.
    """

    count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        named = kwargs or {}
        multi_head = func is F.multi_head_attention_forward and not named.get("need_weights", True)
        self.count += multi_head or func is F.scaled_dot_product_attention
        return func(*args, **named)


@torch.no_grad()
def _tried(runnable: Runnable, inputs: Sequence[Tensor], backend: Backend) -> int:
    """How often torch's attention is called on a few samples.

    Raises:
        SpeedUpRefused: With the kernel's own reason.
    """
    with warnings.catch_warnings(record=True) as said, _Calls() as calls:
        warnings.simplefilter("always")
        try:
            runnable(inputs)
        except Exception as error:
            why = " ".join(str(one.message).split(" (Triggered")[0] for one in said)
            raise _refused(backend, runnable.module, error, why) from error
    return calls.count


def _refused(
    backend: Backend, module: nn.Module, error: Exception, why: str = ""
) -> SpeedUpRefused:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return SpeedUpRefused(
        f"The backend {backend} must be able to run the model; {type(module).__name__} stopped "
        f"with: {f'{reason} {why}'.strip().split('. ')[0][:300]}. Use another backend."
    )
