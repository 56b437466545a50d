"""Experts and layers: what goes first, what stands in their place, and the limits on both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
import trained
from torch import nn

from zsei.pruning.cut import REPAIRS, make_cut
from zsei.pruning.experts import expert_curves
from zsei.pruning.layers import layer_options, without_layers
from zsei.pruning.measure import merit_of, reference_of
from zsei.pruning.records import edits_of, taken_of
from zsei.pruning.search import scored
from zsei.pruning.task import Task, measured
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.surgery.edits import BypassLayer, ReplaceLayer


def task_of(model: nn.Module, data: Any, *kinds: Any, **more: Any) -> Task:
    """All but the last calibration batch fit."""
    settings = Settings(samples=64, batch_size=8, min_channels=4, max_layer_share=0.5, **more)
    subject = prepare(model, data, settings=settings)
    batches = subject.calibration
    return Task(
        subject=subject, fit=batches[:-1], choose=reference_of(subject, batches[-1:]),
        kinds=kinds, settings=settings,
    )  # fmt: skip


@pytest.mark.long
def test_the_expert_that_hurts_least_goes_first_and_top_k_stay() -> None:
    model, data = factories.tiny_mixtral()
    data = {"input_ids": factories.token_ids(64)}
    task = task_of(model, data, "experts")
    curves, refused = scored(task, (), task.original, lambda share: None)
    assert refused == {}
    assert [curve.place.left.site.kind for curve in curves] == ["expert", "expert"]
    for curve in curves:
        site = curve.place.left.site
        assert len(curve.groups) == site.units - 2  # two experts serve each token
        losses = []
        for expert in range(site.units):
            from zsei.surgery.edits import RemoveUnits

            program = make_cut(
                task.original, [RemoveUnits(site=site, units=(expert,))], (), "none"
            ).program
            losses.append(merit_of(program, task.subject, task.choose).loss)
        wanted = sorted(range(site.units), key=lambda i: losses[i])[: len(curve.groups)]
        assert list(curve.groups) == wanted
        assert curve.place.parameters > 0


@pytest.mark.long
def test_experts_go_by_the_command_and_the_model_is_a_mixture_still(tmp_path: Path) -> None:
    from zsei.pruning.prune import prune, prune_settings
    from zsei.pruning.records import Budget

    model, _ = factories.tiny_mixtral()
    data = {"input_ids": factories.token_ids(64)}
    done = prune(
        model, data, budget=Budget(parameters=0.9, max_drop=0.9), kinds=("experts",),
        settings=prune_settings(samples=64, batch_size=8, home=tmp_path, bootstrap=200),
    )  # fmt: skip
    assert done.record.verdict is not None
    assert done.record.verdict.outcome == "accepted", done.record.verdict.reason
    assert {one.kind for one in done.record.points[-1].taken} == {"expert"}
    assert done.edited is not None
    with torch.no_grad():
        assert done.edited.model(**data).logits.shape[0] == 64
    assert expert_curves(replace(Task(**_fields(done)), kinds=("experts",)), ())[1] == {}


def _fields(done: Any) -> dict[str, Any]:
    batches = done.subject.calibration
    return {
        "subject": done.subject, "fit": batches[:-1], "kinds": ("experts",),
        "choose": reference_of(done.subject, batches[-1:]), "settings": Settings(),
    }  # fmt: skip


class Layer(nn.Module):
    """A residual layer; one that does not bend is a linear map as a whole."""

    def __init__(self, width: int, bends: bool):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.bends = bends

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self.up(x)
        return x + self.down(torch.relu(inside) if self.bends else inside)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(8, bends=i != 1) for i in range(4)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_a_map_that_can_stand_in_exactly_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = task_of(Stack(), {"x": torch.randn(256, 5, 8)}, "layers", home=tmp_path)
    site = task.subject.anatomy.site("layers.1", "layer")
    assert site is not None
    for repair in REPAIRS:
        mapped = measured(
            task, (ReplaceLayer(site=site, form="linear"),), number=1, variant="", predicted=0.0,
            repair=repair,
        )  # fmt: skip
        bypassed = measured(
            task, (BypassLayer(site=site),), number=1, variant="", predicted=0.0, repair=repair
        )
        assert mapped is not None
        assert bypassed is not None
        # The ridge that draws the map to the identity costs a little.
        assert mapped.point.loss < 1e-3 < bypassed.point.loss
    edit = ReplaceLayer(site=site, form="linear")
    assert edits_of(taken_of([edit]), task.subject.anatomy) == (edit,)


def test_layer_options_are_the_measured_best_and_end_at_the_share() -> None:
    torch.manual_seed(0)
    task = task_of(Stack(), {"x": torch.randn(64, 5, 8)}, "layers")
    options = list(layer_options(task, ()))
    losses = {}
    for site in task.subject.anatomy.sites:
        if site.kind == "layer":
            program = make_cut(task.original, [BypassLayer(site=site)], (), "none").program
            losses[site.component] = merit_of(program, task.subject, task.choose).loss
    best = min(losses, key=lambda name: losses[name])
    assert {edits[-1].site.component for _, edits in options} == {best}
    gone = [s for s in task.subject.anatomy.sites if s.kind == "layer"][:2]
    assert list(layer_options(task, [BypassLayer(site=site) for site in gone])) == []
    none = replace(task, kinds=("heads",))
    assert list(layer_options(none, ())) == []


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_layers_are_never_worse_than_block_influence_chooses(count: int) -> None:
    model: Any
    model, data = trained.trained_vit()
    task = task_of(model, data, "layers")
    found = without_layers(task, count)
    assert found is not None
    assert len(found.point.taken) == count
    influence = []
    inputs = [batch.inputs[0] for batch in task.fit]
    for layer in range(4):
        turned = 0.0
        for images in inputs:
            with torch.no_grad():
                hidden = model.vit(pixel_values=images, output_hidden_states=True).hidden_states
            turned += float(
                (1 - torch.cosine_similarity(hidden[layer], hidden[layer + 1], -1)).sum()
            )
        influence.append(turned)
    order = sorted(range(4), key=lambda i: influence[i])[:count]
    sites = [s for s in task.subject.anatomy.sites if s.kind == "layer"]
    plain = make_cut(task.original, [BypassLayer(site=sites[i]) for i in order], (), "none")
    assert found.point.loss <= merit_of(plain.program, task.subject, task.choose).loss + 1e-9
