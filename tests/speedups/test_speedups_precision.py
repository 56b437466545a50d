"""Lower precision does what rounding by hand does, to the parts it names, and to nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from oracles.precision import bfloat16, bfloat16_linear
from precision_models import Cancelling, cancelling, linear, of_family, workload
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused, UsageError
from zsei.speedups import carry_out
from zsei.speedups.lower_precision import LowerPrecision, LowerPrecisionParams
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import Step
from zsei.speedups.weighted import grouped, paths_of, weighted
from zsei.speedups.workload import Workload
from zsei.subject.program import model_hash

FAMILIES = ("gpt2", "llama", "mixtral", "resnet", "lstm", "encoder", "patchtst")
LONG = [pytest.param(name, marks=pytest.mark.long) for name in FAMILIES]
"""Families that take longer to prepare than to lower."""


def lowered(given: Workload, **params: Any) -> Runnable:
    return carry_out((Step(speedup="lower-precision", params=params),), given)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def test_the_oracle_rounds_as_torch_does() -> None:
    values = torch.randn(500) * 10 ** torch.linspace(-6, 6, 500)
    wanted = values.to(torch.bfloat16).tolist()
    assert [bfloat16(value) for value in values.tolist()] == wanted


def test_a_linear_layer_is_what_rounded_operands_give() -> None:
    given = linear()
    layer = given.model[0]  # type: ignore[index]
    x = given.held_out[0].inputs[0]
    wanted = bfloat16_linear(array(x), array(layer.weight), array(layer.bias))  # type: ignore[union-attr]
    found = array(lowered(given)([x]))
    # The product may be rounded before the bias is added, which is one rounding more.
    assert np.abs(found - wanted).max() <= 2**-7 * np.abs(wanted).max()
    assert np.abs(found - array(given.model(x))).max() > 0


@pytest.mark.parametrize("name", ["bert", *LONG])
def test_whole_models_run_lowered_and_answer_in_float32(name: str) -> None:
    given = of_family(name)
    before, dtype = model_hash(given.model), torch.get_default_dtype()
    inputs = given.held_out[0].inputs
    clean = bare(given.model, given.input_names)(inputs)
    found = lowered(given)(inputs)
    assert found.dtype == torch.float32
    assert found.shape == clean.shape
    assert 0 < float((found - clean).norm() / clean.norm()) < 0.05
    assert model_hash(given.model) == before
    assert torch.get_default_dtype() == dtype


@pytest.mark.parametrize("name", ["bert", *LONG])
def test_every_weighted_part_can_be_lowered_alone(name: str) -> None:
    given = of_family(name)
    inputs = given.held_out[0].inputs
    clean = bare(given.model, given.input_names)(inputs)
    assert weighted(given)
    for part in weighted(given)[-4:]:
        runnable = lowered(given, components=[part.id])
        types = {
            path for path, weight in runnable.module.named_parameters()
            if weight.dtype == torch.bfloat16
        }  # fmt: skip
        assert types
        assert all(path.startswith(f"{part.path}.") for path in types)
        assert 0 < float((runnable(inputs) - clean).norm() / clean.norm()) < 0.05


@pytest.mark.long
def test_weights_that_two_modules_share_stay_one() -> None:
    twin = lowered(of_family("gpt2")).module
    assert twin.lm_head.weight is twin.transformer.wte.weight  # type: ignore[union-attr]


@pytest.mark.long
def test_a_part_of_tied_weights_leaves_the_other_in_float32() -> None:
    twin = lowered(of_family("gpt2"), components=["lm_head"]).module
    assert twin.lm_head.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert twin.transformer.wte.weight.dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.long
def test_tables_that_are_not_saved_keep_their_precision() -> None:
    twin = lowered(of_family("llama")).module
    tables = dict(twin.named_buffers())
    assert {t.dtype for n, t in tables.items() if n.endswith("inv_freq")} == {torch.float32}


class Doubled(nn.Module):
    """Adds a table that is not saved to what a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("table", torch.ones(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + self.table)


def test_tables_are_turned_where_the_model_cannot_run_otherwise() -> None:
    twin = lowered(workload(Doubled(), [torch.randn(8, 8)])).module
    assert twin.table.dtype == torch.bfloat16  # type: ignore[union-attr]


class Picky(nn.Module):
    """Refuses any type but one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.inner.weight.dtype != torch.float32:
            raise RuntimeError("no kernel for this type")
        return self.inner(x)


def test_a_model_that_cannot_run_lowered_is_refused_by_name() -> None:
    given = workload(Picky(), [torch.randn(8, 8)])
    with pytest.raises(SpeedUpRefused, match=r"bfloat16; .*no kernel for this type"):
        lowered(given)
    offered = [params.model_dump()["dtype"] for params in LowerPrecision().variants(given)]
    assert "bfloat16" not in offered


def test_an_unknown_component_is_named() -> None:
    with pytest.raises(UsageError, match=r"'encoder\.layer\.9'"):
        lowered(of_family("bert"), components=["encoder.layer.9"])


def test_a_component_stands_for_all_weights_in_it() -> None:
    given = of_family("bert")
    assert paths_of(["encoder.layer.1/mlp"], given) == (
        "encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense",
    )  # fmt: skip
    assert len(paths_of(["encoder.layer.0", "encoder.layer.0/mlp"], given)) == 6


def test_many_components_are_grouped_by_what_they_stand_in() -> None:
    given = of_family("bert")
    everything = paths_of([c.id for c in weighted(given)], given)
    for most, count in ((100, 15), (7, 7), (5, 5)):
        ids = grouped(weighted(given), given, most)
        assert len(ids) == count
        assert paths_of(ids, given) == everything


def test_sums_beyond_the_type_are_destroyed_as_a_whole_and_kept_by_parts() -> None:
    given = cancelling()
    x = given.held_out[0].inputs[0]
    clean = given.model(x)

    def moved(runnable: Runnable) -> float:
        return float((runnable([x]) - clean).norm() / clean.norm())

    assert moved(lowered(given)) > 0.5
    assert moved(lowered(given, components=["first", "last"])) < 0.01
    healthy = cancelling(planted=False)
    assert isinstance(healthy.model, Cancelling)
    clean = healthy.model(x)
    assert moved(lowered(healthy)) < 0.01


def test_offered_as_a_whole_where_that_is_good_enough_and_placed_where_not() -> None:
    whole = LowerPrecision().variants(cancelling(planted=False))
    assert whole == (LowerPrecisionParams(), LowerPrecisionParams(dtype="float16"))
    placed = LowerPrecision().variants(cancelling())
    assert isinstance(placed[0], LowerPrecisionParams)
    assert set(placed[0].components) == {"first", "last"}
    assert placed[1:] == whole
