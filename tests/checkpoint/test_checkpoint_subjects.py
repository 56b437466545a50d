"""One subject per architecture: with other weights put in it is what a fresh one would be."""

from functools import cache
from pathlib import Path

import pytest
import torch
from factories import tiny_gpt2, tiny_resnet
from prepared import SMALL
from safetensors.torch import save
from torch import Tensor, nn

import zsei.checkpoint.measure.subjects
from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import LEVELS
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.measure import measure
from zsei.checkpoint.measure.subjects import Subjects, fitting, reads_its_model
from zsei.checkpoint.tasks import MeasureTask, Snapshot
from zsei.errors import DataError, ModelError
from zsei.settings import Settings
from zsei.subject.program import model_hash
from zsei.surgery.module_edit import Attribute, ModuleEdit, TensorCut


class Small(nn.Module):
    """Convolution, batch norm and a table that is read twice (tied)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 20, 1), nn.BatchNorm1d(20)
        self.mix, self.back = nn.Conv1d(20, 4, 1), nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.back.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(self.norm(self.conv(x)).relu()).mean(2)
        return self.again(self.back(hidden).relu())


def made(seed: int = 0) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Small()
        model.norm.running_mean = torch.randn(20)
        model.norm.running_var = torch.rand(20) + 0.5
    return model.eval()


@cache
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 4, 5, generator=torch.Generator().manual_seed(1))
    return x, x.mean(2).argmax(1)


def job_of(home: Path, model: object, given: object) -> Job:
    settings = SMALL.model_copy(update={"home": home})
    config = CheckpointConfig.model_validate({"elesh": {"analysis_cache_size": 0}})
    return Job(run="t", model=model, data=given, settings=settings, config=config)  # type: ignore[arg-type]


def snapshot(model: nn.Module, epoch: int = 1, **more: object) -> Snapshot:
    weights = {name: t.clone().contiguous() for name, t in model.state_dict().items()}
    return Snapshot(epoch=epoch, data=save(weights), **more)  # type: ignore[arg-type]


def same_as_fresh(job: Job, swapped: Subjects, at: Snapshot) -> None:
    """Everything a worker measures, to the bit."""
    fresh = Subjects(job=job)
    subject, new = swapped.at(at), fresh.at(at)
    assert subject.model_hash == new.model_hash
    layers = tuple({c.layer: None for c in subject.anatomy.components})
    task = MeasureTask(id="t", snapshot=at, layers=layers, levels=LEVELS, ablate=2)
    assert measure(subject, task, job, swapped.ready()) == measure(new, task, job, fresh.ready())


def test_a_swapped_checkpoint_is_a_fresh_one_batch_norm_and_tied_weights_too(
    tmp_path: Path,
) -> None:
    model = made()
    before = model_hash(model)
    job = job_of(tmp_path, model, data())
    subjects = Subjects(job=job)
    first = subjects.at(snapshot(made(1)))
    assert reads_its_model(first)
    assert first.model_hash == model_hash(made(1))
    same_as_fresh(job, subjects, snapshot(made(2), 2))
    assert subjects.at(snapshot(made(2), 2)).program is first.program
    assert model_hash(model) == before


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_resnet])
def test_families_swapped_are_fresh_ones(make: object, tmp_path: Path) -> None:
    model, given = make()  # type: ignore[operator]
    job = job_of(tmp_path, model, given)
    subjects = Subjects(job=job)
    subjects.at(snapshot(model))
    generator = torch.Generator().manual_seed(5)
    moved = {
        name: t + 0.1 * torch.rand(t.shape, generator=generator) if t.is_floating_point() else t
        for name, t in model.state_dict().items()
    }
    moved = {n: moved["transformer.wte.weight"] if n == "lm_head.weight" else t
             for n, t in moved.items()}  # fmt: skip
    at = Snapshot(epoch=2, data=save({name: t.clone() for name, t in moved.items()}))
    same_as_fresh(job, subjects, at)


def test_what_is_held_at_zero_is_zero(tmp_path: Path) -> None:
    mask = ModuleEdit(cuts=(TensorCut(name="conv.weight", axis=0, removed=(1, 3)),
                            TensorCut(name="norm.bias", axis=0, removed=(1, 3))))  # fmt: skip
    job = job_of(tmp_path, made(), data())
    subjects = Subjects(job=job)
    subjects.at(snapshot(made(1)))
    masked = subjects.at(snapshot(made(2), 2, masks=(mask,)))
    weight = masked.model.get_parameter("conv.weight")
    assert not weight[[1, 3]].any()
    assert weight[[0, 2]].any()
    same_as_fresh(job, subjects, snapshot(made(2), 2, masks=(mask,)))
    assert subjects.at(snapshot(made(2), 3)).model.get_parameter("conv.weight")[1].any()
    gone = ModuleEdit(cuts=(TensorCut(name="nothing", axis=0, removed=(1,)),))
    with pytest.raises(ModelError, match="no `nothing`"):
        subjects.at(snapshot(made(2), 4, masks=(gone,)))


def test_another_architecture_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    real = zsei.checkpoint.measure.subjects.prepare

    def counted(*arguments: object, **options: object) -> object:
        assert subjects._known is None  # never two in memory
        prepared.append("once")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zsei.checkpoint.measure.subjects, "prepare", counted)
    cut = ModuleEdit(
        cuts=tuple(TensorCut(name=f"{name}", axis=axis, removed=(0,)) for name, axis in (
            ("conv.weight", 0), ("conv.bias", 0), ("norm.weight", 0), ("norm.bias", 0),
            ("norm.running_mean", 0), ("norm.running_var", 0), ("mix.weight", 1))),
        attributes=(Attribute(module="conv", name="out_channels", value=19),
                    Attribute(module="norm", name="num_features", value=19),
                    Attribute(module="mix", name="in_channels", value=19)),
    )  # fmt: skip
    subjects = Subjects(job=job_of(tmp_path, made(), data()))
    whole = subjects.at(snapshot(made(1)))
    weights = dict(made(1).state_dict())
    for part in cut.cuts:
        kept = [i for i in range(weights[part.name].shape[part.axis]) if i != 0]
        weights[part.name] = weights[part.name].index_select(part.axis, torch.tensor(kept))
    saved = save({name: t.clone() for name, t in weights.items()})
    smaller = subjects.at(Snapshot(epoch=2, data=saved, edits=(cut,)))
    assert smaller.model.get_parameter("conv.weight").shape[0] == 19
    assert whole.model.get_parameter("conv.weight").shape[0] == 20
    subjects.at(Snapshot(epoch=3, data=saved, edits=(cut,)))
    assert len(prepared) == 2


def test_checkpoints_that_do_not_fit_are_told_and_harm_nothing(tmp_path: Path) -> None:
    subjects = Subjects(job=job_of(tmp_path, made(), data()))
    good = subjects.at(snapshot(made(1)))
    weights = {name: t.clone() for name, t in made(2).state_dict().items()}

    def at(changed: dict[str, Tensor]) -> Snapshot:
        return Snapshot(epoch=2, data=save({n: t.clone() for n, t in changed.items()}))

    with pytest.raises(ModelError, match=r"`conv.weight` is \[21, 4, 1\] .* \[20, 4, 1\] there"):
        subjects.at(at(weights | {"conv.weight": torch.zeros(21, 4, 1)}))
    with pytest.raises(ModelError, match=r"`other` .* no such parameter"):
        subjects.at(at(weights | {"other": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"mix.bias of Small is missing"):
        subjects.at(at({n: t for n, t in weights.items() if n != "mix.bias"}))
    with pytest.raises(DataError, match=r"`mix.bias` holds NaN"):
        subjects.at(at(weights | {"mix.bias": torch.full((4,), torch.nan)}))
    assert model_hash(good.model) == model_hash(made(1))
    without_twin = {n: t for n, t in weights.items() if n != "again.weight"}
    assert subjects.at(at(without_twin)).model_hash == model_hash(made(2))


def test_factories_and_half_precision(tmp_path: Path) -> None:
    job = job_of(tmp_path, lambda: (made().to(torch.bfloat16), data()), None)
    subject = Subjects(job=job).at(snapshot(made(1).to(torch.bfloat16)))
    weight = subject.model.get_parameter("conv.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, made(1).conv.weight.to(torch.bfloat16).float())


def test_batches_shrink_with_the_vocabulary_unless_they_are_set() -> None:
    wide = nn.Embedding(50257, 2)
    assert fitting(Settings(), nn.Linear(8, 8)).batch_size == 16
    assert fitting(Settings(), wide).batch_size == 5
    assert fitting(Settings(batch_size=12), wide).batch_size == 12
