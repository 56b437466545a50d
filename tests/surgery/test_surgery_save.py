"""Edited models come back from disk as they were, and nothing in a folder is run."""

import json
import os
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from surgery_subjects import cut, difference, own_subject, sites, subject
from torch import nn

from zsei.errors import ModelError, OutputError, UnsafeModelError
from zsei.subject.types import Subject, UnitKind
from zsei.surgery.apply import EditedModel, ProgramModel, apply_edits
from zsei.surgery.checksums import FILES, write_sums
from zsei.surgery.module_form import run
from zsei.surgery.save import PROGRAM, RECIPE, WEIGHTS, load, save

FORMS: list[tuple[str, UnitKind, bool, str]] = [
    # family, what goes, from every block alike, the folder that holds it
    ("bert", "layer", False, "huggingface"),
    ("bert", "neuron", True, "huggingface"),
    ("bert", "neuron", False, "module"),
    ("bert", "head", True, "module"),  # BERT's config insists on head size = width / heads
    ("llama", "head", True, "huggingface"),
    ("gpt2", "head", False, "module"),
    ("resnet", "channel", False, "module"),
    ("resnet", "layer", False, "huggingface"),
    ("mixtral", "layer", False, "huggingface"),
    ("encoder", "head", False, "program"),
    ("mlp", "neuron", False, "program"),
]


def edited(found: Subject, kind: UnitKind, alike: bool, family: str) -> EditedModel:
    own = sites(found.anatomy, kind)
    return apply_edits(found, [cut(site, family) for site in (own if alike else own[-1:])])


@pytest.mark.parametrize(("family", "kind", "alike", "form"), FORMS)
def test_what_is_saved_loads_back(
    family: str, kind: UnitKind, alike: bool, form: str, tmp_path: Path
) -> None:
    found = subject(family)
    smaller = edited(found, kind, alike, family)
    state = torch.random.get_rng_state()
    recipe = save(smaller, tmp_path / "model")
    assert recipe.form == form
    back = load(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not back.training
    assert difference(run(back, found.input_names, smaller.inputs), smaller.output) < 1e-6
    count = sum(p.numel() for p in smaller.model.parameters())
    assert sum(p.numel() for p in back.parameters()) == count
    if form != "program":
        assert type(back) is type(found.model)
    # Other batch sizes run too.
    few = tuple(tensor[:3] for tensor in smaller.inputs)
    assert difference(run(back, found.input_names, few), smaller.output[:3]) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_plain_folder_needs_no_zsei(tmp_path: Path) -> None:
    from transformers import BertModel

    found = subject("bert")
    smaller = edited(found, "neuron", True, "bert")
    save(smaller, tmp_path / "model")
    (tmp_path / "model" / RECIPE).unlink()
    (tmp_path / "model" / FILES).unlink()
    plain = BertModel.from_pretrained(tmp_path / "model").eval()
    assert plain.config.intermediate_size == 61
    assert torch.equal(run(plain, found.input_names, smaller.inputs), smaller.output)
    assert type(load(tmp_path / "model")) is BertModel


def test_a_program_of_one_size_says_so(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        """Its code asks for the very number of samples, so sizes cannot stay open."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 20), nn.Linear(20, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(x)).reshape(4, 20))

    found = own_subject(Fixed().eval(), {"x": torch.randn(8, 6), "y": torch.randn(8, 4)})
    smaller = edited(found, "neuron", False, "")
    recipe = save(smaller, tmp_path / "model")
    assert (recipe.form, recipe.sizes) == ("program", ((4, 6),))
    back = load(tmp_path / "model")
    assert isinstance(back, ProgramModel)
    assert torch.equal(run(back, found.input_names, smaller.inputs), smaller.output)
    with pytest.raises(ModelError, match=r"takes `x` as \[4, 6\]; it got \[2, 6\]"):
        back(torch.randn(2, 6))


def test_the_recipe_says_what_was_done(tmp_path: Path) -> None:
    found = subject("bert")
    save(edited(found, "head", False, "bert"), tmp_path / "model")
    recipe = json.loads((tmp_path / "model" / RECIPE).read_text())
    assert recipe["edits"] == [
        {
            "component": "encoder.layer.1/attention",
            "kind": "head",
            "units": [1],
            "action": "remove",
            "details": {},
        }
    ]
    assert [(i["name"], i["shape"][0], i["dtype"]) for i in recipe["inputs"]] == [
        ("input_ids", 4, "int64"), ("attention_mask", 4, "int64"),
    ]  # fmt: skip


def files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("family", "kind"), [("bert", "head"), ("mlp", "neuron")])
def test_no_file_holds_a_pickle_that_could_run(family: str, kind: UnitKind, tmp_path: Path) -> None:
    save(edited(subject(family), kind, False, family), tmp_path / "model")
    for path in files(tmp_path / "model"):
        assert path.suffix in (".json", ".safetensors", ".pt2")
        if path.suffix == ".pt2":
            inside = zipfile.ZipFile(path)
            pickles = [name for name in inside.namelist() if name.endswith((".pkl", ".pt"))]
            # torch stores the example inputs so; they must load as tensors alone.
            for name in pickles:
                with inside.open(name) as file:
                    torch.load(file, weights_only=True)


class Boom:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["ZSEI_HOME"]).parent / "ran"),)


def test_a_planted_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(edited(subject("mlp"), "neuron", False, "mlp"), folder)
    with zipfile.ZipFile(folder / PROGRAM) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    inputs = next(name for name in content if name.endswith(".pt"))
    content[inputs] = pickle.dumps(Boom())
    with zipfile.ZipFile(folder / PROGRAM, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    write_sums(folder)
    with pytest.raises(UnsafeModelError):
        load(folder)
    assert not (tmp_path / "ran").exists()


def change(folder: Path, **values: object) -> None:
    recipe = json.loads((folder / RECIPE).read_text())
    (folder / RECIPE).write_text(json.dumps(recipe | values))
    write_sums(folder)


def test_folders_that_do_not_hold_together_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(edited(subject("bert"), "head", False, "bert"), folder)
    whole = (folder / RECIPE).read_text()
    change(folder, model_class="AutoModel")
    with pytest.raises(ModelError, match="must name a transformers class"):
        load(folder)
    (folder / RECIPE).write_text(whole)
    change(folder, surprise=1)
    with pytest.raises(ModelError, match="not what this zsei writes"):
        load(folder)
    (folder / RECIPE).write_text(whole)
    change(folder, model_class="BertForMaskedLM")
    with pytest.raises(ModelError, match="do not belong together"):
        load(folder)
    (folder / RECIPE).write_text(whole)
    (folder / WEIGHTS).unlink()
    write_sums(folder)
    with pytest.raises(ModelError, match="do not belong together"):
        load(folder)
    with pytest.raises(ModelError):
        load(tmp_path / "nowhere")


def test_a_folder_in_use_and_a_full_disk_leave_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = edited(subject("bert"), "head", False, "bert")
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        save(smaller, used)
    assert [path.name for path in used.iterdir()] == ["mine.txt"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_model", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(smaller, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
