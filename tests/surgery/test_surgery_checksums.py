"""A saved folder with a missing, shortened or altered file is refused before it is read."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from surgery_subjects import cut, sites, subject

from zsei.errors import ModelError
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.checksums import FILES, check_sums, write_sums
from zsei.surgery.module_form import run
from zsei.surgery.recipe import RECIPE
from zsei.surgery.save import load, save


@pytest.fixture(scope="module")
def smaller() -> EditedModel:
    found = subject("bert")
    return apply_edits(found, [cut(sites(found.anatomy, "head")[0], "bert")])


@pytest.fixture(scope="module")
def saved(smaller: EditedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(smaller, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_the_list_says_what_every_file_holds(folder: Path) -> None:
    listed = json.loads((folder / FILES).read_text())["files"]
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert sorted([own["path"] for own in listed] + [FILES]) == names
    for own in listed:
        content = (folder / own["path"]).read_bytes()
        assert own["bytes"] == len(content)
        assert own["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", RECIPE])
def test_every_way_a_file_can_be_wrong_is_named(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("a file was parsed before all were checked")

    monkeypatch.setattr("safetensors.torch.load_file", parsed)
    monkeypatch.setattr("safetensors.torch.load_model", parsed)
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    size = f"had {len(whole):,} bytes and now has {len(whole) - 7:,}"
    with pytest.raises(ModelError, match=rf"{name} in .* {size}\. Copy the folder again"):
        load(folder)
    path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    was = hashlib.sha256(whole).hexdigest()[:12]
    with pytest.raises(ModelError, match=rf"{name} in .* was altered \(SHA-256 {was} when saved"):
        load(folder)
    path.unlink()
    with pytest.raises(ModelError, match=rf"{name} \({len(whole):,} bytes\) is missing"):
        load(folder)


def test_a_lost_or_broken_list_is_an_error_of_its_own(folder: Path) -> None:
    (folder / FILES).write_text("{")
    with pytest.raises(ModelError, match=rf"{FILES} in .* is not what zsei writes"):
        load(folder)
    (folder / FILES).unlink()
    with pytest.raises(ModelError, match=rf"{FILES} is missing"):
        load(folder)
    outside = {"path": "../other.txt", "bytes": 1, "sha256": ""}
    for name in ("../other.txt", "/etc/hostname", "a/../../b", ""):
        (folder / FILES).write_text(json.dumps({"files": [outside | {"path": name}]}))
        with pytest.raises(ModelError, match="may name files of that folder only"):
            check_sums(folder)


def test_more_files_do_not_disturb_and_older_folders_load(
    folder: Path, smaller: EditedModel
) -> None:
    (folder / "README.md").write_text("mine")
    assert torch.equal(run(load(folder), smaller.input_names, smaller.inputs), smaller.output)
    recipe = json.loads((folder / RECIPE).read_text())
    (folder / RECIPE).write_text(json.dumps(recipe | {"schema_version": 1}))
    (folder / FILES).unlink()
    assert torch.equal(run(load(folder), smaller.input_names, smaller.inputs), smaller.output)
    (folder / RECIPE).write_text(json.dumps(recipe | {"schema_version": 3}))
    write_sums(folder)
    with pytest.raises(ModelError, match="Update zsei"):
        load(folder)
