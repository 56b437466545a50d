"""Groups of layers: what is measured of them depends on nothing but model and data."""

from functools import cache
from pathlib import Path

import pytest
import torch
from factories import tiny_gpt2
from oracles import checkpoint_parts as oracle
from prepared import SMALL, family
from torch import Tensor, nn

import zsei.checkpoint.measure.one_pass
from zsei.checkpoint.contracts import LEVELS, Level
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.combine import Combined, combine
from zsei.checkpoint.measure.magnitude import find_slices, magnitudes
from zsei.checkpoint.measure.measure import measure
from zsei.checkpoint.measure.ready import ready_for
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, SiteMeasure, Snapshot
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.surgery.dependency import Cut, dependency_group

LAYERS: dict[str, tuple[int | None, ...]] = {
    "gpt2": (0, 1, None), "bert": (0, 1, None), "resnet": (0, 1, 2, 3, None), "llama": (0, 1, None),
}  # fmt: skip


@cache
def plain() -> tuple[nn.Module, Subject]:
    """A GPT-2 with weights large enough that everything in it matters, and its subject."""
    model, data = tiny_gpt2(initializer_range=0.3)
    return model, prepare(model, data, settings=SMALL)


def job_of(subject: Subject, home: Path) -> Job:
    settings = SMALL.model_copy(update={"home": home})
    return Job(run="test", model=subject.model, data=None, settings=settings)


def task(
    *layers: int | None, levels: tuple[Level, ...] = LEVELS, basic: bool = False, ablate: int = 0
) -> MeasureTask:
    snapshot = Snapshot(epoch=3, step=30)
    return MeasureTask(
        id="t", snapshot=snapshot, layers=layers, levels=levels, basic=basic, ablate=ablate
    )


def combined(subject: Subject, home: Path, groups: list[tuple[int | None, ...]]) -> Combined:
    job, ready = job_of(subject, home), ready_for(subject)
    return combine([measure(subject, task(*g), job, ready) for g in groups], job.config)


def place(found: GroupMeasure, key: str) -> SiteMeasure:
    return next(site for site in found.sites if site.key == key)


def test_how_layers_are_grouped_changes_no_bit_of_a_gpt(tmp_path: Path) -> None:
    _same_however_grouped(plain()[1], LAYERS["gpt2"], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "resnet", "llama"])
def test_how_layers_are_grouped_changes_no_bit(name: str, tmp_path: Path) -> None:
    _same_however_grouped(family(name), LAYERS[name], tmp_path)


def _same_however_grouped(subject: Subject, layers: tuple[int | None, ...], home: Path) -> None:
    whole = combined(subject, home / "one", [layers])
    alone = combined(subject, home / "many", [(layer,) for layer in reversed(layers)])
    assert whole == alone
    assert {site.kind for site in whole.sites} >= {"layer"}
    assert whole.measurements
    assert all(value is not None for units in whole.importance.values() for value in units)


def test_criteria_are_those_of_plain_autograd(tmp_path: Path) -> None:
    model, subject = plain()
    found = measure(subject, task(0, 1, None), job_of(subject, tmp_path))
    samples = [ids[None] for batch in subject.calibration for ids in batch.inputs[0]]
    truth = oracle.parts(model, samples)
    for n in (0, 1):
        neurons = place(found, f"transformer.h.{n}/mlp|neuron").parts
        layer = place(found, f"transformer.h.{n}|layer").parts
        for name, values in (
            ("taylor.act", neurons["taylor"]),
            ("frequency.act", neurons["activation frequency"]),
            ("taylor.layer", layer["taylor"]),
            ("similarity", layer["similarity"]),
            ("flow", layer["gradient flow"]),
            ("skip", layer["skip potential"]),
        ):
            expected = truth[f"{name}.{n}"].double().flatten()
            torch.testing.assert_close(
                torch.tensor(values, dtype=torch.float64), expected, rtol=2e-4, atol=1e-6
            )


def test_exact_effect_is_that_of_a_plain_bypass(tmp_path: Path) -> None:
    model, subject = plain()
    job = job_of(subject, tmp_path)
    found = measure(subject, task(0, 1, levels=("layers",), ablate=2), job)
    ids = torch.cat([batch.inputs[0] for batch in subject.calibration])
    assert [(key, unit) for key, unit, _, _ in sorted(found.exact)] == [
        ("transformer.h.0|layer", 0),
        ("transformer.h.1|layer", 0),
    ]
    for key, _, cheap, exact in found.exact:
        truth = float(oracle.without_layer(model, int(key[14]), ids).mean())
        assert exact == pytest.approx(truth, rel=1e-3)
        assert cheap > 0
    both = combine([found], job.config)
    assert {row[2] for row in both.exact} == {
        v for units in both.importance.values() for v in units
    }


def test_units_are_drawn_kind_by_kind_and_the_same_every_time(tmp_path: Path) -> None:
    _, subject = plain()
    job = job_of(subject, tmp_path)
    once = measure(subject, task(0, ablate=5), job)
    again = measure(subject, task(0, ablate=5), job_of(subject, tmp_path / "other"))
    assert once.exact == again.exact
    kinds = [key.partition("|")[2] for key, *_ in once.exact]
    assert sorted(kinds) == ["head", "head", "layer", "neuron", "neuron"]


def test_magnitude_is_the_norm_of_all_that_goes_with_a_unit() -> None:
    model, subject = plain()
    mlp = model.transformer.h[1].mlp  # type: ignore[union-attr, index]
    site = subject.anatomy.site("transformer.h.1/mlp", "neuron")
    assert site is not None
    found = magnitudes(subject, site, find_slices(subject, site))
    expected = (
        mlp.c_fc.weight.square().sum(0) + mlp.c_fc.bias.square() + mlp.c_proj.weight.square().sum(1)
    ).sqrt()
    assert found is not None
    torch.testing.assert_close(found, expected.detach().double(), rtol=1e-6, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("name", ["resnet", "llama"])
def test_slices_are_those_of_every_unit_followed_by_itself(name: str) -> None:
    subject = family(name)
    assert subject.program is not None
    parameters = dict(subject.model.named_parameters())
    together = 2 if name == "llama" else 1
    for site in [s for s in subject.anatomy.sites if s.kind in ("channel", "head")][:2]:
        found = magnitudes(subject, site, find_slices(subject, site))
        assert found is not None
        for unit in (1, site.units // 2, site.units - 2):
            group = range(unit // together * together, (unit // together + 1) * together)
            cut = Cut(node=site.node, axis=1, removed=tuple(group), kind=site.kind)
            gone = dependency_group(subject.program, [cut]).parameters
            total = sum(
                _removed_squares(parameters[n], axes) for n, axes in gone.items() if n in parameters
            )
            assert float(found[unit]) == pytest.approx(total**0.5, rel=1e-6)


def _removed_squares(weight: Tensor, axes: object) -> float:
    gone = torch.zeros_like(weight, dtype=torch.bool)
    for axis, entries in axes.items():  # type: ignore[attr-defined]
        gone.index_fill_(axis, torch.tensor(entries), True)
    return float(weight[gone].double().square().sum())


def test_basic_looks_at_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, subject = plain()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("there is no pass")

    monkeypatch.setattr(zsei.checkpoint.measure.one_pass, "collect", never)
    job = job_of(subject, tmp_path)
    found = measure(subject, task(0, None, basic=True), job)
    assert found.depth == "basic"
    assert found.confidence == 0.5
    assert {name for site in found.sites for name in site.parts} == {"magnitude"}
    importance = combine([found], job.config).importance
    assert all(value for units in importance.values() for value in units)
    assert not list(tmp_path.iterdir())


def test_channels_alone_are_one_level(tmp_path: Path) -> None:
    _, subject = plain()
    found = measure(subject, task(0, 1, levels=("channels",)), job_of(subject, tmp_path))
    assert found.depth == "channels"
    assert {site.kind for site in found.sites} == {"neuron"}
    whole = measure(subject, task(0, 1), job_of(subject, tmp_path / "all"))
    assert all(site == place(whole, site.key) for site in found.sites)


def test_a_group_says_where_it_stands(tmp_path: Path) -> None:
    _, subject = plain()
    found = measure(subject, task(1), job_of(subject, tmp_path))
    assert found.provenance is not None
    assert found.provenance.checkpoint is not None
    assert found.provenance.checkpoint.model_dump() == {"run": "test", "epoch": 3, "step": 30}
    assert {component.layer for component in found.components} == {1}
    assert GroupMeasure.model_validate_json(found.model_dump_json()) == found


class Broken(nn.Module):
    """Neurons, and behind them something that spoils the gradient or lets none through."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(6, 20), nn.Linear(20, 20)
        self.table, self.last = nn.Parameter(torch.randn(20, 20)), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x).relu())
        if self.how == "nan":
            # What `where` leaves out has a slope of 0, and 0 times the root's own is no number.
            hidden = torch.where(hidden > 0, hidden.sqrt(), 0.0)
        if self.how == "none":
            hidden = self.table[hidden.argmax(1)]
        return self.last(hidden)


@pytest.mark.parametrize("how", ["nan", "none", "fine"])
def test_without_gradients_weights_and_activity_rank(how: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(24, 6)
    settings = SMALL.model_copy(update={"home": tmp_path})
    subject = prepare(Broken(how), (x, x[:, :3].argmax(1)), settings=settings)
    job = Job(run="test", model=subject.model, data=None, settings=settings)
    found = measure(subject, task(None, levels=("channels",)), job)
    first = place(found, "first|neuron").parts
    assert ("taylor" in first) == (how == "fine")
    assert found.confidence == (1.0 if how == "fine" else 0.5)
    assert any("first" in note for note in found.notes) == (how != "fine")
    mixed = combine([found], job.config)
    assert mixed.confidence == found.confidence
    if how != "fine":
        expected = _by_weight_and_activity([site.parts for site in found.sites])
        assert mixed.importance["first|neuron"] == pytest.approx(expected)


def _by_weight_and_activity(places: list[dict[str, tuple[float | None, ...]]]) -> list[float]:
    """Of the first place, [u]."""
    mixed = torch.zeros(20, dtype=torch.float64)
    for name, weight in (("magnitude", 0.6), ("activation frequency", 0.4)):
        own = [torch.tensor(parts[name], dtype=torch.float64) for parts in places]
        mixed += weight * own[0] / torch.cat(own).sum()
    return mixed.tolist()
