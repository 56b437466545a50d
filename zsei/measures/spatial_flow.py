"""Which places of the image carry the decision, stage by stage."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.images import Stage, places, stages
from zsei.measures.modality import few_samples, image_input, rank_correlation, run_twin
from zsei.records import Matrix, Measurement
from zsei.subject.objective import divergence, readout
from zsei.subject.types import Batch
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class SpatialFlow:
    """Maps of where in the image the decision comes from, by gradient and by covering.

    Measures: the share of the objective's first-order sensitivity that stands in each cell of a
    coarse grid after a stage, and the exact effect of covering that cell of the input.

    Formula: share(cell) ∝ mean over rows r in the cell of |g_r · (a_r - ā)|, a_r [c] the stage's
    value at a sample and place, g_r the gradient there (of the loss; without labels of one random
    output direction), ā the mean over rows. Token stages use the places of their patches;
    extra_token_share is the share of tokens that have no place (CLS). spatial_spread = exp(entropy
    of the shares) / cells: 1 when all cells count alike. occlusion_map = E_n D when the mean image
    stands in the cell. spatial_flow_agreement: Spearman over cells of the first stage's shares with
    the covering effects.

    Reading it: a spread that falls with depth says that the decision gathers in few places; an
    extra-token share that rises says that it moves into the class token.

    Misleads when: objects always stand in the middle (then so does the map), or the loss is near
    zero on most samples: the few hard ones then draw the map. Covering makes edges of its own.

    References: Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks: visualising
    image classification models and saliency maps", 2014; Zeiler and Fergus, "Visualizing and
    understanding convolutional networks", ECCV 2014 (covering).
    """

    name: ClassVar[str] = "spatial-flow"

    grid: int = 4
    """Cells along a side, where the stage has as many places."""
    covered: int = 4
    """Samples whose cells are covered, one cell at a time."""
    maps: int = 3
    """Stages whose map is kept: first, last and between."""

    def measure(self, view: View) -> Measured:
        """Maps of a few stages, one of covering, spreads of all."""
        index = image_input(view.subject)
        if index is None:
            return Measured()
        known = stages(view)
        found: dict[str, tuple[Measurement, ...]] = {}
        shares: dict[str, Tensor] = {}
        for stage in known:
            shown = flow_map(view, stage, self.grid)
            if shown is None:
                continue
            share, extra, n = shown
            here: list[Measurement] = []
            if float(share.nansum()) > 0:
                shares[stage.component] = share
                flat = share[share > 0]
                even = float((-(flat * flat.log()).sum()).exp()) / int((~share.isnan()).sum())
                here.append(
                    Measurement(name="spatial_spread", value=even, unit="share of cells", n=n)
                )
            if extra is not None:
                here.append(Measurement(name="extra_token_share", value=extra, unit="share", n=n))
            found[stage.component] = tuple(here)
        if not shares:
            return Measured(measurements=found)
        chosen = torch.linspace(0, len(shares) - 1, self.maps).round().long().tolist()
        names = [list(shares)[i] for i in dict.fromkeys(chosen)]
        n = len(view.sample_groups)
        matrices = [
            _map("spatial_flow", f"Where the decision comes from, after {name}", shares[name],
                 "share", n, name)
            for name in names
        ]  # fmt: skip
        first = next(iter(shares))
        cover = occlusion(view, index, self.grid, self.covered)
        matrices.append(
            _map("occlusion_map", "Effect of covering each cell of the image", cover,
                 view.subject.objective.metric, min(self.covered, n), None)
        )  # fmt: skip
        known_cells = ~shares[first].isnan()
        if shares[first].shape == cover.shape and float(cover[known_cells].std()) > 0:
            value = rank_correlation(shares[first][known_cells], cover[known_cells])
            note = f"over {int(known_cells.sum())} cells" + (
                "; below 0.7: not validated" if value < 0.7 else ""
            )
            m = Measurement(name="spatial_flow_agreement", value=value, unit="Spearman",
                            n=min(self.covered, n), note=note)  # fmt: skip
            found[first] = (*found[first], m)
        return Measured(measurements=found, matrices=tuple(matrices))


def flow_map(view: View, stage: Stage, grid: int) -> tuple[Tensor, float | None, int] | None:
    """(share of each cell [y, x], share of tokens without a place, samples) of one stage.

    All shares are 0 where only tokens without a place count; NaN where no row was kept.
    """
    values, gradients = view.rows.get(stage.node), view.gradient_rows.get(stage.node)
    placed = places(view, stage)
    if values is None or gradients is None or placed is None or len(values) != len(gradients):
        return None
    size = ((values - values.mean(0)) * gradients).sum(1).abs().double()
    y, x, extra = placed
    rows, columns = min(grid, stage.height), min(grid, stage.width)
    cell = (y * rows // stage.height) * columns + x * columns // stage.width
    total = torch.zeros(rows * columns, dtype=torch.float64)
    count = torch.zeros(rows * columns, dtype=torch.float64)
    inside = ~extra
    total.index_add_(0, cell[inside], size[inside])
    count.index_add_(0, cell[inside], torch.ones(int(inside.sum()), dtype=torch.float64))
    # A cell that no kept row fell into is unknown, not empty.
    mean = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
    share = (mean / mean.nansum().clamp_min(1e-30)).view(rows, columns)
    outside = None
    if stage.extra and bool(extra.any()):
        apart = float(size[extra].mean()) * stage.extra
        whole = apart + float(size[inside].mean()) * stage.height * stage.width
        outside = apart / whole if whole > 0 else None
    return share, outside, len(view.row_samples[stage.node].unique())


def occlusion(view: View, index: int, grid: int, samples: int) -> Tensor:
    """Mean divergence [y, x] when the mean image stands in one cell of the input."""
    subject = view.subject
    few = few_samples(subject, samples)
    images = few.inputs[index]
    height, width = images.shape[2:]
    rows, columns = min(grid, height), min(grid, width)
    mean = torch.cat([b.inputs[index] for b in subject.calibration]).mean(0)
    clean = readout(subject.objective, run_twin(subject, few.inputs), few)
    found = torch.zeros(rows, columns, dtype=torch.float64)
    for y in range(rows):
        for x in range(columns):
            down = slice(_edge(y, rows, height), _edge(y + 1, rows, height))
            across = slice(_edge(x, columns, width), _edge(x + 1, columns, width))
            covered = images.clone()
            covered[:, :, down, across] = mean[:, down, across]
            seen = readout(subject.objective, run_twin(subject, _with(few, index, covered)), few)
            found[y, x] = divergence(subject.objective, seen, clean, few).double().mean()
    return found


def _edge(cell: int, cells: int, size: int) -> int:
    """First place of a cell: the smallest y with y · cells // size = cell."""
    return -(-cell * size // cells)


def _with(few: Batch, index: int, values: Tensor) -> tuple[Tensor, ...]:
    return tuple(values if i == index else given for i, given in enumerate(few.inputs))


def _map(name: str, title: str, values: Tensor, unit: str, n: int, component: str | None) -> Matrix:
    return Matrix(
        name=name,
        title=title,
        rows=tuple(f"y{i}" for i in range(values.shape[0])),
        columns=tuple(f"x{i}" for i in range(values.shape[1])),
        values=tuple(tuple(None if v != v else v for v in row) for row in values.tolist()),
        unit=unit,
        n=n,
        component=component,
    )
