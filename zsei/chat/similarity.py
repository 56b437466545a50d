"""How alike what components write is, measured on the batches that exact ablation uses."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.chat.records import Row
from zsei.records import Measurement
from zsei.subject.types import Batch, Site
from zsei.trace.rows import linear_cka, take_rows

ROWS = 512
"""Rows of each batch that a similarity is measured on at most."""


def similarities(components: Sequence[str], analysis: Analysis) -> list[Row]:
    """Linear CKA of what every two components write; heads by what each of them gives.

    Could not be told where positions differ, as behind a stride. Misleads as `linear_cka` does.
    """
    batches = analysis.importance.batches
    written = [_written(components, analysis, batch) for batch in batches]
    parts = {name: torch.cat([rows[name] for rows in written]) for name in components}
    samples = sum(batch.size for batch in batches)
    return [_row(pair, parts, samples) for pair in combinations(components, 2)]


def _row(pair: tuple[str, str], parts: dict[str, Tensor], samples: int) -> Row:
    first, second = (parts[name] for name in pair)
    fits = len(first) == len(second)
    found = Measurement(
        name="component_similarity",
        value=linear_cka(first, second) if fits else None,
        unit="CKA",
        n=samples,
        state="measured" if fits else "could not tell",
        note=f"from {len(first)} rows" if fits else "their positions differ",
    )
    return Row(components=pair, measurement=found)


def _written(components: Sequence[str], analysis: Analysis, batch: Batch) -> dict[str, Tensor]:
    """Component -> rows [r, c] of what it writes on one batch."""
    anatomy = analysis.subject.anatomy
    heads = {
        name: (site, index)
        for site in anatomy.sites
        if site.kind == "head"
        for index, name in enumerate(site.unit_ids)
        if name in components
    }
    nodes = {n: heads[n][0].node if n in heads else anatomy.outputs[n] for n in components}
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            seen[name] = value.detach().clone()

        return keep

    analysis.engine.run(batch, {node: keeper(node) for node in set(nodes.values())})
    found = {}
    for name, node in nodes.items():
        value = seen[node]
        axis = 1 if value.ndim == 4 else -1
        if name in heads:
            value, axis = _one_head(value, *heads[name]), -1
        found[name] = take_rows(value, axis, batch.mask, ROWS)
    return found


def _one_head(value: Tensor, site: Site, index: int) -> Tensor:
    """What one head gives, [n, t, d]."""
    assert site.axis is not None, "heads lie along an axis"
    axis = site.axis % value.ndim
    part = value.narrow(axis, index * site.unit_size, site.unit_size)
    return part.squeeze(axis) if site.unit_size == 1 and value.ndim == 4 else part
