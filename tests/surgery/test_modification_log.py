"""Every step of a log comes back to the byte, whatever happened on the way."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from oracles.kept_files import contents, large_tensors
from surgery_subjects import FEW, cut, sites, storages, subject, unchanged

from zsei.cli import main
from zsei.errors import ModelError, OutputError, SurgeryRefused, UsageError
from zsei.records import Measurement, Verdict
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.types import Subject
from zsei.surgery import modification_log, objects
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.history import LOG, changes
from zsei.surgery.modification_log import OBJECTS, STATE, ModificationLog
from zsei.surgery.module_form import run
from zsei.surgery.objects import SMALL
from zsei.surgery.save import load, save

VERDICT = Verdict(
    proposal_id="p-1", outcome="accepted", reason="measured",
    bounds=(Measurement(name="loss", value=0.01, n=8),),
)  # fmt: skip


def steps_of(found: Subject, family: str) -> tuple[EditedModel, EditedModel]:
    """A block's neurons gone, and then both blocks' with one bias given new values."""
    own = sites(found.anatomy, "neuron")
    first = apply_edits(found, [cut(own[0], family)])
    name = next(n for n, p in first.model.named_parameters() if n.endswith("bias"))
    size = dict(first.model.named_parameters())[name].shape
    both = [cut(site, family) for site in own]
    return first, apply_edits(found, both, weights={name: torch.full(size, 0.25)})


@pytest.fixture(scope="module")
def bert() -> tuple[Subject, EditedModel, EditedModel]:
    found = prepare(*factories.tiny_bert(vocab_size=512), settings=FEW)
    return found, *steps_of(found, "bert")


@pytest.fixture(scope="module")
def made(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, first, second = bert
    before = storages(found.model)
    log = ModificationLog.start(tmp_path_factory.mktemp("made") / "log", found)
    log.append(first, note="a few neurons")
    log.append(second, verdict=VERDICT)
    assert unchanged(found.model, before)
    return log.folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "log"))


def test_every_step_is_restored_to_the_byte(bert: Any, folder: Path, tmp_path: Path) -> None:
    found, first, second = bert
    log = ModificationLog.open(folder)
    models = (found.model, first.model, second.model)
    for step, model in zip(log.steps, models, strict=True):
        out = tmp_path / f"step{step.number}"
        log.rollback(step.number, out)
        back = load(out)
        assert step.state == model_hash(model) == model_hash(back)
        wanted = run(model, found.input_names, first.inputs)
        assert torch.equal(run(back, found.input_names, first.inputs), wanted)
    assert [step.form for step in log.steps] == ["huggingface", "module", "huggingface"]


def test_a_restored_folder_is_what_save_had_written(
    bert: Any, folder: Path, tmp_path: Path
) -> None:
    save(bert[2], tmp_path / "saved")
    ModificationLog.open(folder).rollback(2, tmp_path / "restored")
    assert contents(tmp_path / "restored") == contents(tmp_path / "saved")


def test_steps_are_data_and_times_stand_apart(bert: Any, folder: Path, tmp_path: Path) -> None:
    log = ModificationLog.open(folder)
    original, first, second = log.steps
    counts = [sum(p.numel() for p in model.parameters()) for model in
              (bert[0].model, bert[1].model, bert[2].model)]  # fmt: skip
    assert [step.parameters_after for step in log.steps] == counts
    assert [step.parameters_before for step in log.steps] == [counts[0], *counts[:2]]
    assert [len(step.edits) for step in log.steps] == [0, 1, 2]
    assert (first.note, second.verdict, original.verdict) == ("a few neurons", VERDICT, None)
    third = changes(first, second)
    assert third.revalued == ("embeddings.LayerNorm.bias",)
    assert [name for name in third.cut if not name.startswith("encoder.layer.1.")] == []
    assert (third.gone, third.new) == ((), ())
    # The same steps on another day are the same data.
    again = ModificationLog.start(tmp_path / "again", bert[0])
    again.append(bert[1], note="a few neurons")
    again.append(bert[2], verdict=VERDICT)
    assert again.steps == log.steps
    assert len(log.history.times) == 3


def test_what_steps_share_is_kept_once(folder: Path, tmp_path: Path) -> None:
    log = ModificationLog.open(folder)
    for number in range(3):
        log.rollback(number, tmp_path / str(number))
    wanted = large_tensors([tmp_path / str(n) / "model.safetensors" for n in range(3)], SMALL)
    kept = {path.name: path.stat().st_size for path in (folder / OBJECTS).glob("*/*")}
    assert wanted.items() <= kept.items()
    embedding = 512 * 32 * 4
    assert sum(size == embedding for size in kept.values()) == 1
    assert {p for step in log.steps for file in step.files for p in file.pieces} == set(kept)


def test_a_class_of_the_users_own_gets_its_tensors_back(tmp_path: Path) -> None:
    from safetensors.torch import load_model

    found = subject("mlp")
    own = sites(found.anatomy, "neuron")
    log = ModificationLog.start(tmp_path / "log", found)
    step = log.append(apply_edits(found, [cut(own[0])]))
    assert step.form == "program"
    log.rollback(0, tmp_path / "back")
    blank, _ = factories.tiny_mlp()
    for parameter in blank.parameters():
        parameter.data.zero_()
    load_model(blank, tmp_path / "back" / STATE)
    assert model_hash(blank) == found.model_hash
    x = found.calibration[0].inputs
    assert torch.equal(load(tmp_path / "back")(*x), found.model(*x))


def test_a_folder_comes_back_as_it_was_in_its_own_precision(tmp_path: Path) -> None:
    """A folder in half precision is analysed in float32; step 0 is the folder all the same."""
    model, data = factories.tiny_gpt2()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")  # type: ignore[operator]
    (tmp_path / "source" / "training_args.bin").write_bytes(b"no part of the model")
    found = prepare(tmp_path / "source", data, settings=FEW)
    log = ModificationLog.start(tmp_path / "log", found, keep_original=False)
    assert log.steps[0].form == "source"
    wanted = contents(tmp_path / "source")
    del wanted["training_args.bin"]
    with pytest.raises(UsageError, match=r"were left out .* step 0 needs the original"):
        log.rollback(0, tmp_path / "back")
    log.rollback(0, tmp_path / "back", model=tmp_path / "source")
    assert contents(tmp_path / "back") == wanted
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")  # type: ignore[operator]
    weights = tmp_path / "source" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="restored from the very model"):
        log.rollback(0, tmp_path / "other", model=str(tmp_path / "source"))
    assert not (tmp_path / "other").exists()


def test_the_originals_tensors_may_be_left_out(bert: Any, folder: Path, tmp_path: Path) -> None:
    found, first, _ = bert
    log = ModificationLog.start(tmp_path / "lean", found, keep_original=False)
    size = sum(len(content) for content in contents(tmp_path / "lean" / OBJECTS).values())
    assert size < 0.4 * sum(tensor.nbytes for tensor in found.model.parameters())
    log.append(first)
    log.rollback(1, tmp_path / "one")
    assert model_hash(load(tmp_path / "one")) == model_hash(first.model)
    log.rollback(0, tmp_path / "zero", model=found.model)
    ModificationLog.open(folder).rollback(0, tmp_path / "kept")
    assert contents(tmp_path / "zero") == contents(tmp_path / "kept")
    with pytest.raises(ModelError, match="is not that one"):
        log.rollback(0, tmp_path / "no", model=first.model)


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Run something in a child that is killed at its n-th write; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = [number]

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*given, **named)

            return call

        for name in ("replace", "rename", "mkdir", "unlink"):
            setattr(Path, name, dying(getattr(Path, name)))
        os.fsync = dying(os.fsync)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    bert: Any, folder: Path, tmp_path: Path
) -> None:
    found, first, second = bert
    pristine, seen, number = tmp_path / "pristine", set(), 0
    ModificationLog.start(pristine, found).append(first, note="a few neurons")
    while True:
        copy = Path(shutil.copytree(pristine, tmp_path / f"killed{number}"))
        died = killed_at(number, lambda copy=copy: ModificationLog.open(copy).append(second))
        after = ModificationLog.open(copy)
        last = len(after.steps) - 1
        seen.add(last)
        after.rollback(last, copy / "out")
        wanted = (first, second)[last - 1]
        assert model_hash(load(copy / "out")) == model_hash(wanted.model)
        shutil.rmtree(copy / "out")
        if died and last == 1 and number % 9 == 0:
            # The next append clears away what was left, and succeeds.
            after.append(second)
            assert contents(copy / OBJECTS) == contents(folder / OBJECTS)
            assert not list(copy.glob(".zsei-*"))
        shutil.rmtree(copy)
        if not died:
            break
        number += 3
    assert seen == {1, 2}
    assert number > 10


def test_damage_is_named_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    log = ModificationLog.open(folder)
    pieces = {p for f in log.steps[1].files if f.path.endswith("safetensors") for p in f.pieces}
    piece = next(path for path in (folder / OBJECTS).glob("*/*") if path.name in pieces)
    whole = piece.read_bytes()
    piece.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=rf"{piece.name[:12]} of model\.safetensors .* now has"):
        log.rollback(1, tmp_path / "out")
    piece.unlink()
    with pytest.raises(ModelError, match=rf"model\.safetensors \({piece.name[:12]}\) is missing"):
        log.rollback(1, tmp_path / "out")
    piece.write_bytes(whole)
    text = json.loads((folder / LOG).read_text())
    text["steps"][1]["files"][0]["sha256"] = "0" * 64
    (folder / LOG).write_text(json.dumps(text))
    with pytest.raises(ModelError, match="must be what it was"):
        log.rollback(1, tmp_path / "out")
    text["steps"][1]["files"][0]["path"] = "../out.txt"
    (folder / LOG).write_text(json.dumps(text))
    with pytest.raises(ModelError, match="files inside a step's folder only"):
        log.rollback(1, tmp_path / "out")
    (folder / LOG).write_text("{")
    with pytest.raises(ModelError, match="is not what this zsei writes"):
        ModificationLog.open(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_what_does_not_fit_is_refused(bert: Any, folder: Path, tmp_path: Path) -> None:
    log = ModificationLog.open(folder)
    before = {n: c for n, c in contents(folder).items() if n != ".lock"}
    with pytest.raises(UsageError, match=r"are 0 to 2; there is no step 3"):
        log.rollback(3, tmp_path / "out")
    with pytest.raises(OutputError, match="exists and is not empty"):
        log.rollback(1, folder)
    with pytest.raises(OutputError, match=r"holds a log already; go on with it by Mod"):
        ModificationLog.start(folder, bert[0])
    with pytest.raises(ModelError, match=f"has a {LOG}|has none"):
        ModificationLog.open(tmp_path)
    mlp = subject("mlp")
    other = apply_edits(mlp, [cut(sites(mlp.anatomy, "neuron")[0])])
    with pytest.raises(UsageError, match="holds the steps of one model"):
        log.append(other)
    assert {n: c for n, c in contents(folder).items() if n != ".lock"} == before


def test_a_full_disk_leaves_the_log_as_it_was(
    bert: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ModificationLog.open(folder)
    text = (folder / LOG).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    shutil.rmtree(next((folder / OBJECTS).iterdir()))
    monkeypatch.setattr(objects, "sync", full)
    with pytest.raises(OutputError, match="No space left"):
        log.append(bert[2])
    assert (folder / LOG).read_bytes() == text

    def refused(*_: object) -> None:
        raise SurgeryRefused("it does not load back")

    monkeypatch.setattr(modification_log, "save", refused)
    with pytest.raises(SurgeryRefused):
        log.append(bert[1])
    assert (folder / LOG).read_bytes() == text
    assert not list(folder.glob(".zsei-*"))


def test_the_commands(
    bert: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in shown["steps"]] == [0, 1, 2]
    assert [row["verdict"] for row in shown["steps"]] == [None, None, "accepted"]
    assert shown["steps"][2]["changed"]["revalued"] == ["embeddings.LayerNorm.bias"]
    assert main(["log", str(folder)]) == 0
    assert "a few neurons" in capsys.readouterr().out
    words = ["rollback", str(folder), "--to", "1", "--out", str(tmp_path / "one"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["state"] == model_hash(bert[1].model)
    assert model_hash(load(tmp_path / "one")) == model_hash(bert[1].model)
    assert main([*words[:3], "9", *words[4:]]) == 2
    assert "there is no step 9" in capsys.readouterr().err
