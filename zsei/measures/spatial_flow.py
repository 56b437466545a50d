"""Which places of the image carry the decision, stage by stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from zsei.measures.images import Stage, stages
from zsei.measures.modality import few_samples, image_input, rank_correlation, run_twin
from zsei.records import Matrix, Measurement
from zsei.subject.objective import divergence, loss, probes, readout
from zsei.subject.types import Batch
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class SpatialFlow:
    """Maps of where in the image the decision comes from, by gradient and by covering.

    Measures: the share of the objective's first-order sensitivity that stands in each cell of a
    coarse grid after a stage, and the exact effect of covering that cell of the input.

    Formula: share(cell) ∝ mean over samples and places of the cell of |g · (a - ā)|, a [c] the
    stage's value at a sample and place, g the gradient there (of the loss; without labels of one
    random output direction), ā the mean over samples and places of one batch. Token stages use the
    places of their patches; extra_token_share is the share of tokens that have no place (CLS).
    spatial_spread = exp(entropy of the shares) / cells: 1 when all cells count alike. occlusion_map
    = E_n D when the mean image stands in the cell. spatial_flow_agreement: Spearman over cells of
    the first stage's shares with the covering effects.

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
        sizes = stage_sizes(view, known)
        n = view.subject.calibration[0].size
        found: dict[str, tuple[Measurement, ...]] = {}
        shares: dict[str, Tensor] = {}
        for stage in known:
            if stage.component not in sizes:
                continue
            share, extra = flow_map(sizes[stage.component], stage, self.grid)
            here: list[Measurement] = []
            if float(share.sum()) > 0:
                shares[stage.component] = share
                flat = share[share > 0]
                even = float((-(flat * flat.log()).sum()).exp()) / share.numel()
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
        if shares[first].shape == cover.shape and float(cover.std()) > 0:
            value = rank_correlation(shares[first].flatten(), cover.flatten())
            sure = "; below 0.7: not validated" if value < 0.7 else ""
            m = Measurement(name="spatial_flow_agreement", value=value, unit="Spearman",
                            n=min(self.covered, n),
                            note=f"over {cover.numel()} cells{sure}")  # fmt: skip
            found[first] = (*found[first], m)
        return Measured(measurements=found, matrices=tuple(matrices))


def stage_sizes(view: View, known: tuple[Stage, ...]) -> dict[str, Tensor]:
    """Component -> |g · (a - ā)| summed over channels, [n, extra + y · x], on one batch.

    Whole maps rather than kept rows: rows at even steps fall into a few columns of large maps.
    """
    batch, objective = view.subject.calibration[0], view.subject.objective
    alive: dict[str, Tensor] = {}

    def tape(component: str) -> Callable[[Tensor], Tensor]:
        def see(value: Tensor) -> Tensor:
            value = value if value.requires_grad else value.detach().requires_grad_()
            alive[component] = value
            return value

        return see

    generator = torch.Generator().manual_seed(view.settings.seed)
    with torch.enable_grad():
        output = view.engine.run(batch, {stage.node: tape(stage.component) for stage in known})
        seen = readout(objective, output, batch)
        if objective.supervised:
            scalar = loss(objective, seen, batch).sum()
        else:
            scalar = probes(objective, seen, batch, 1, generator)[0].sum()
        stages_seen = [stage for stage in known if stage.component in alive]
        gradients = torch.autograd.grad(
            scalar, [alive[stage.component] for stage in stages_seen], allow_unused=True
        )
    found: dict[str, Tensor] = {}
    for stage, gradient in zip(stages_seen, gradients, strict=True):
        if gradient is None:
            continue
        axis = 2 if stage.tokens else 1
        value = alive[stage.component].detach()
        centred = value - value.mean([i for i in range(value.ndim) if i != axis], keepdim=True)
        found[stage.component] = (centred * gradient).sum(axis).abs().flatten(1).double()
    return found


def flow_map(size: Tensor, stage: Stage, grid: int) -> tuple[Tensor, float | None]:
    """(share of each cell [y, x], share of tokens without a place) of one stage.

    All shares are 0 where only tokens without a place count.
    """
    mean = size.mean(0)
    inside = mean[stage.extra :].view(1, 1, stage.height, stage.width)
    rows, columns = min(grid, stage.height), min(grid, stage.width)
    cells = F.adaptive_avg_pool2d(inside, (rows, columns))[0, 0]
    share = cells / cells.sum().clamp_min(1e-30)
    if not stage.extra:
        return share, None
    whole = float(mean.sum())
    return share, float(mean[: stage.extra].sum()) / whole if whole > 0 else None


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
        values=tuple(tuple(row) for row in values.tolist()),
        unit=unit,
        n=n,
        component=component,
    )
