"""Chooses samples, evenly over groups, and splits them into calibration and held-out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zsei.errors import DataError
from zsei.subject.rows import Rows

Pick = tuple[str, int]
"""Group name and row number in that group."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Chosen rows; groups alternate, so that every batch holds all of them."""

    calibration: tuple[Pick, ...]
    held_out: tuple[Pick, ...]
    duplicates: int
    """Rows left out because they, or a text of theirs, stood elsewhere already."""


def split(groups: Mapping[str, Rows], samples: int, seed: int, rows_per_sample: int = 1) -> Split:
    """Choose at most `samples` rows and split them in halves.

    The same text never stands on both sides: duplicates are dropped, and a pair goes to the side
    where one of its texts already is, or is dropped when they are on both.

    Args:
        groups: Rows by group name.
        samples: Rows in all.
        seed: Decides which are chosen.
        rows_per_sample: 2 where a sample is a pair that fills two rows.

    Raises:
        DataError: Fewer than two different samples.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = {}
    for name, rows in groups.items():
        orders[name] = torch.randperm(rows.size, generator=generator).tolist()
    unique, duplicates = _unique(groups, orders, samples)
    wanted = quotas({n: len(rows) for n, rows in unique.items()}, samples // rows_per_sample)
    sides: dict[object, int] = {}
    chosen: tuple[list[Pick], list[Pick]] = ([], [])
    counts = {name: [0, 0] for name in groups}
    for name, row in _alternate({n: rows[: wanted[n]] for n, rows in unique.items()}):
        key = groups[name].key(row)
        bound = {sides[text] for text in key if text in sides}
        if len(bound) > 1:
            duplicates += 1
            continue
        balance = counts[name][0] - counts[name][1] or len(chosen[0]) - len(chosen[1])
        side = bound.pop() if bound else int(balance > 0)
        sides |= dict.fromkeys(key, side)
        counts[name][side] += 1
        chosen[side].append((name, row))
    if not chosen[0] or not chosen[1]:
        total = sum(rows.size for rows in groups.values())
        raise DataError(
            f"Data must hold at least two different samples, one to calibrate and one held out; "
            f"{total} arrived, {len(chosen[0]) + len(chosen[1])} different. Give more."
        )
    return Split(calibration=tuple(chosen[0]), held_out=tuple(chosen[1]), duplicates=duplicates)


def _unique(
    groups: Mapping[str, Rows], orders: Mapping[str, list[int]], most: int
) -> tuple[dict[str, list[int]], int]:
    """At most `most` rows of each group in seeded order, none whose content came before."""
    seen: set[object] = set()
    unique: dict[str, list[int]] = {}
    duplicates = 0
    for name, rows in groups.items():
        unique[name] = []
        for row in orders[name]:
            if len(unique[name]) == most:
                break
            key = rows.key(row)
            if key in seen:
                duplicates += 1
                continue
            seen.add(key)
            unique[name].append(row)
    return unique, duplicates


def quotas(available: Mapping[str, int], total: int) -> dict[str, int]:
    """How many of each group: equal shares, and what a small group lacks goes to the others."""
    wanted = dict.fromkeys(available, 0)
    left = min(total, sum(available.values()))
    while left:
        open_groups = [name for name in available if wanted[name] < available[name]]
        share = max(1, left // len(open_groups))
        for name in open_groups:
            more = min(share, available[name] - wanted[name], left)
            wanted[name] += more
            left -= more
    return wanted


def _alternate(rows: Mapping[str, list[int]]) -> list[Pick]:
    """One row of each group in turn, until all are through."""
    longest = max((len(found) for found in rows.values()), default=0)
    return [
        (name, found[i]) for i in range(longest) for name, found in rows.items() if i < len(found)
    ]
