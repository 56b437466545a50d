"""A cut in the middle of training: the model and the optimizer's memory, against building anew."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cut_cases import CASES, bits, decision_of, mlp, real, train
from oracles.cutting import built_again
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zsei.surgery.module_edit import TensorCut, apply_module_edit
from zsei.training.apply import apply_decision


def _transformers_adafactor(parameters: Any) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=1e-2, relative_step=False, scale_parameter=True, beta1=0.9)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "transformers adafactor": _transformers_adafactor,
}


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices with weight decay, all else without, as is usual."""
    own = list(model.parameters())
    return [
        {"params": [p for p in own if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _same_as_built_again(case: str, kind: str) -> None:
    model, loss, edit = CASES[case]()
    optimizer = OPTIMIZERS[kind](_groups(model))
    train(model, [optimizer], loss, 3)
    wanted, its_optimizer = built_again(model, optimizer, edit)
    before = sum(p.numel() for p in model.parameters())
    done = apply_decision(model, optimizer, decision_of(edit))
    assert done.outcome == "applied", done.reason
    assert done.parameters == sum(p.numel() for p in wanted.parameters()) < before
    assert bits(model) == bits(wanted)
    assert train(model, [optimizer], loss, 4, 3) == train(wanted, [its_optimizer], loss, 4, 3)
    assert bits(model) == bits(wanted)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_built_anew(kind: str) -> None:
    _same_as_built_again("tied" if kind != "adamw" else "gpt2", kind)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_built_anew_everywhere(case: str, kind: str) -> None:
    _same_as_built_again(case, kind)


def test_the_model_is_the_same_object_and_equals_the_edited_copy() -> None:
    model, loss, edit = CASES["gpt2"]()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer], loss, 2)
    modules = {name: id(module) for name, module in model.named_modules()}
    wanted: Any = apply_module_edit(model, edit)
    assert apply_decision(model, optimizer, decision_of(edit)).outcome == "applied"
    assert bits(model) == bits(wanted)
    assert model.config.to_dict() == wanted.config.to_dict()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {id(module) for module in model.modules()} <= set(modules.values())
    assert [block.attn.layer_idx for block in model.transformer.h] == [0, 1]
    assert model.transformer.h[0].attn.num_heads == 2
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in model.parameters()
    }
    assert set(optimizer.state) == set(model.parameters())


def test_gradients_marks_and_groups_are_cut_alike() -> None:
    model, loss, edit = mlp()
    named = list(model.named_parameters())
    optimizer = torch.optim.SGD(
        [{"params": named[:1], "lr": 0.5}, {"params": named[1:]}], lr=0.1, momentum=0.9
    )
    train(model, [optimizer], loss, 2)
    weight, bias = model[0].weight, model[0].bias
    weight.mark = "kept"
    bias.requires_grad_(False)
    wanted = weight.grad[[0, 2, 3, *range(5, 24)]]
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    assert apply_decision(model, optimizer, decision_of(edit)).outcome == "applied"
    assert torch.equal(model[0].weight.grad, wanted)
    assert model[0].weight.mark == "kept"
    assert not model[0].bias.requires_grad
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]
    assert optimizer.param_groups[0]["params"][0] is model[0].weight
    assert optimizer.param_groups[1]["param_names"] == ["0.bias", *(n for n, _ in named[2:])]
    train(model, [optimizer], loss, 1)
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.05]


def test_several_optimizers_and_averages_in_every_form() -> None:
    model, loss, edit = CASES["gpt2"]()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    both = [torch.optim.RMSprop(matrices, lr=1e-3), torch.optim.Adam(vectors, lr=1e-3)]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    train(model, both, loss, 3, ema=average)
    by_name = {n: p.detach().clone() for n, p in average.module.named_parameters()}
    in_order = [p.detach().clone() for p in average.module.parameters()]
    copied = copy.deepcopy(average.module)
    wanted = apply_module_edit(average.module, edit)
    done = apply_decision(model, both, decision_of(edit), (average, by_name, in_order, copied))
    assert done.outcome == "applied", done.reason
    assert int(average.n_averaged) == 3
    assert bits(average.module) == bits(copied) == bits(wanted)
    own = dict(wanted.named_parameters())
    assert list(by_name) == list(own)
    assert all(torch.equal(by_name[name], own[name]) for name in own)
    assert all(torch.equal(a, b) for a, b in zip(in_order, own.values(), strict=True))
    train(model, both, loss, 2, 3, ema=average)
    assert int(average.n_averaged) == 5


def test_zero_units_that_go_change_neither_outputs_nor_training() -> None:
    """Units that are zero on both sides have no gradient, and what is left trains as before."""
    model, loss, edit = mlp()
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
        model[0].bias[[1, 4]] = 0
        model[2].weight[:, [1, 4]] = 0
    whole = copy.deepcopy(model)
    pair = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, whole)]
    for m, optimizer in zip((model, whole), pair, strict=True):
        train(m, [optimizer], loss, 3)
    assert apply_decision(model, pair[0], decision_of(edit)).outcome == "applied"
    x = real(99, 50, 8)
    torch.testing.assert_close(model(x), whole(x), rtol=1e-6, atol=1e-6)
    losses = [train(m, [o], loss, 20, 3) for m, o in zip((model, whole), pair, strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(model(x), whole(x), rtol=1e-4, atol=1e-4)


class Flattening(torch.optim.SGD):
    """Keeps one vector for several parameters, as fused libraries do."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["block"] = torch.zeros(p.numel() // 2 + 7)


class Remembering(torch.optim.SGD):
    """Keeps a list of what was."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["past"] = [p.detach().clone()]


def _cut(name: str, axis: int, *gone: int) -> Callable[[Any], Any]:
    cut = TensorCut(name=name, axis=axis, removed=gone)
    return lambda edit: edit.model_copy(update={"cuts": (*edit.cuts, cut)})


@pytest.mark.parametrize(
    ("optimizer_class", "spoil", "said"),
    [
        (torch.optim.LBFGS, lambda edit: edit, "LBFGS"),
        (Flattening, lambda edit: edit, "`block` of `0.weight`"),
        (Remembering, lambda edit: edit, "`past` of `0.weight` as list"),
        (torch.optim.AdamW, _cut("3.weight", 0, 1), "no parameter `3.weight`"),
        (torch.optim.AdamW, _cut("4.weight", 1, 24), r"\[3, 24\]"),
        (torch.optim.AdamW, _cut("4.weight", 2, 0), r"\[3, 24\]"),
        (torch.optim.AdamW, _cut("4.bias", 0, 0, 1, 2), "all entries"),
        (torch.optim.AdamW, lambda e: e.model_copy(update={"dropped": ("9",)}), "list of layers"),
        (torch.optim.AdamW, lambda e: e.model_copy(update={"dropped": ("9.x",)}), "no entry"),
        (torch.optim.AdamW, lambda e: e.model_copy(update={
            "attributes": (e.attributes[0].model_copy(update={"name": "nothing"}),)}), "no number"),
        (torch.optim.AdamW, lambda e: e.model_copy(update={
            "attributes": (e.attributes[0].model_copy(update={"module": "8"}),)}), "no module"),
        (torch.optim.AdamW, lambda e: None, "without the cut"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(
    optimizer_class: Any, spoil: Any, said: str
) -> None:
    model, loss, edit = mlp()
    optimizer = optimizer_class(model.parameters(), lr=1e-2)
    for step in range(2):
        optimizer.zero_grad()

        def closure(step: int = step) -> Any:
            value = loss(model, step)
            value.backward()
            return value

        optimizer.step(closure)
    objects = [id(p) for p in model.parameters()]
    before, memory = bits(model), copy.deepcopy(optimizer.state_dict())
    done = apply_decision(model, optimizer, decision_of(spoil(edit)))
    assert done.outcome == "refused"
    assert re.search(said, done.reason), done.reason
    assert bits(model) == before
    assert [id(p) for p in model.parameters()] == objects
    torch.testing.assert_close(optimizer.state_dict(), memory, rtol=0, atol=0)
    assert model[0].out_features == 24


def test_an_optimizer_that_is_not_named_is_noticed() -> None:
    model, _, edit = mlp()
    other = torch.optim.SGD(model[4].parameters(), lr=0.1)
    done = apply_decision(model, other, decision_of(edit))
    assert (done.outcome, "Give all optimizers" in done.reason) == ("refused", True)
    assert apply_decision(model, (), decision_of(edit)).outcome == "applied"


@pytest.mark.parametrize(
    "given",
    [{"approved_for_application": False, "rejection_reason": "too much"}, {"mode": "observe"}],
)
def test_only_what_is_approved_is_carried_out(given: dict[str, Any]) -> None:
    model, _, edit = mlp()
    before = bits(model)
    done = apply_decision(model, (), decision_of(edit, **given))
    assert done.outcome == "refused"
    assert bits(model) == before


@pytest.mark.parametrize("average", [{"odd": torch.zeros(3)}, [torch.zeros(2)], object()])
def test_an_average_of_something_else_is_refused(average: Any) -> None:
    model, _, edit = mlp()
    before = bits(model)
    optimizer = torch.optim.AdamW(model.parameters())
    for mode in ("remove", "mask"):
        done = apply_decision(model, optimizer, decision_of(edit, mode), (average,))
        if mode == "remove" or not isinstance(average, dict):
            assert done.outcome == "refused"
            assert bits(model) == before


def test_an_interrupt_between_two_changes_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zsei.training import changes

    model, loss, edit = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer], loss, 2)
    before, memory = bits(model), copy.deepcopy(optimizer.state_dict())
    real_make, made = changes._make, []

    def make(change: Any) -> None:
        made.append(change)
        if len(made) == 5:
            raise KeyboardInterrupt
        real_make(change)

    monkeypatch.setattr(changes, "_make", make)
    with pytest.raises(KeyboardInterrupt):
        apply_decision(model, optimizer, decision_of(edit))
    assert len(made) > 5
    assert bits(model) == before
    assert model[0].out_features == 24
    torch.testing.assert_close(optimizer.state_dict(), memory, rtol=0, atol=0)
    assert train(model, [optimizer], loss, 1, 2)
