"""Running statistics of batch norms behind a cut, against torch's own way of renewing them."""

import copy

import factories
import pytest
import torch
from torch import Tensor, nn

from zsei.checkpoint.decide.running_statistics import put_statistics, renewed_statistics
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.apply import apply_edits
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_edit import apply_module_edit
from zsei.surgery.module_form import run
from zsei.surgery.program_form import edit_program


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    blocks = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
              nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))  # fmt: skip
    model, images = nn.Sequential(*blocks), torch.randn(48, 1, 8, 8)
    model.train()
    for _ in range(60):
        model(images)  # the stored statistics are those of these images
    return model.eval(), images


def subject_of(model: nn.Module, data: Tensor) -> Subject:
    return prepare(model, data, settings=Settings(samples=48, batch_size=8))


def by_torch(model: nn.Module, subject: Subject) -> dict[str, Tensor]:
    """Averages over the batches, by batch norms that are asked to average."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    for batch in subject.calibration:
        run(model, subject.input_names, batch.inputs)
    return {n: b for n, b in model.named_buffers() if "running" in n}


def test_they_move_as_torch_renews_them_and_only_behind_the_cut() -> None:
    model, images = network()
    subject = subject_of(model, images)
    site = subject.anatomy.site("0", "channel")
    assert site is not None
    assert subject.program is not None
    edits = [RemoveUnits(site=site, units=(1, 4, 6))]
    edited = edit_program(subject.program, edits)
    found = renewed_statistics(subject.program, edited, edits, subject.calibration)
    assert set(found) == {"4.running_mean", "4.running_var"}

    smaller = apply_edits(subject, edits)
    assert smaller.module_edit is not None
    cut = apply_module_edit(subject.model, smaller.module_edit)
    before, after = by_torch(subject.model, subject), by_torch(cut, subject)
    stored = dict(model.named_buffers())
    mean = stored["4.running_mean"] + after["4.running_mean"] - before["4.running_mean"]
    variance = stored["4.running_var"] * after["4.running_var"] / before["4.running_var"]
    torch.testing.assert_close(found["4.running_mean"], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["4.running_var"], variance, rtol=1e-5, atol=1e-6)


def test_a_cut_is_nearer_to_the_original_with_them() -> None:
    model, images = network()
    subject = subject_of(model, images)
    site = subject.anatomy.site("0", "channel")
    assert site is not None
    assert subject.program is not None
    inputs = subject.held_out[0].inputs
    whole = subject.program(*inputs)
    nearer = []
    for unit in range(8):
        edits = [RemoveUnits(site=site, units=(unit,))]
        edited = edit_program(subject.program, edits)
        plain = float((edited(*inputs) - whole).norm())
        found = renewed_statistics(subject.program, edited, edits, subject.calibration)
        renewed = put_statistics(edited, found)
        nearer.append(float((renewed(*inputs) - whole).norm()) < plain)
    assert sum(nearer) >= 6


@pytest.mark.parametrize("family", ["tiny_gpt2", "tiny_bert"])
def test_without_batch_norms_there_is_nothing_to_renew(family: str) -> None:
    model, data = getattr(factories, family)()
    subject = prepare(model, data, settings=Settings(samples=16))
    assert subject.program is not None
    site = next(site for site in subject.anatomy.sites if site.kind == "neuron")
    edits = [RemoveUnits(site=site, units=(0,))]
    edited = edit_program(subject.program, edits)
    assert renewed_statistics(subject.program, edited, edits, subject.calibration) == {}
