"""The way back from a cut or a mask: training from there is as if it had never been, to the bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_cases import CASES, bits, decision_of, mlp, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zsei.errors import ModelError
from zsei.surgery.module_edit import Attribute, ModuleEdit, TensorCut
from zsei.training import undo as undo_module
from zsei.training.apply import apply_decision


def _twins(case: str) -> Any:
    """Two runs that are the same so far, each (model, optimizers, averages)."""
    runs = []
    for _ in range(2):
        model, loss, _ = CASES[case]()
        own = list(model.parameters())
        optimizers = [
            torch.optim.AdamW([p for p in own if p.ndim > 1], lr=1e-2),
            torch.optim.SGD([p for p in own if p.ndim <= 1], lr=1e-2, momentum=0.9),
        ]
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        train(model, optimizers, loss, 3, ema=average)
        runs.append((model, optimizers, average))
    _, loss, edit = CASES[case]()
    return *runs, loss, edit


@pytest.mark.parametrize(
    ("case", "mode"),
    [("mlp", "remove"), ("tied", "mask"), ("gpt2", "remove"),
     pytest.param("resnet", "remove", marks=pytest.mark.long),
     pytest.param("resnet", "mask", marks=pytest.mark.long),
     pytest.param("llama", "remove", marks=pytest.mark.long)],
)  # fmt: skip
@pytest.mark.parametrize("large", [None, 0])
def test_after_a_rollback_it_is_as_if_nothing_had_been_cut(
    case: str, mode: str, large: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, optimizers, average), (whole, its, its_average), loss, edit = _twins(case)
    folder = None
    if large is not None:
        folder = tmp_path
        monkeypatch.setattr(undo_module, "LARGE", 0)
    by_name = {n: p.detach().clone() for n, p in model.named_parameters()}
    kept = {n: p.clone() for n, p in by_name.items()}
    objects = [id(p) for p in model.parameters()]
    done = apply_decision(
        model, optimizers, decision_of(edit, mode), (average, by_name), folder=folder
    )
    assert done.outcome == "applied", done.reason
    assert bits(model) != bits(whole)
    assert len(list(tmp_path.glob("undo*"))) == (large is not None)
    train(model, optimizers, loss, 3, 3, ema=average)
    done.roll_back()
    assert list(tmp_path.glob("undo*")) == []
    assert bits(model) == bits(whole)
    assert [id(p) for p in model.parameters()] == objects
    assert bits(average) == bits(its_average)
    assert all(torch.equal(by_name[n], kept[n]) for n in kept)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    for a, b in zip(optimizers, its, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert getattr(model, "config", None) == getattr(whole, "config", None)
    ended = train(model, optimizers, loss, 4, 3, ema=average)
    assert ended == train(whole, its, loss, 4, 3, ema=its_average)
    assert bits(model) == bits(whole)
    assert bits(average) == bits(its_average)


def test_a_damaged_copy_leaves_the_cut_model_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loss, edit = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer], loss, 2)
    monkeypatch.setattr(undo_module, "LARGE", 0)
    done = apply_decision(model, optimizer, decision_of(edit), folder=tmp_path)
    (path,) = tmp_path.glob("undo*")
    path.write_bytes(path.read_bytes()[:-10])
    before, memory = bits(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ModelError, match="file not fully covered"):
        done.roll_back()
    assert bits(model) == before
    torch.testing.assert_close(optimizer.state_dict(), memory, rtol=0, atol=0)
    assert train(model, [optimizer], loss, 1)


def test_a_full_disk_refuses_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss, edit = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer], loss, 2)
    monkeypatch.setattr(undo_module, "LARGE", 0)
    (tmp_path / "file").write_text("no folder")
    before = bits(model)
    done = apply_decision(model, optimizer, decision_of(edit), folder=tmp_path / "file")
    assert (done.outcome, "nothing was cut" in done.reason) == ("refused", True)
    assert bits(model) == before


def test_running_statistics_come_with_a_removal_and_go_with_it() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
              nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2))  # fmt: skip
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cuts = tuple(
        TensorCut(name=name, axis=axis, removed=(1,))
        for name, axis in (("0.weight", 0), ("1.weight", 0), ("1.bias", 0), ("1.running_mean", 0),
                           ("1.running_var", 0), ("3.weight", 1))
    )  # fmt: skip
    edit = ModuleEdit(cuts=cuts, attributes=(
        Attribute(module="0", name="out_channels", value=3),
        Attribute(module="1", name="num_features", value=3),
        Attribute(module="3", name="in_channels", value=3),
    ))  # fmt: skip
    values = {"4.running_mean": (0.25, -1.0), "1.running_mean": (0.5, 0.5, 0.5)}
    wrong = decision_of(edit).model_copy(update={"buffers": {"4.running_mean": (1.0,)}})
    refused = apply_decision(model, optimizer, wrong)
    assert refused.outcome == "refused"
    assert "`4.running_mean` has 2 there and 1 arrived" in refused.reason
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())

    applied = apply_decision(
        model, optimizer, decision_of(edit).model_copy(update={"buffers": values})
    )
    assert applied.outcome == "applied", applied.reason
    for name, value in values.items():
        assert model.get_buffer(name).tolist() == list(value)
    model.train()(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    applied.roll_back()
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
