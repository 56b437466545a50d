"""Keep the channels of images next to each other in memory."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin


@final
@dataclass(frozen=True, kw_only=True)
class ChannelsLast:
    """Lays values [n, c, y, x] of convolutions out as [n, y, x, c] in memory.

    The kernels of oneDNN and cuDNN read all channels of a pixel at once; with the usual layout they
    reorder what comes in and what goes out at every convolution. Shapes and indexing stay.

    Exact: up to the order of sums (1e-6 in float32). Costs a second copy of the convolutions'
    weights. Misleads when: the model reshapes between convolutions (every `view` over channels
    copies), or channels are few; it can then be slower.

    References: PyTorch, Channels last memory format in PyTorch, tutorial.
    """

    name: ClassVar[str] = "channels-last"
    title: ClassVar[str] = "Channels last"
    order: ClassVar[int] = 20
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = Params

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """The one there is, for models with convolutions over images."""
        _check(workload.model)
        return (Params(),)

    def apply(self, runnable: Runnable, params: Params, workload: Workload) -> Runnable:
        """A twin with weights in that layout, which lays out what comes in."""
        del params, workload
        _check(runnable.module)
        twin = frozen_twin(runnable.module)
        with torch.no_grad():
            twin.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        twin.register_forward_pre_hook(_laid_out, with_kwargs=True)
        return runnable.with_module(twin)


def _check(module: nn.Module) -> None:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    if not any(isinstance(part, kinds) for part in module.modules()):
        raise SpeedUpRefused(
            f"Channels last is a layout of images; {type(module).__name__} holds no convolution "
            f"over two axes. Leave it out."
        )


def _laid_out(
    module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module

    def laid(value: Any) -> Any:
        image = isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
        return value.contiguous(memory_format=torch.channels_last) if image else value

    return tuple(laid(value) for value in args), {k: laid(value) for k, value in named.items()}
