"""Independent runs side by side, one thread each.

The calls of a small model are too small to be split well among threads; whole runs are not.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], concurrent: bool) -> list[Result]:
    """`work` of every item: side by side where what does it is `concurrent`, else in turn."""
    return side_by_side(work, items) if concurrent else one_by_one(work, items)


def few_at_a_time(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the order of the items; as many results are held at a time as
    torch has threads. What is summed over them so does not depend on the threads.
    """
    size = torch.get_num_threads()
    for first in range(0, len(items), size):
        some = items[first : first + size]
        yield from zip(some, side_by_side(work, some), strict=True)


def one_by_one(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, without gradients."""
    with torch.no_grad():
        return [work(item) for item in items]


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, as many at a time as torch has threads, in the order of the items.

    Each runs without gradients on one thread, so a result does not depend on what runs beside it.

    Args:
        work: May be called from several threads at once; must only read what it shares.
        items: What to work on.
    """
    wanted, threads = list(items), torch.get_num_threads()

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)  # each thread has a number of its own
        with torch.no_grad():
            return work(item)

    if threads < 2 or len(wanted) < 2:
        return one_by_one(work, wanted)
    try:
        with ThreadPoolExecutor(max_workers=min(threads, len(wanted))) as pool:
            return list(pool.map(alone, wanted))
    finally:
        torch.set_num_threads(threads)
