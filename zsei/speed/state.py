"""What holds for the whole process is, after a measurement, what it was before."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore threads, default type, precision of products, kernels of attention and random state.

    A speed-up sets such things around its own calls only; this is for the one that crashes or
    forgets.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    precision = torch.get_float32_matmul_precision()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    kernels = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    gradients = torch.is_grad_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        cuda.enable_flash_sdp(kernels[0])
        cuda.enable_mem_efficient_sdp(kernels[1])
        cuda.enable_math_sdp(kernels[2])
        torch.set_grad_enabled(gradients)
