"""Weights come back as they were saved, from every format, and no code runs."""

import hashlib
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import tiny_mlp
from safetensors.torch import save, save_file, save_model
from torch import Tensor, nn

from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.snapshot import prefix_of, read_weights, sha256_of
from zsei.checkpoint.weights.weight_files import weight_files
from zsei.checkpoint.weights.whole import why_not_whole
from zsei.errors import DataError, ModelError, UnsafeModelError

State = dict[str, Tensor]


def state() -> State:
    return dict(tiny_mlp()[0].state_dict())


def training(weights: State) -> dict[str, Any]:
    """What a loop saves beside the weights."""
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 3, "optimizer": optimizer, "loss": torch.tensor(0.5)}


def _index(
    folder: Path, suffix: str, weights: State, write: Callable[[State, Path], object]
) -> None:
    import json

    folder.mkdir()
    names = list(weights)
    shards = {f"m-{i}-of-2{suffix}": names[i::2] for i in (0, 1)}
    for file, own in shards.items():
        write({name: weights[name] for name in own}, folder / file)
    places = {name: file for file, own in shards.items() for name in own}
    (folder / f"model{suffix}.index.json").write_text(json.dumps({"weight_map": places}))


def _old(weights: Any, path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def _folder(name: str, write: Callable[[State, Path], object]) -> Callable[[State, Path], None]:
    def save(weights: State, path: Path) -> None:
        path.mkdir()
        write(weights, path / name)
        torch.save(training(weights), path / "optimizer.pt")
        torch.save(training(weights), path / "training_args.bin")

    return save


FORMATS: dict[str, tuple[str, Callable[[State, Path], object]]] = {
    "safetensors": ("a.safetensors", save_file),
    "torch": ("a.pt", torch.save),
    "old torch": ("a.pth", _old),
    "an ordered dict": ("a.bin", lambda w, path: torch.save(OrderedDict(w), path)),
    "a loop's": ("a.pt", lambda w, path: torch.save({"model": w, **training(w)}, path)),
    "a loop's, old": ("a.pt", lambda w, path: _old({"model_state_dict": w, **training(w)}, path)),
    "nested twice": ("a.ckpt", lambda w, path: torch.save({"module": {"state_dict": w}}, path)),
    "hugging face": ("checkpoint-5", _folder("model.safetensors", save_file)),
    "hugging face, pickled": ("checkpoint-5", _folder("pytorch_model.bin", torch.save)),
    "one file in a folder": ("step_5", _folder("weights.pt", torch.save)),
    "shards": ("s", lambda w, path: _index(path, ".safetensors", w, save_file)),
    "pickled shards": ("s", lambda w, path: _index(path, ".bin", w, torch.save)),
}


@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS.keys())
def test_weights_come_back_as_they_were(
    name: str, write: Callable[[State, Path], object], tmp_path: Path
) -> None:
    weights = state()
    write(weights, tmp_path / name)
    assert why_not_whole(tmp_path / name) == ""
    found = read_weights(Snapshot(epoch=1, path=tmp_path / name))
    assert found.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(found[key], value)
    files = weight_files(tmp_path / name)
    right = sha256_of(files)
    assert right == hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    read_weights(Snapshot(epoch=1, path=tmp_path / name, sha256=right))
    with pytest.raises(DataError, match="announced"):
        read_weights(Snapshot(epoch=1, path=tmp_path / name, sha256="0" * 64))


@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS.keys())
def test_a_file_that_is_cut_off_is_never_whole_and_never_read(
    name: str, write: Callable[[State, Path], object], tmp_path: Path
) -> None:
    """At every 397th byte, at both ends byte by byte; and it is never an error of another kind."""
    write({"w": torch.ones(9, 7), "b": torch.zeros(5)}, tmp_path / name)
    for file in weight_files(tmp_path / name):
        whole = file.read_bytes()
        ends = {*range(12), *range(0, len(whole), 397), *range(len(whole) - 30, len(whole))}
        for end in sorted(ends):
            file.write_bytes(whole[:end])
            assert why_not_whole(tmp_path / name) != "", end
            with pytest.raises(ModelError):
                read_weights(Snapshot(epoch=1, path=tmp_path / name))
        file.unlink()
        if (tmp_path / name).is_dir():
            assert why_not_whole(tmp_path / name) != ""
            with pytest.raises(ModelError):
                read_weights(Snapshot(epoch=1, path=tmp_path / name))
        file.write_bytes(whole)
    assert why_not_whole(tmp_path / name) == ""


@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS.keys())
def test_bytes_that_have_changed_are_never_an_error_of_another_kind(
    name: str, write: Callable[[State, Path], object], tmp_path: Path
) -> None:
    write({"w": torch.ones(9, 7), "b": torch.zeros(5)}, tmp_path / name)
    dice = random.Random(0)
    for file in weight_files(tmp_path / name):
        whole = file.read_bytes()
        for _ in range(20):
            changed = bytearray(whole)
            for _ in range(3):
                changed[dice.randrange(len(whole))] = dice.randrange(256)
            file.write_bytes(changed)
            try:
                why_not_whole(tmp_path / name)
                read_weights(Snapshot(epoch=1, path=tmp_path / name))
            except ModelError:
                pass
        file.write_bytes(whole)


def test_bytes_are_read_like_a_file() -> None:
    weights = state()
    found = read_weights(Snapshot(epoch=1, data=save(weights)))
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    for end in range(0, 200, 7):
        with pytest.raises(ModelError, match="whole"):
            read_weights(Snapshot(epoch=1, data=save(weights)[:end]))
    with pytest.raises(DataError, match="announced"):
        read_weights(Snapshot(epoch=1, data=save(weights), sha256="0" * 64))


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "ran")


@pytest.mark.parametrize("write", [torch.save, _old, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_that_would_run_code_is_refused(
    write: Callable[[Any, Path], object], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    write({"state_dict": state(), "hyper": Code(mark)}, tmp_path / "epoch=1.ckpt")
    with pytest.raises(UnsafeModelError, match=r"asks for (getattr|operand 149)\. .*torch\.save"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "epoch=1.ckpt"))
    assert not mark.exists()


def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"optimizer": {}, "epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="'optimizer', 'epoch'"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "a.pt"))
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(ModelError, match="is a list"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "b.pt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="none that are known"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "empty"))
    with pytest.raises(ModelError, match="Keep more checkpoints"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "gone.safetensors"))
    with pytest.raises(ModelError, match="file or bytes"):
        read_weights(Snapshot(epoch=1))
    for name in ("a", "b"):
        save_file(state(), tmp_path / "empty" / f"{name}.safetensors")
    with pytest.raises(ModelError, match="no index"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "empty"))
    (tmp_path / "empty" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../../etc/passwd"}}'
    )
    with pytest.raises(ModelError, match="files beside it"):
        read_weights(Snapshot(epoch=1, path=tmp_path / "empty"))


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "model._orig_mod."])
def test_what_trainers_put_before_names_is_taken_off(prefix: str, tmp_path: Path) -> None:
    weights = state()
    named = {f"{prefix}{name}": value for name, value in weights.items()}
    if prefix:
        named["metric.total"] = torch.zeros(1)
    save_file(named, tmp_path / "a.safetensors")
    assert prefix_of(named, weights) == prefix.replace("._orig_mod.", ".")
    snapshot = Snapshot(epoch=1, path=tmp_path / "a.safetensors", prefix=prefix_of(named, weights))
    assert read_weights(snapshot).keys() == weights.keys()


def test_a_compiled_part_has_the_names_of_the_part(tmp_path: Path) -> None:
    weights = {"encoder.w": torch.zeros(2), "head.w": torch.ones(2)}
    named = {"encoder._orig_mod.w": weights["encoder.w"], "head.w": weights["head.w"]}
    save_file(named, tmp_path / "a.safetensors")
    found = read_weights(Snapshot(epoch=1, path=tmp_path / "a.safetensors"))
    assert found.keys() == weights.keys()
    assert prefix_of(named, weights) == ""


def test_names_that_fit_nothing_keep_what_they_have() -> None:
    assert prefix_of(["a.b", "c"], ["x"]) == ""
    assert prefix_of(["model.weight"], ["model.weight", "weight"]) == ""
    assert prefix_of([], []) == ""


class Tied(nn.Module):
    """A language model in little: what reads tokens also writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_may_be_there_once(tmp_path: Path) -> None:
    from zsei.checkpoint.measure.subjects import put_weights

    model, other = Tied(), Tied()
    save_model(model, str(tmp_path / "a.safetensors"))
    found = read_weights(Snapshot(epoch=1, path=tmp_path / "a.safetensors"))
    assert len(found) == 1
    put_weights(other, found)
    assert torch.equal(other.head.weight, model.embedding.weight)


def test_a_file_is_mapped_not_copied(tmp_path: Path) -> None:
    """Reading names and shapes of a large file costs no memory for its weights."""
    import psutil

    weights = {"w": torch.zeros(16, 2**18)}  # 16 MB
    for name, write in (("a.safetensors", save_file), ("a.pt", torch.save)):
        write(weights, tmp_path / name)
        before = psutil.Process().memory_full_info().uss
        found = read_weights(Snapshot(epoch=1, path=tmp_path / name))
        assert found["w"].shape == (16, 2**18)
        assert psutil.Process().memory_full_info().uss - before < 8 * 2**20


@pytest.mark.long
@pytest.mark.parametrize("family", ["vit", "mixtral", "gpt2"])
def test_names_that_transformers_changes_are_changed(family: str, tmp_path: Path) -> None:
    """ViT and Mixtral are saved under names of an older layout; what comes back fits the model."""
    from factories import FAMILIES

    from zsei.checkpoint.measure.subjects import put_weights

    model, _ = FAMILIES[family]()
    model.save_pretrained(tmp_path / "checkpoint-5")  # type: ignore[operator]
    found = read_weights(Snapshot(epoch=1, path=tmp_path / "checkpoint-5"))
    other, _ = FAMILIES[family]()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    put_weights(other, found)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.long
@pytest.mark.parametrize(
    "config", ["{", "[]", "{}", '{"architectures": ["Nonsense"]}', '{"auto_map": {}}',
               '{"architectures": ["ViTModel"], "hidden_size": "x"}']
)  # fmt: skip
def test_a_config_that_says_nothing_leaves_names_as_they_are(config: str, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    assert read_weights(Snapshot(epoch=1, path=tmp_path)).keys() == state().keys()
