"""The measures of vision models against slow second implementations, and where truth is known."""

from functools import cache

import numpy as np
import pytest
import torch
import zoo
from measures.views import matrix, named, value, view_of
from oracles.vision import block_average, chained_kernel, covered, effective_side
from prepared import SMALL, family, seeded, subject_of
from torch import Tensor, nn
from trained import TRAINED

from zsei.measures import ReceptiveField, Resolution, SpatialFlow, View
from zsei.measures.images import stages
from zsei.measures.modality import few_samples, image_input, run_twin
from zsei.measures.receptive_field import influences
from zsei.measures.resolution import coarser
from zsei.measures.spatial_flow import flow_map, occlusion, stage_sizes
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare

SETTINGS = Settings(samples=32, batch_size=16, probes=1)
VALUES = Objective(name="fidelity", output="values", reason="a test")


@cache
def trained(name: str) -> View:
    model, data = TRAINED[name]()
    return view_of(prepare(model, data, settings=SETTINGS), SETTINGS)


@cache
def pictures(planted: bool) -> View:
    made = zoo.early_pool(planted)
    return view_of(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)


class Boxes(nn.Module):
    """Convolutions whose weights are all one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 1, 3, 1, 1, bias=False)
        self.b = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
        self.c = nn.Conv2d(1, 1, 3, 1, 1, bias=False)
        for conv in (self.a, self.b, self.c):
            nn.init.ones_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class Corner(nn.Module):
    """A read-out that looks at one quarter of the image only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]).view(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x)[:, :, :4, 4:].square().mean((2, 3)))


def test_fields_of_box_filters_are_convolved_boxes() -> None:
    model = Boxes().eval()
    subject = subject_of(model, [seeded(4, 1, 32, 32)], VALUES, batch_size=4)
    view = view_of(subject, SMALL)
    found = ReceptiveField().measure(view)
    for component, depth in (("a", 1), ("b", 2), ("c", 3)):
        line = chained_kernel([3, 3, 3][:depth], [1, 2, 1][:depth])
        influence = np.outer(line, line) ** 2
        assert value(found, component, "receptive_field") == len(line)
        effective = value(found, component, "effective_receptive_field")
        assert effective == pytest.approx(effective_side(influence), rel=1e-5)
    [(_, seen), *_] = influences(view, 0, stages(view))
    assert seen.shape == (32, 32)


def test_fields_grow_with_depth() -> None:
    view = trained("cnn")
    found = ReceptiveField().measure(view)
    names = [stage.component for stage in stages(view)]
    assert names == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    sides = [value(found, name, "receptive_field") for name in names]
    assert sides == sorted(sides)
    assert sides[0] == 3
    assert all(
        value(found, name, "effective_receptive_field") <= value(found, name, "receptive_field")
        for name in names
    )


def test_a_model_that_looks_at_one_quarter_is_mapped_there() -> None:
    subject = subject_of(Corner().eval(), [seeded(16, 1, 8, 8)], VALUES, batch_size=8)
    view = view_of(subject, SMALL)
    found = SpatialFlow().measure(view)
    quarter = torch.tensor(matrix(found, "spatial_flow").values, dtype=torch.float64)
    assert float(quarter[:2, 2:].sum()) == pytest.approx(1)
    cover = torch.tensor(matrix(found, "occlusion_map").values, dtype=torch.float64)
    assert float(cover[:2, 2:].min()) > 0
    assert float(cover.sum() - cover[:2, 2:].sum()) == 0
    assert value(found, "conv", "spatial_spread") <= 0.25 + 1e-6


def test_maps_are_sums_over_every_place() -> None:
    """y = Σ w x² with known w: |g (a - ā)| is known at every place."""
    subject = subject_of(Corner().eval(), [seeded(8, 1, 8, 8)], VALUES, batch_size=8)
    view = view_of(subject, SMALL)
    [stage] = [s for s in stages(view) if s.component == "conv"]
    size = stage_sizes(view, (stage,))["conv"].view(8, 8, 8)
    share, extra = flow_map(size.flatten(1), stage, 4)
    assert extra is None
    total = float(size.sum())
    for y in range(4):
        for x in range(4):
            cell = sum(
                float(size[n, i, j])
                for n in range(8)
                for i in (2 * y, 2 * y + 1)
                for j in (2 * x, 2 * x + 1)
            )
            assert float(share[y, x]) == pytest.approx(cell / total, abs=1e-9)


def test_covering_is_what_it_says() -> None:
    view = pictures(False)
    few = few_samples(view.subject, 2).inputs[0]
    mean = torch.cat([b.inputs[0] for b in view.subject.calibration]).mean(0)
    found = occlusion(view, 0, 4, 2)

    def model(images: Tensor) -> Tensor:
        return run_twin(view.subject, (images,))

    expected = covered(model, few, mean, slice(4, 8), slice(12, 16))
    assert float(found[1, 3]) == pytest.approx(expected, rel=1e-4)


def test_a_coarser_image_is_the_mean_of_its_blocks() -> None:
    view = pictures(False)
    few = few_samples(view.subject, 4)
    sides, effects, losses = coarser(view.subject, 0, 4)
    assert sides == [1, 2, 4, 8, 16]
    assert losses is None
    images = torch.stack([block_average(image, 4) for image in few.inputs[0]])
    clean, now = run_twin(view.subject, few.inputs), run_twin(view.subject, (images,))
    expected = (now - clean).norm(dim=1) / clean.norm(dim=1)
    assert effects[:, 2].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_what_an_early_pool_drops_is_not_missed() -> None:
    pooled, whole = Resolution().measure(pictures(True)), Resolution().measure(pictures(False))
    assert value(pooled, "input.images", "resolution_needed") == 4
    assert value(whole, "input.images", "resolution_needed") == 16
    assert value(pooled, "pool", "places") == 16
    room = value(pooled, "pool", "spatial_capacity")
    assert room < 0.2 * value(pooled, "input.images", "spatial_capacity")
    assert named(pooled, "pool")["channel_use"].value == pytest.approx(1, abs=0.05)


@pytest.mark.long
def test_the_class_token_gathers_the_decision() -> None:
    view = trained("vit")
    found = SpatialFlow().measure(view)
    layers = [f"vit.layers.{i}" for i in range(4)]
    shares = [value(found, layer, "extra_token_share") for layer in layers]
    assert shares[-1] == pytest.approx(1)
    assert shares[0] < shares[-1]
    for layer in layers[:-1]:
        assert 0 < value(found, layer, "spatial_spread") <= 1


def test_what_sees_no_image_has_no_such_numbers() -> None:
    view = view_of(family("gpt2"), SMALL)
    assert image_input(view.subject) is None
    for measure in (SpatialFlow(), ReceptiveField(), Resolution()):
        assert measure.measure(view).measurements == {}
