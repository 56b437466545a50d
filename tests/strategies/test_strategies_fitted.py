"""Fitted strategies change nothing where nothing must change, and fit what an oracle fits."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from oracles import fits
from pydantic import JsonValue
from strategies import fitted_subjects as subjects
from torch import Tensor, nn

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Proposal
from zsei.settings import Settings
from zsei.strategies import find_strategy
from zsei.strategies.candidates import explicit
from zsei.strategies.fitted import fitted, kept_tensor, read_tensor, together
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.types import Subject
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.calibration import inputs_of, layer_halves
from zsei.surgery.edits import FactoriseLinear, RemoveUnits, ReplaceLayer, layer_site, linear_site
from zsei.surgery.factorise import fit_factors, linear_at, spectrum
from zsei.surgery.least_squares import LeastSquares
from zsei.surgery.merge import correlations, duplicate_groups, merged_weights, unit_sums
from zsei.surgery.replace_layer import RIDGES, fit_map, squared_error
from zsei.surgery.save import load, save

LOOSE = Settings(min_channels=4, max_layer_share=1.0)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build()


def carried_out(
    subject: Subject, strategy: str, *components: str, **params: JsonValue
) -> EditedModel:
    """A proposal settled, turned into edits, fitted, and carried out."""
    proposal = Proposal.make(strategy=strategy, components=components, params=params)
    settled = explicit(subject, {}, proposal)
    edits = find_strategy(strategy).edits(subject.anatomy, {}, settled, LOOSE)
    assert subject.program is not None
    values = together(subject.program, edits, [fitted(subject, settled, edits)], {})
    return apply_edits(subject, edits, None, values)


def outputs(subject: Subject, model: nn.Module) -> tuple[Tensor, Tensor]:
    """(original, edited) outputs on all data of a subject."""
    batches = (*subject.calibration, *subject.held_out)
    with torch.no_grad():
        pairs = [(subject.model(*b.inputs), model(*b.inputs)) for b in batches]
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


@cache
def copies(up: str = "up") -> Subject:
    """Neurons 10 and 13 are multiples of 3, 17 of 5; behind a rectifier."""
    model = seeded(subjects.Mlp)
    subjects.plant(model.get_submodule(up), {10: (3, 2.0), 13: (3, 0.5), 17: (5, 1.0)})
    return subjects.made(model, subjects.WIDTH)


@cache
def mirrored(bias: bool = True) -> Subject:
    """Neurons 2 and 9 are what 4 is with the other sign."""
    model = seeded(lambda: subjects.Straight(bias=bias))
    subjects.plant(model.get_submodule("up"), {2: (4, -1.0), 9: (4, -1.0)})
    return subjects.made(model, subjects.WIDTH)


@cache
def channels() -> Subject:
    model = seeded(subjects.Filters)
    subjects.plant(model.get_submodule("first"), {7: (2, 3.0), 8: (2, 1.0)})
    return subjects.made(model, 3, 8, 8)


@cache
def thin(planted: str, bias: bool = True) -> Subject:
    return subjects.made(seeded(lambda: subjects.Thin(planted, bias)), subjects.WIDTH)


@cache
def tokens() -> Subject:
    return subjects.made(seeded(subjects.Tokens), 9, subjects.WIDTH)


@cache
def pictures() -> Subject:
    return subjects.made(seeded(subjects.Pictures), 3, 8, 8)


NOTHING_CHANGES: dict[str, tuple[Callable[[], Subject], str, tuple[str, ...], dict]] = {
    "multiples": (copies, "merge-neurons", ("up",), {}),
    "of the other sign": (mirrored, "merge-neurons", ("up",), {}),
    "without a bias": (lambda: mirrored(bias=False), "merge-neurons", ("up",), {}),
    "channels": (channels, "merge-neurons", ("first",), {}),
    "thin weight": (lambda: thin("weight"), "factorise-linear", ("middle",), {"rank": 3}),
    "thin data": (lambda: thin("data"), "factorise-linear", ("middle",), {"rank": 3}),
    "no bias": (lambda: thin("data", False), "factorise-linear", ("middle",), {"rank": 4}),
    "all energy": (lambda: thin("data"), "factorise-linear", ("middle",), {"kept": 1.0}),
    "linear layer": (tokens, "replace-layer", ("blocks.1",), {"with": "linear"}),
    "two layers": (tokens, "replace-layer", ("blocks.0", "blocks.2"), {}),
    "pixels": (pictures, "replace-layer", ("blocks.1",), {"with": "convolution"}),
    "fewer, wider pixels": (pictures, "replace-layer", ("blocks.2",), {}),
}  # fmt: skip


SAVED = ("multiples", "thin weight", "fewer, wider pixels")
"""Saved as programs, which takes seconds."""


@pytest.mark.parametrize("case", NOTHING_CHANGES)
def test_where_nothing_must_change_only_the_size_does(case: str) -> None:
    made, strategy, components, params = NOTHING_CHANGES[case]
    subject = made()
    edited = carried_out(subject, strategy, *components, **params)
    wanted, found = outputs(subject, edited.model)
    assert (found - wanted).abs().max() < 1e-5, float((found - wanted).abs().max())
    sizes = [sum(p.numel() for p in m.parameters()) for m in (edited.model, subject.model)]
    assert sizes[0] < sizes[1]
    assert edited.form == "module", edited.note
    assert model_hash(subject.model) == subject.model_hash
    if case not in SAVED:
        return
    with tempfile.TemporaryDirectory() as work:
        save(edited, Path(work) / "smaller")
        loaded = load(Path(work) / "smaller")
    with torch.no_grad():
        torch.testing.assert_close(loaded(*edited.inputs), edited.output, rtol=1e-5, atol=1e-5)


def test_the_zoo_loses_its_duplicates() -> None:
    planted = zoo.duplicate_neurons()
    subject = prepare(planted.model, planted.data, settings=subjects.FEW)
    edited = carried_out(subject, "merge-neurons", planted.component)
    (edit,) = edited.edits
    assert isinstance(edit, RemoveUnits)
    assert edit.units == (10, 11, 12, 13)
    wanted, found = outputs(subject, edited.model)
    assert (found - wanted).abs().max() < 1e-5


def calibration_rows(subject: Subject, *names: str) -> list[np.ndarray]:
    """All calibration rows [r, c] of some values, by running the program node by node."""
    assert subject.program is not None
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    class Seeing(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if n.name in seen:
                seen[n.name].append(value)
            return value

    for batch in subject.calibration:
        with torch.no_grad():
            Seeing(subject.program.graph_module).run(*batch.inputs)
    return [torch.cat(seen[name]).flatten(0, -2).double().numpy() for name in names]


def test_the_map_is_the_ridge_fit_that_the_other_half_likes_best() -> None:
    subject = subjects.made(seeded(lambda: nn.Sequential(zoo.Transformer())), 8, zoo.WIDTH)
    site = layer_site(subject.anatomy, "0.blocks.1")
    assert site is not None
    assert site.source is not None
    edit = ReplaceLayer(site=site, form="linear")
    (halves,) = layer_halves(subject, [edit])
    weight, bias, left = fit_map(halves)
    x, y = calibration_rows(subject, site.source, site.node)
    # Rows of every other sample of a batch: samples of 8 rows.
    even = (np.arange(len(x)) // 8 % subject.calibration[0].size) % 2 == 0
    prior = np.eye(zoo.WIDTH)
    errors = {}
    for ridge in RIDGES:
        errors[ridge] = 0.0
        for fit, judge in ((even, ~even), (~even, even)):
            solved = fits.ridge_map(x[fit], y[fit], prior, ridge)
            errors[ridge] += fits.squared_error(x[judge], y[judge], *solved)
    best = min(errors, key=lambda ridge: errors[ridge])
    wanted, shift = fits.ridge_map(x, y, prior, best)
    np.testing.assert_allclose(weight.numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), shift, atol=1e-6)
    alone = fits.squared_error(x, y, prior, np.zeros(zoo.WIDTH))
    assert left == pytest.approx(errors[best] / alone, rel=1e-5)
    assert 0 < left < 1


def test_squared_error_is_read_off_the_sums() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(40, n, generator=generator).double() + 2 for n in (5, 3))
    weight, bias = (torch.randn(*s, generator=generator).double() for s in ((3, 5), (3,)))
    sums = LeastSquares(5, 3)
    sums.add(x, y)
    wanted = fits.squared_error(x.numpy(), y.numpy(), weight.numpy(), bias.numpy())
    assert squared_error(sums, weight, bias) == pytest.approx(wanted, rel=1e-10)


def test_a_strong_ridge_leaves_the_identity() -> None:
    """With rows of noise alone nothing is learnt, and the layer's place is taken by nothing."""
    generator = torch.Generator().manual_seed(1)
    halves = LeastSquares(6, 6), LeastSquares(6, 6)
    for half in halves:
        x = torch.randn(8, 6, generator=generator).double()
        half.add(x, x + 0.1 * torch.randn(8, 6, generator=generator).double())
    weight, _, left = fit_map(halves)
    assert (weight - torch.eye(6)).abs().max() < 0.05
    assert left > 0.9


@pytest.mark.parametrize("rank", [2, 5])
def test_no_factors_of_that_rank_come_nearer_on_the_data(rank: int) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 20)))
    subject = subjects.made(model, subjects.WIDTH)
    site = linear_site(subject.anatomy, "2")
    assert site is not None
    assert subject.program is not None
    edit = FactoriseLinear(site=site, rank=rank)
    data = inputs_of(subject, [edit])
    values = fit_factors(subject.program, [edit], data)
    _, linear = linear_at(subject.program.graph_module, edit)
    (x,) = calibration_rows(subject, linear.source.name)
    weight = linear.matrix(subject.program.graph_module).double().numpy()
    bias = model.get_parameter("2.bias").detach().double().numpy()
    down, up = values["2.0.weight"].double().numpy(), values["2.1.weight"].double().numpy()
    found = x @ (up @ down).T + values["2.1.bias"].double().numpy()
    wanted = x @ weight.T + bias
    best = fits.best_low_rank_outputs(x, weight, rank) + wanted.mean(0)
    np.testing.assert_allclose(found, best, atol=1e-5)
    plain = fit_factors(subject.program, [edit], {})
    product = (plain["2.1.weight"] @ plain["2.0.weight"]).double().numpy()
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(product, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-5)
    energy = np.linalg.svd(wanted - wanted.mean(0), compute_uv=False) ** 2 / len(x)
    seen = spectrum(torch.from_numpy(weight), data[linear.source.name], centred=True)
    np.testing.assert_allclose(seen.energy.numpy()[: len(energy)], energy[:16], atol=1e-6)
    share = float(energy[:rank].sum() / energy.sum())
    assert seen.rank_for(share - 1e-6) == rank
    assert seen.rank_for(share + 1e-6) == rank + 1


def test_merged_weights_are_lines_in_the_unit_that_stays() -> None:
    model = seeded(subjects.Mlp)
    with torch.no_grad():
        up = model.get_parameter("up.weight")
        for unit in (6, 11):
            up[unit] = up[1] + 0.1 * up[unit]
    subject = subjects.made(model, subjects.WIDTH)
    site = subject.anatomy.site("up", "neuron")
    assert site is not None
    assert subject.program is not None
    (sums,) = unit_sums(subject, [site])
    (rows,) = calibration_rows(subject, site.node)
    likeness = correlations(sums).numpy()
    moving = rows.std(0) > 0
    np.testing.assert_allclose(
        likeness[np.ix_(moving, moving)], np.corrcoef(rows[:, moving].T), atol=1e-6
    )
    values = merged_weights(subject.program, site, ((1, 6, 11), (0, 2)), sums)
    weight, bias = (model.get_parameter(f"down.{n}").detach().numpy() for n in ("weight", "bias"))
    wanted = fits.merged(weight, bias, rows, [[1, 6, 11], [0, 2]])
    left = np.delete(values["down.weight"].numpy(), [2, 6, 11], axis=1)
    np.testing.assert_allclose(left, wanted[0], atol=1e-5)
    np.testing.assert_allclose(values["down.bias"].numpy(), wanted[1], atol=1e-5)


def test_groups_are_connected_components_and_the_most_alike_stays() -> None:
    likeness = torch.eye(6, dtype=torch.float64)
    for i, j, r in ((1, 4, 0.97), (4, 5, -0.96), (1, 5, -0.9), (0, 2, 0.99)):
        likeness[i, j] = likeness[j, i] = r
    assert duplicate_groups(likeness, 0.95) == ((0, 2), (4, 1, 5))
    assert duplicate_groups(likeness, 0.98) == ((0, 2),)
    assert duplicate_groups(likeness, 0.999) == ()


REFUSED: list[tuple[Callable[[], Subject], str, tuple[str, ...], dict, str]] = [
    (copies, "merge-neurons", ("nothing",), {}, "'nothing'"),
    (copies, "merge-neurons", (), {}, "one or more components"),
    (copies, "merge-neurons", ("up",), {"groups": [[[3]]]}, "two or more"),
    (copies, "merge-neurons", ("up",), {"groups": [[[3, 10], [10, 4]]]}, "each unit in one"),
    (copies, "merge-neurons", ("up",), {"groups": [[[3, 99]]]}, "99"),
    (copies, "merge-neurons", ("up",), {"groups": [[[3, 4]], [[5, 6]]]}, "one list of groups"),
    (copies, "merge-neurons", ("up",), {"groups": [[list(range(22))]]}, "At least 4"),
    (copies, "merge-neurons", ("up",), {"min_correlation": 0.1}, "min_correlation"),
    (copies, "merge-neurons", ("up",), {"share": 0.1}, "It takes min_correlation, groups"),
    (tokens, "merge-neurons", ("head",), {}, "'head'"),
    (lambda: thin("data"), "factorise-linear", ("up", "middle"), {"ranks": [3]}, "one rank per"),
    (lambda: thin("data"), "factorise-linear", ("middle",), {"rank": 9}, "ranks 1 to 8"),
    (lambda: thin("data"), "factorise-linear", ("middle",), {"rank": 0}, "rank"),
    (lambda: thin("data"), "factorise-linear", ("middle",), {"rank": 3, "kept": 0.9}, "it got"),
    (lambda: thin("data"), "factorise-linear", ("none",), {"rank": 3}, "'none'"),
    (lambda: thin("data"), "factorise-linear", ("head",), {"kept": 1.0}, "no ranks"),
    (channels, "factorise-linear", ("first",), {"rank": 2}, "takes linears"),
    (tokens, "replace-layer", ("blocks.7",), {}, "'blocks.7'"),
    (tokens, "replace-layer", (), {}, "at least one"),
    (tokens, "replace-layer", ("blocks.1",), {"with": "convolution"}, "needs images"),
    (tokens, "replace-layer", ("blocks.1",), {"with": "magic"}, "with"),
    (pictures, "replace-layer", ("blocks.1",), {"with": "linear"}, "take a convolution"),
    (pictures, "remove-layer", ("blocks.2",), {}, "replace-layer can fit"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "strategy", "components", "params", "words"), REFUSED)
def test_what_cannot_be_done_is_said(
    made: Callable[[], Subject],
    strategy: str,
    components: tuple[str, ...],
    params: dict,
    words: str,
) -> None:
    subject = made()
    with pytest.raises((UsageError, SurgeryRefused)) as caught:
        carried_out(subject, strategy, *components, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_more_layers_give_way_than_may() -> None:
    subject = tokens()
    proposal = Proposal.make(
        strategy="replace-layer", components=("blocks.0", "blocks.1"), params={"with": "linear"}
    )
    with pytest.raises(UsageError, match="At most 1 of 3 layers"):
        find_strategy("replace-layer").edits(
            subject.anatomy, {}, proposal, Settings(max_layer_share=0.4)
        )


def test_values_that_are_not_finite_are_not_fitted() -> None:
    subject = tokens()
    broken = tuple(
        replace(batch, inputs=(batch.inputs[0] * float("nan"),)) for batch in subject.calibration
    )
    proposal = Proposal.make(
        strategy="replace-layer", components=("blocks.1",), params={"with": "linear"}
    )
    edits = find_strategy("replace-layer").edits(subject.anatomy, {}, proposal, LOOSE)
    with pytest.raises(SurgeryRefused, match="not finite"):
        fitted(replace(subject, calibration=broken), proposal, edits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_record_holds_tensors_to_the_bit(dtype: torch.dtype) -> None:
    value = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in (value, value.T, value[:0], value[0, 0]):
        again = read_tensor(kept_tensor(tensor))
        assert again.dtype == dtype
        assert torch.equal(again, tensor)
