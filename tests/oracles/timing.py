"""Slow, obvious counterparts of `zsei.timing`: enumeration, hand counting, a mode that watches."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def rank_by_enumeration(n: int, confidence: float) -> int:
    """Largest k for which [x_(k), x_(n+1-k)] misses the median of n coin flips rarely enough."""
    rank = 0
    for k in range(1, n // 2 + 1):
        missed = sum(sum(flips) < k or n - sum(flips) < k for flips in product((0, 1), repeat=n))
        if missed / 2**n <= 1 - confidence:
            rank = k
    return rank


def missed_by_enumeration(ranks: Sequence[int]) -> float:
    """Probability that any of the intervals of these ranks misses the median: over all paths."""
    missed = 0
    for flips in product((0, 1), repeat=len(ranks)):
        heads = 0
        for n, (flip, rank) in enumerate(zip(flips, ranks, strict=True), start=1):
            heads += flip
            if heads < rank or n - heads < rank:
                missed += 1
                break
    return missed / 2 ** len(ranks)


class Watched(TorchDispatchMode):
    """Bytes of all storages that results of calls hold, looked at after every call."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.before: set[int] = set()
        self.alive: list[int] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for storage in (x.untyped_storage() for x in _tensors((args, kwargs))):
            if storage._cdata not in self._living():
                self.before.add(storage._cdata)
        result = func(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in _tensors(result)):
            if storage._cdata not in self.before:
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive.append(sum(self._living().values()))
        return result

    def _living(self) -> dict[int, int]:
        return {key: size for key, (ref, size) in self.storages.items() if not ref.expired()}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_by_watching(call: Callable[[], object]) -> int:
    """Peak bytes of the values a call makes, without what kernels need for themselves."""
    with Watched() as watched:
        call()
    return max(watched.alive, default=0)


def order_by_hand(names: Sequence[str], rounds: int) -> list[str]:
    """Who runs when: every round all of them, begun one further each time, round and round."""
    order: list[str] = []
    for number in range(rounds):
        turned = list(names)
        for _ in range(number % len(names)):
            turned.append(turned.pop(0))
        order += turned
    return order
