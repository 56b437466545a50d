"""Random state and threads of one run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zsei.settings import Settings


@contextmanager
def seeded(settings: Settings) -> Iterator[None]:
    """Seed torch and fix its threads for as long as it lasts; both are as before afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
