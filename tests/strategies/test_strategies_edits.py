"""Strategies turn proposals into edits, and say what is wrong with those they cannot."""

import json
from functools import cache

import factories
import pytest
import torch
import zoo
from pydantic import JsonValue

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Proposal
from zsei.settings import LIMITS, Settings
from zsei.strategies import STRATEGIES, find_strategy
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.program_form import edit_program

LOOSE = Settings(min_heads=1, min_channels=4, max_layer_share=0.5)


@cache
def subject(family: str) -> Subject:
    return prepare(*factories.FAMILIES[family](), settings=Settings(samples=8, batch_size=4))


def edits_of(
    family: str,
    strategy: str,
    *components: str,
    scores: dict[tuple[str, str], tuple[float, ...]] | None = None,
    settings: Settings = LOOSE,
    **params: JsonValue,
) -> tuple[Edit, ...]:
    proposal = Proposal.make(strategy=strategy, components=components, params=params)
    anatomy = subject(family).anatomy
    return find_strategy(strategy).edits(anatomy, scores or {}, proposal, settings)


def test_every_strategy_is_described_and_found_by_its_name() -> None:
    names = [strategy.name for strategy in STRATEGIES]
    assert names == [
        "prune-heads", "prune-neurons", "prune-channels", "merge-neurons", "factorise-linear",
        "remove-layer", "replace-layer",
    ]  # fmt: skip
    for strategy in STRATEGIES:
        assert find_strategy(strategy.name) is strategy
        assert strategy.edit_kind in LIMITS
        words = type(strategy).__doc__ or ""
        assert all(word in words for word in ("Exact", "Costs", "Misleads", "References"))
        schema = strategy.params.model_json_schema()
        assert schema["additionalProperties"] is False
        # A language model that must answer in this schema can name no key of its own.
        assert '"additionalProperties": {' not in json.dumps(schema.get("properties", {}))
    with pytest.raises(UsageError, match="must be one of prune-heads"):
        find_strategy("prune-everything")


def test_heads_are_gathered_by_attention() -> None:
    found = edits_of(
        "bert", "prune-heads",
        "encoder.layer.1/head.3", "encoder.layer.0/head.1", "encoder.layer.1/head.0",
    )  # fmt: skip
    cuts = {edit.site.component: edit.units for edit in found if isinstance(edit, RemoveUnits)}
    assert cuts == {"encoder.layer.0/attention": (1,), "encoder.layer.1/attention": (0, 3)}


def test_the_least_important_share_goes() -> None:
    values = torch.randperm(64, generator=torch.Generator().manual_seed(3)).float()
    scores = {("encoder.layer.0/mlp", "neuron"): tuple(values.tolist())}
    (edit,) = edits_of(
        "bert", "prune-neurons", "encoder.layer.0/mlp", scores=scores, fraction=0.1
    )  # fmt: skip
    assert isinstance(edit, RemoveUnits)
    assert edit.units == tuple(sorted(values.argsort()[:6].tolist()))
    (edit,) = edits_of(
        "bert", "prune-neurons", "encoder.layer.0/mlp", scores=scores, fraction=0.001
    )  # fmt: skip
    assert isinstance(edit, RemoveUnits)
    assert edit.units == (int(values.argmin()),)


def test_units_can_be_named() -> None:
    name = "resnet.encoder.stages.0.layers.0.layer.0.convolution"
    (edit,) = edits_of("resnet", "prune-channels", name, units=[[5, 2, 5]])
    assert isinstance(edit, RemoveUnits)
    assert (edit.site.component, edit.units) == (name, (2, 5))


def test_layers_are_led_around() -> None:
    (edit,) = edits_of("bert", "remove-layer", "encoder.layer.1", "encoder.layer.1")
    assert isinstance(edit, BypassLayer)
    assert edit.site.component == "encoder.layer.1"


WRONG: list[tuple[str, str, tuple[str, ...], dict[str, JsonValue], str]] = [
    ("bert", "prune-heads", ("encoder.layer.0/head.9",), {}, "head.9"),
    ("bert", "prune-heads", ("encoder.layer.0/mlp",), {}, "encoder.layer.0/mlp"),
    ("bert", "prune-heads", (), {}, "at least one"),
    ("bert", "prune-heads", ("encoder.layer.0/head.0",), {"fraction": 0.1}, "fraction"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {}, "neither"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {"fraction": 0.1, "units": [[1]]}, "both"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {"fraction": 1.5}, "fraction"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {"units": [[64]]}, "64"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {"units": [[1], [2]]}, "one list"),
    ("bert", "prune-neurons", ("encoder.layer.0/mlp",), {"fraction": 0.1}, "scores"),
    ("bert", "prune-neurons", ("encoder.layer.7/mlp",), {"fraction": 0.1}, "encoder.layer.7/mlp"),
    ("bert", "prune-neurons", (), {"fraction": 0.1}, "one or more"),
    ("bert", "prune-channels", ("encoder.layer.0/mlp",), {"fraction": 0.1}, "removable channels"),
    ("bert", "remove-layer", ("encoder.layer.7",), {}, "encoder.layer.7"),
    ("bert", "remove-layer", ("encoder.layer.0", "encoder.layer.1"), {}, "1 of 2 layers"),
    ("bert", "remove-layer", (), {}, "at least one"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "strategy", "components", "params", "words"), WRONG)
def test_what_cannot_be_done_is_said(
    family: str,
    strategy: str,
    components: tuple[str, ...],
    params: dict[str, JsonValue],
    words: str,
) -> None:
    with pytest.raises((UsageError, SurgeryRefused)) as caught:
        edits_of(family, strategy, *components, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_minima_are_kept() -> None:
    heads = tuple(f"encoder.layer.0/head.{head}" for head in range(3))
    strict = Settings()
    assert edits_of("bert", "prune-heads", *heads[:2], settings=strict)
    with pytest.raises((UsageError, SurgeryRefused), match="2 heads"):
        edits_of("bert", "prune-heads", *heads, settings=strict)
    units: JsonValue = [list[JsonValue](range(48))]
    assert edits_of("bert", "prune-neurons", "encoder.layer.0/mlp", settings=strict, units=units)
    units = [list[JsonValue](range(49))]
    with pytest.raises((UsageError, SurgeryRefused), match="16"):
        edits_of("bert", "prune-neurons", "encoder.layer.0/mlp", settings=strict, units=units)


PLANTED: list[tuple[zoo.Planted, str, tuple[str, ...], dict[str, JsonValue]]] = [
    (zoo.idle_head(), "prune-heads", ("blocks.0/head.2",), {}),
    (zoo.dead_neurons(), "prune-neurons", ("blocks.1/mlp",), {"units": [list(range(5, 17))]}),
    (zoo.identity_layer(), "remove-layer", ("blocks.1",), {}),
]


@pytest.mark.parametrize(("planted", "strategy", "components", "params"), PLANTED)
def test_waste_goes_without_a_trace(
    planted: zoo.Planted,
    strategy: str,
    components: tuple[str, ...],
    params: dict[str, JsonValue],
) -> None:
    """Where a strategy must change nothing, it changes nothing but the size."""
    found = prepare(planted.model, planted.data, settings=Settings(samples=8, batch_size=4))
    assert found.program is not None
    proposal = Proposal.make(strategy=strategy, components=components, params=params)
    edits = find_strategy(strategy).edits(found.anatomy, {}, proposal, LOOSE)
    edited = edit_program(found.program, edits)
    inputs = found.calibration[0].inputs
    assert (edited(*inputs) - found.program(*inputs)).abs().max() < 1e-5
    sizes = [
        sum(p.numel() for p in program.graph_module.parameters())
        for program in (edited, found.program)
    ]
    assert sizes[0] < sizes[1]
