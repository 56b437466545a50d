"""Parameters one by one: their importance is |w · g|, and what is dead is told in time."""

import numpy as np
import torch
from torch import nn

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.history.sketch import empty_sketch, estimate, parameter_keys
from zsei.checkpoint.measure.follow_parameters import (
    dead_parameters,
    entries_of,
    followed_entries,
    followed_sizes,
    observe_parameters,
)
from zsei.checkpoint.tasks import GroupMeasure


def config(**elesh: object) -> CheckpointConfig:
    return CheckpointConfig.model_validate({"elesh": elesh})


def group(followed: dict[str, bytes]) -> GroupMeasure:
    return GroupMeasure(layers=(0,), depth="full", sites=(), measurements={}, followed=followed)


def test_importance_is_weight_times_gradient_at_the_same_entries_every_time() -> None:
    linear = nn.Linear(5, 4)
    linear(torch.ones(1, 5)).square().sum().backward()
    weights = dict(linear.named_parameters())
    gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
    found = followed_entries(weights, gradients, 2, config(statistical_samples=10))
    assert list(found) == ["bias[4]", "weight[4,5]"]
    all_of_it = (linear.weight * gradients["weight"]).abs().flatten()
    chosen = entries_of(20, 2, config(statistical_samples=10))
    assert len(chosen) == len(set(chosen.tolist())) == 10
    assert (chosen[0], chosen[-1]) == (0, 19)
    np.testing.assert_allclose(
        np.frombuffer(found["weight[4,5]"], np.float32), all_of_it[chosen].detach()
    )


def test_all_parameters_together_fit_the_sketch() -> None:
    small = config(sketch_width=100, statistical_samples=10_000)
    assert len(entries_of(10**6, 20, small)) == 5
    assert len(entries_of(3, 20, small)) == 3
    assert len(entries_of(10**6, 2, config(statistical_samples=7))) == 7


def test_gradients_that_are_no_numbers_are_left_out() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    gradients = {"a": torch.tensor([1.0, torch.nan]), "b": torch.tensor([0.0, 2.0])}
    assert list(followed_entries(weights, gradients, 2, config())) == ["b[2]"]


def test_a_parameter_of_two_groups_is_added_once() -> None:
    data = np.array([1.0, 0.0, 2.0], dtype=np.float32).tobytes()
    groups = [group({"w[3]": data}), group({"w[3]": data})]
    sketch = observe_parameters(empty_sketch(1000, 4), groups)
    assert followed_sizes(groups) == {"w[3]": 3}
    np.testing.assert_allclose(estimate(sketch, parameter_keys("w[3]", 3)), [1, 0, 2], atol=1e-6)
    assert observe_parameters(sketch, []) is sketch


def test_planted_dead_entries_are_found_after_59_checkpoints_and_no_others() -> None:
    sketch = empty_sketch(5000, 5)
    live = np.array([0.1, 0, 0, 0.1, 1e-12, 0.2], dtype=np.float32)
    sizes = {"a.weight[6]": 6, "b.weight[2,4]": 8}
    rare = np.array([0, 0, 0, 0, 0, 0, 0, 0.5], dtype=np.float32)
    for number in range(59):
        woken = rare if number % 10 == 9 else np.zeros(8, dtype=np.float32)
        found = {"a.weight[6]": live.tobytes(), "b.weight[2,4]": woken.tobytes()}
        sketch = observe_parameters(sketch, [group(found)])
        if number == 57:
            assert dead_parameters(sketch, sizes, 58, config()) == {}
    assert dead_parameters(sketch, sizes, 59, config()) == {"a.weight": 3, "b.weight": 7}
    cut = {"a.weight[5]": 5} | sizes
    seen = {"a.weight[6]": 59, "b.weight[2,4]": 0}
    assert dead_parameters(sketch, cut, seen, config()) == {"a.weight": 3}
