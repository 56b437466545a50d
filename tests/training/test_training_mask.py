"""What is held at zero: outputs as if it were taken out, through training."""

import copy
import pickle
from typing import Any

import pytest
import torch
from cut_cases import CASES, bits, decision_of, mlp, real, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zsei.surgery.module_edit import apply_module_edit
from zsei.training.apply import apply_decision


def _outputs(case: str, model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        _, loss, _ = CASES[case]()
        return loss(model, 77)


@pytest.mark.parametrize(
    "case",
    ["mlp", "gpt2"]
    + [pytest.param(c, marks=pytest.mark.long) for c in ("bert", "llama", "resnet")],
)
def test_masked_computes_what_removed_computes(case: str) -> None:
    model, _, edit = CASES[case]()
    edit = edit.model_copy(update={"dropped": (), "config": ()})
    removed = apply_module_edit(model, edit)
    shapes = [p.shape for p in model.parameters()]
    assert apply_decision(model, (), decision_of(edit, "mask")).outcome == "applied"
    assert [p.shape for p in model.parameters()] == shapes
    torch.testing.assert_close(_outputs(case, model), _outputs(case, removed), rtol=1e-5, atol=1e-6)


def test_entries_stay_zero_through_training_until_released() -> None:
    """Every other neuron's weight would move: its gradient is not zero, as sigmoid(0) is not."""
    torch.manual_seed(4)
    layers = (torch.nn.Linear(8, 24), torch.nn.Sigmoid(), torch.nn.Linear(24, 3))
    model: Any = torch.nn.Sequential(*layers)
    _, loss, edit = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    train(model, [optimizer], loss, 3, ema=average)
    plain_state = pickle.dumps(optimizer.state_dict())
    done = apply_decision(model, optimizer, decision_of(edit, "mask"), (average,))
    assert (done.outcome, done.reason) == ("applied", "2 neurons held at zero")
    train(model, [optimizer], loss, 6, 3, ema=average)
    both: list[Any] = [model, average.module]
    for held in both:
        assert bool((held[0].weight[[1, 4]] == 0).all())
        assert bool((held[0].bias[[1, 4]] == 0).all())
        assert bool((held[2].weight[:, [1, 4]] == 0).all())
    state = optimizer.state[model[2].weight]
    assert bool((state["exp_avg"][:, [1, 4]] == 0).all())
    assert bool((state["exp_avg"][:, [0, 2]] != 0).all())
    assert bool((model[2].weight[:, [0, 2, 3]] != 0).all())
    assert len(pickle.dumps(optimizer.state_dict())) == len(plain_state)
    assert pickle.loads(pickle.dumps(optimizer))
    assert done.held is not None
    done.held.release()
    train(model, [optimizer], loss, 2, 9)
    assert bool((model[2].weight[:, [1, 4]] != 0).any())


def test_a_model_that_changed_under_a_mask_does_not_stop_training() -> None:
    model, loss, edit = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    done = apply_decision(model, optimizer, decision_of(edit, "mask"))
    model[0] = torch.nn.Sequential(model[0])
    train(model, [optimizer], loss, 2)
    assert done.held is not None
    assert "KeyError" in done.held.failed
    before = bits(model)
    train(model, [optimizer], loss, 1)
    assert bits(model) != before


@pytest.mark.parametrize("name", ["9.weight", "0.weight"])
def test_a_mask_that_does_not_fit_is_refused(name: str) -> None:
    model, _, edit = mlp()
    cuts = (edit.cuts[0].model_copy(update={"name": name, "removed": (24,)}),)
    before = bits(copy.deepcopy(model))
    done = apply_decision(model, (), decision_of(edit.model_copy(update={"cuts": cuts}), "mask"))
    assert done.outcome == "refused"
    assert bits(model) == before
    assert real(1, 2, 8).shape == (2, 8)
