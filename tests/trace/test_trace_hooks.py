"""The module engine: true values, and not a hook left behind, whatever happens."""

from collections.abc import Iterator

import pytest
import torch
from factories import tiny_encoder, tiny_mlp
from torch import Tensor, nn

from zsei.subject.types import Batch, Replacement, Site
from zsei.trace.hooks import ModuleEngine


@pytest.fixture
def engine() -> Iterator[ModuleEngine]:
    model, _ = tiny_mlp()
    yield ModuleEngine(model, ["input"])
    assert _hooks(model) == 0


def _hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def _batch(model: str = "mlp") -> Batch:
    data = tiny_mlp()[1][0] if model == "mlp" else tiny_encoder()[1]["sequence"]
    return Batch(inputs=(data[:8],), groups=("data",) * 8)


def _site(node: str = "0", **changes: object) -> Site:
    given = {"component": node, "kind": "neuron", "node": node, "axis": 1, "units": 24} | changes
    return Site(**given)


def test_values_are_the_modules_own(engine: ModuleEngine) -> None:
    seen: dict[str, Tensor] = {}
    output = engine.run(_batch(), {"0": lambda v: seen.__setitem__("0", v)})
    x = _batch().inputs[0]
    model = engine.model
    assert isinstance(model, nn.Sequential)
    assert torch.equal(seen["0"], model[0](x))
    assert torch.equal(output, model(x))


def test_a_watched_value_can_be_replaced(engine: ModuleEngine) -> None:
    edited = engine.run(_batch(), {"0": lambda v: v * 2})
    model = engine.model
    assert isinstance(model, nn.Sequential)
    hidden = model[0](_batch().inputs[0]) * 2
    assert torch.equal(edited, model[1:](hidden))


def test_a_sweep_replaces_units_and_leaves_the_rest(engine: ModuleEngine) -> None:
    edits = [
        Replacement(site=_site(), units=(3,), value=torch.zeros(1, 24)),
        Replacement(site=_site(), units=(0, 5), value=torch.ones(1, 24)),
    ]
    model = engine.model
    assert isinstance(model, nn.Sequential)
    for index, output in engine.sweep(_batch(), edits):
        hidden = model[0](_batch().inputs[0]).detach().clone()
        for unit in edits[index].units:
            hidden[:, unit] = float(index)
        assert torch.equal(output, model[1:](hidden))


def test_a_layer_is_bypassed_by_its_input() -> None:
    model, _ = tiny_encoder()
    engine = ModuleEngine(model, ["sequence"])
    layers = [f"encoder.layers.{i}" for i in range(2)]
    sites = [_site(node, kind="layer", axis=None, units=1) for node in layers]
    edits = [Replacement(site=site, units=(0,), value=None) for site in sites]
    outputs = dict(engine.sweep(_batch("encoder"), edits))
    x = _batch("encoder").inputs[0]
    one, two = (model.get_submodule(name) for name in layers)
    with torch.no_grad():
        assert torch.allclose(outputs[0], model.head(two(x).mean(1)), atol=1e-6)
        assert torch.allclose(outputs[1], model.head(one(x).mean(1)), atol=1e-6)
    assert _hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_go_when_something_stops_the_run(
    engine: ModuleEngine, error: type[BaseException]
) -> None:
    def stop(value: Tensor) -> None:
        raise error("stop")

    with pytest.raises(error):
        engine.run(_batch(), {"0": lambda v: None, "2": stop})
    assert _hooks(engine.model) == 0


def test_hooks_go_when_a_sweep_is_left_or_fails(engine: ModuleEngine) -> None:
    edit = Replacement(site=_site(), units=(0,), value=torch.zeros(1, 24))
    sweep = engine.sweep(_batch(), [edit, edit])
    next(sweep)
    sweep.close()
    assert _hooks(engine.model) == 0
    unfitting = Replacement(site=_site(axis=7), units=(0,), value=torch.zeros(1, 24))
    with pytest.raises(IndexError):
        list(engine.sweep(_batch(), [unfitting]))
    assert _hooks(engine.model) == 0


def test_leaf_modules_are_timed(engine: ModuleEngine) -> None:
    seconds = engine.seconds(_batch(), repeats=2)
    assert set(seconds) == {"0", "1", "2", "3", "4"}
    assert all(value > 0 for value in seconds.values())


def test_a_main_tensor_inside_a_tuple_is_replaced() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    engine = ModuleEngine(Pair().eval(), ["x"])
    batch = Batch(inputs=(torch.ones(2, 5, 3),), groups=("data",) * 2)
    zeroed = engine.run(batch, {"rnn": torch.zeros_like})
    assert torch.equal(zeroed, torch.zeros(2, 5, 4))
