"""Edge scores as numbers: the largest edges, and a map of components by components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.records import AttributedEdge, Matrix
from zsei.trace.edge_readers import Port
from zsei.trace.edge_scores import ScoredBlock


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How scores of samples become one number."""

    signed: bool
    """With labels: the mean over samples. Without: the root mean square over probes and samples."""

    def value(self, scores: Tensor) -> Tensor:
        """[s, n, ...] -> [...]."""
        if self.signed:
            return scores[0].double().mean(0)
        return scores.double().square().mean((0, 1)).sqrt()

    def spread(self, scores: Tensor) -> Tensor | None:
        """Standard deviation over samples: of the score, or of its size over the probes."""
        if scores.shape[1] < 2:
            return None
        if self.signed:
            return scores[0].double().std(0)
        return scores.double().square().mean(0).sqrt().std(0)


def largest_edges(
    blocks: Sequence[ScoredBlock],
    scale: Scale,
    most: int,
    shares: Mapping[str, Mapping[str, float]],
) -> tuple[AttributedEdge, ...]:
    """The `most` edges of largest |attribution|, largest first, then by name.

    Args:
        blocks: Scores of all edges.
        scale: How they become numbers.
        most: How many reach the record.
        shares: Place -> writer -> route share in it.
    """
    if not blocks:
        return ()
    values = [scale.value(block.scores) for block in blocks]
    sizes = torch.cat([value.abs().flatten() for value in values])
    least = float(sizes.topk(min(most, len(sizes))).values[-1])
    found = []
    for block, value in zip(blocks, values, strict=True):
        spread = scale.spread(block.scores)
        kept = value.abs() >= least
        for i, j in kept.nonzero().tolist():
            writer, (reader, port) = block.writers[i], block.readers[j]
            found.append(
                AttributedEdge(
                    writer=writer, reader=reader, port=port, attribution=float(value[i, j]),
                    std=None if spread is None else float(spread[i, j]),
                    n=block.scores.shape[1],
                    route_share=shares.get(block.place, {}).get(writer),
                )
            )  # fmt: skip
    found.sort(key=lambda e: (-abs(e.attribution), e.writer, e.reader, e.port))
    return tuple(found[:most])


def component_map(
    blocks: Sequence[ScoredBlock], scale: Scale, group: Mapping[str, str], order: Sequence[str]
) -> Matrix | None:
    """Writers by readers, each cell the effect of all its edges taken together.

    Scores add up before they become a number, so opposite edges cancel as they would in the model.

    Args:
        blocks: Scores of all edges.
        scale: How they become numbers.
        group: Writer or reader -> the row or column it is counted in; itself where it has none.
        order: Groups in the order in which they stand in the model.
    """
    total: dict[tuple[str, str], Tensor] = {}
    for block in blocks:
        rows = [group.get(writer, writer) for writer in block.writers]
        columns = [group.get(reader, reader) for reader, _ in block.readers]
        for row in dict.fromkeys(rows):
            for column in dict.fromkeys(columns):
                inside = block.scores[:, :, [r == row for r in rows]]
                cell = inside[:, :, :, [c == column for c in columns]].sum((2, 3))
                known = total.get((row, column))
                total[row, column] = cell if known is None else known + cell
    if not total:
        return None
    place = {name: i for i, name in enumerate(order)}
    rows = sorted({r for r, _ in total}, key=lambda n: (place.get(n, -1), n))
    columns = sorted({c for _, c in total}, key=lambda n: (place.get(n, len(place)), n))
    return Matrix(
        name="edge_attribution",
        title="What each writer gives each reader",
        rows=tuple(rows),
        columns=tuple(columns),
        values=tuple(
            tuple(
                float(scale.value(total[row, column])) if (row, column) in total else None
                for column in columns
            )
            for row in rows
        ),
        unit="Δ loss" if scale.signed else "RMS probe response",
        n=next(iter(total.values())).shape[1],
        note="heads and ports of one attention taken together; empty where nothing is read",
    )


def scored_alone(
    source: str, target: str, place: str, scores: Tensor, port: Port = "in"
) -> ScoredBlock:
    """One edge, scores [s, n], as a block."""
    return ScoredBlock(
        writers=(source,), readers=((target, port),), place=place, scores=scores[:, :, None, None]
    )
