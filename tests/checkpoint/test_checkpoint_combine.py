"""Groups become one analysis: shares of totals, mixed by weights, whoever measured what."""

from itertools import permutations

import pytest

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import UnitKind
from zsei.checkpoint.measure.combine import combine
from zsei.checkpoint.tasks import GroupMeasure, SiteMeasure
from zsei.errors import UsageError
from zsei.records import Component, Measurement

CONFIG = CheckpointConfig()
Values = tuple[float | None, ...]


def site(name: str, kind: UnitKind, layer: int | None = 0, **parts: Values) -> SiteMeasure:
    named = {criterion.replace("_", " "): values for criterion, values in parts.items()}
    return SiteMeasure(component=name, kind=kind, layer=layer, parts=named)


def group(*sites: SiteMeasure, **more: object) -> GroupMeasure:
    layers = tuple(dict.fromkeys(s.layer for s in sites))
    given = {"layers": layers, "depth": "full", "sites": sites, "measurements": {}} | more
    return GroupMeasure.model_validate(given)


def test_channels_mix_shares_of_the_whole_model() -> None:
    first = group(
        site("a", "neuron", 0, taylor=(1, 3), magnitude=(1, 1), activation_frequency=(0, 1))
    )
    second = group(site("b", "channel", 1, taylor=(6,), magnitude=(2,), activation_frequency=(1,)))
    found = combine([first, second], CONFIG).importance
    assert found["a|neuron"] == pytest.approx(
        (0.5 * 1 / 10 + 0.3 * 1 / 4, 0.5 * 3 / 10 + 0.3 * 1 / 4 + 0.2 * 1 / 2)
    )
    assert found["b|channel"] == pytest.approx((0.5 * 6 / 10 + 0.3 * 2 / 4 + 0.2 * 1 / 2,))
    assert sum(v or 0 for units in found.values() for v in units) == pytest.approx(1)


def test_heads_and_layers_have_totals_of_their_own() -> None:
    parts: dict[str, Values] = {"attention_focus": (1, 3), "diversity": (1, 1)}
    heads = site("a", "head", 0, output_sensitivity=(0, 2), taylor=(9, 9), **parts)
    layers = [site("l0", "layer", 0, taylor=(3,)), site("l1", "layer", 1, taylor=(1,))]
    found = combine([group(heads, *layers)], CONFIG).importance
    assert found["a|head"] == pytest.approx((0.3 / 4 + 0.3 / 2, 0.3 * 3 / 4 + 0.3 / 2 + 0.4))
    assert found["l0|layer"] == pytest.approx((0.75,))
    assert found["l1|layer"] == pytest.approx((0.25,))


def test_weights_of_the_configuration_count() -> None:
    config = CheckpointConfig.model_validate(
        {"elesh": {"structured_pruning": {"channel_analysis": {
            "taylor_weight": 0, "magnitude_weight": 1, "frequency_weight": 0}}}}
    )  # fmt: skip
    found = combine([group(site("a", "neuron", taylor=(1, 0), magnitude=(1, 3)))], config)
    assert found.importance["a|neuron"] == pytest.approx((0.25, 0.75))


def test_a_missing_criterion_gives_its_weight_to_the_others_on_the_same_scale() -> None:
    whole = site("a", "neuron", 0, taylor=(2, 6), magnitude=(1, 3))
    basic = site("b", "neuron", 1, magnitude=(2, 2))
    found = combine([group(whole), group(basic)], CONFIG).importance
    # Taylor over its mean of 4 and over 4 units; magnitude over its mean of 2 and over 4 units.
    assert found["a|neuron"] == pytest.approx(
        ((0.5 * 2 / 16 + 0.3 * 1 / 8) / 0.8, (0.5 * 6 / 16 + 0.3 * 3 / 8) / 0.8)
    )
    assert found["b|neuron"] == pytest.approx((2 / 8, 2 / 8))


def test_a_unit_that_could_not_be_told_takes_nothing_from_the_others() -> None:
    found = combine([group(site("a", "neuron", taylor=(None, 1, 3), magnitude=(2, 2, 2)))], CONFIG)
    assert found.importance["a|neuron"] == pytest.approx(
        (1 / 3, (0.5 / 6 + 0.3 / 3) / 0.8, (0.5 * 3 / 6 + 0.3 / 3) / 0.8)
    )


def test_without_labels_sensitivity_stands_in_for_taylor() -> None:
    sites = (
        site("a", "neuron", output_sensitivity=(1, 3)),
        site("l", "layer", output_sensitivity=(5,)),
    )
    found = combine([group(*sites)], CONFIG).importance
    assert found == {"a|neuron": pytest.approx((0.25, 0.75)), "l|layer": (1.0,)}


def test_heads_and_layers_of_which_only_weights_are_known() -> None:
    heads, layer = site("a", "head", magnitude=(1, 3)), site("l", "layer", magnitude=(5,))
    found = combine([group(heads, layer, depth="basic", confidence=0.5)], CONFIG)
    assert found.importance == {"a|head": (0.25, 0.75), "l|layer": (1.0,)}
    assert (found.depth, found.confidence) == ("basic", 0.5)


def test_nothing_known_is_none_and_all_zero_is_even() -> None:
    sites = site("a", "head"), site("b", "layer", taylor=(0,)), site("c", "layer", 1, taylor=(0,))
    found = combine([group(*sites)], CONFIG).importance
    assert found == {"a|head": (), "b|layer": (0.5,), "c|layer": (0.5,)}


def test_the_order_of_groups_changes_nothing() -> None:
    def told(value: float) -> tuple[Measurement, ...]:
        return (Measurement(name="rms", value=value),)

    groups = [
        group(
            site(f"p{n}", "neuron", n, taylor=(0.1 * (n + 1), 0.7), magnitude=(1 / 3, n)),
            measurements={f"p{n}": told(n)}, confidence=1 - n / 10, cached=n,
            depth=("full", "channels", "basic")[n], notes=(f"note {n}",),
            exact=((f"p{n}|neuron", 1, 5.0, 0.5),), followed={f"w{n}[2]": bytes([n] * 8)},
            components=(Component(id=f"p{n}", kind="mlp", path="", layer=n),),
        )
        for n in range(3)
    ]  # fmt: skip
    found = [combine(order, CONFIG) for order in permutations(groups)]
    assert all(one == found[0] for one in found)
    assert all(list(one.measurements) == ["p0", "p1", "p2"] for one in found)
    assert [s.component for s in found[0].sites] == ["p0", "p1", "p2"]
    assert (found[0].confidence, found[0].depth, found[0].cached) == (0.8, "basic", 3)
    assert found[0].notes == ("note 0", "note 1", "note 2")
    assert [row[2] for row in found[0].exact] == [
        found[0].importance[f"p{n}|neuron"][1] for n in range(3)
    ]


def test_no_group_and_a_place_measured_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one group"):
        combine([], CONFIG)
    one = group(site("a", "neuron", taylor=(1,)))
    with pytest.raises(UsageError, match=r"a\|neuron came from two"):
        combine([one, one], CONFIG)


def test_a_group_survives_json_with_its_bytes() -> None:
    one = group(site("a", "neuron", taylor=(1, None)), followed={"w[2]": bytes([0, 200, 255, 1])})
    assert GroupMeasure.model_validate_json(one.model_dump_json()) == one
