"""Which checkpoints lie in a folder, what their names say, and when they are whole."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.find import find_checkpoints, look_at, numbers_of
from zsei.checkpoint.weights.settle import Settling
from zsei.checkpoint.weights.snapshot import read_weights
from zsei.errors import UsageError

NAMES = {
    "epoch=3-step=400": (4, 400),
    "epoch=0-step=100-v1": (1, 100),
    "epoch=07-val_loss=0.12": (8, None),
    "epoch_12": (12, None),
    "model-epoch12-0.93": (12, None),
    "ep3": (3, None),
    "net_E7": (7, None),
    "checkpoint-500": (None, 500),
    "checkpoint_500": (None, 500),
    "ckpt-20": (None, 20),
    "step_500": (None, 500),
    "global_step1000": (None, 1000),
    "iter-70": (None, 70),
    "000031": (31, None),
    "31": (31, None),
    "model_31": (31, None),
    "model": (None, None),
    "last": (None, None),
    "best-0.93": (None, None),
    "val_loss=0.12": (None, None),
    "lr1e5-final": (None, None),
    "model-v2.0": (None, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_names(name: str) -> None:
    assert numbers_of(name) == NAMES[name]


def weights(path: Path, value: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((4, 4), value)}, path)
    return path


def trainer(folder: Path, step: int, epoch: float) -> None:
    weights(folder / f"checkpoint-{step}" / "model.safetensors")
    state = {"epoch": epoch, "global_step": step}
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    torch.save({}, folder / f"checkpoint-{step}" / "optimizer.pt")


def names(folder: Path) -> list[str]:
    return [found.name for found in find_checkpoints(folder)]


def test_what_is_no_checkpoint_is_left_out(tmp_path: Path) -> None:
    weights(tmp_path / "epoch_1.safetensors")
    for name in (
        ".epoch_2.safetensors", "epoch_2.safetensors.tmp", "epoch_2.part", "optimizer.pt", "a.txt",
        "rng_state_0.pth", "training_args.bin", "model-00001-of-00002.safetensors",
        "tmp-checkpoint-5/model.safetensors", "logs/events.txt", "checkpoint-6/config.json",
        "tmp_epoch_3.pt", "last.pt", "random_states_0.pt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "epoch_9.safetensors").symlink_to(tmp_path / "epoch_1.safetensors")
    assert names(tmp_path) == ["epoch_1.safetensors"]


def test_checkpoints_come_in_the_order_of_training(tmp_path: Path) -> None:
    for step, epoch in ((1000, 2.0), (500, 1.004), (20, 0.04)):
        trainer(tmp_path, step, epoch)
    found = find_checkpoints(tmp_path)
    assert [(at.step, at.epoch) for at in found] == [(20, None), (500, 1), (1000, 2)]
    others = tmp_path / "plain"
    for epoch in (10, 9, 100):
        weights(others / f"epoch_{epoch}.safetensors")
    assert [at.epoch for at in find_checkpoints(others)] == [9, 10, 100]


def test_without_numbers_the_time_orders(tmp_path: Path) -> None:
    for moment, name in enumerate(("c", "a", "b")):
        path = weights(tmp_path / f"{name}.safetensors")
        os.utime(path, ns=(moment * 10**9, moment * 10**9))
    assert names(tmp_path) == ["c.safetensors", "a.safetensors", "b.safetensors"]
    assert not any(found.numbered for found in find_checkpoints(tmp_path))


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        find_checkpoints(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        find_checkpoints(tmp_path / "file")
    assert find_checkpoints(tmp_path) == ()
    assert look_at(tmp_path / "gone.pt") is None


@pytest.mark.parametrize("state", ["{", "[]", '{"epoch": "x"}', '{"epoch": true}', '{"epoch": -1}'])
def test_a_damaged_trainer_state_says_nothing(tmp_path: Path, state: str) -> None:
    trainer(tmp_path, 7, 1.0)
    (tmp_path / "checkpoint-7" / "trainer_state.json").write_text(state)
    assert [(at.step, at.epoch) for at in find_checkpoints(tmp_path)] == [(7, None)]


def old(path: Path) -> None:
    """As if it had been written long ago."""
    os.utime(path, ns=(10**18, 10**18))


def test_a_file_is_ready_once_it_is_whole_and_unchanged(tmp_path: Path) -> None:
    path = weights(tmp_path / "epoch_1.safetensors")
    settling = Settling()
    (first,) = find_checkpoints(tmp_path)
    assert settling.look(first) == "waiting"
    assert settling.look(first) == "ready"
    weights(path, 1.0)
    path.touch()
    (second,) = find_checkpoints(tmp_path)
    assert settling.look(second) == "waiting"
    old(path)
    (third,) = find_checkpoints(tmp_path)
    assert Settling().look(third) == "ready"  # nobody has touched it for long


def test_a_half_written_file_is_waited_for_and_then_called_damaged(tmp_path: Path) -> None:
    path = weights(tmp_path / "epoch_1.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    (found,) = find_checkpoints(tmp_path)
    moments = iter(range(0, 100, 10))
    settling = Settling(patience=25.0, clock=lambda: next(moments))
    looks = [settling.look(found) for _ in range(4)]
    assert looks == ["waiting", "waiting", "waiting", "damaged"]
    assert "bytes of" in settling.why(found)
    assert settling.look(found) == "damaged"
    path.write_bytes(whole)
    (found,) = find_checkpoints(tmp_path)
    assert settling.look(found) == "waiting"
    assert settling.look(found) == "ready"


def test_a_file_that_vanishes_while_it_is_looked_at_is_gone(tmp_path: Path) -> None:
    path = weights(tmp_path / "epoch_1.safetensors")
    old(path)
    (found,) = find_checkpoints(tmp_path)
    path.unlink()
    assert Settling().look(found) == "gone"


WRITER = """
import sys, time
from pathlib import Path
content, path, at_once = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
with path.open("wb") as file:
    for begin in range(0, len(content), at_once):
        file.write(content[begin : begin + at_once])
        file.flush()
        time.sleep(0.01)
"""


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_a_slow_writer_is_waited_for(tmp_path: Path, suffix: str) -> None:
    state = {"w": torch.arange(4000.0), "b": torch.ones(3)}
    source = tmp_path / f"source.{suffix}"
    if suffix == "safetensors":
        save_file(state, source)
    else:
        torch.save(state, source, _use_new_zipfile_serialization=suffix == "pt")
    folder = tmp_path / "run"
    folder.mkdir()
    words = [str(source), str(folder / f"epoch_1.{suffix}"), "400"]
    settling, states = Settling(), []
    with subprocess.Popen([sys.executable, "-c", WRITER, *words]):
        for _ in range(5000):
            states += [settling.look(found) for found in find_checkpoints(folder)]
            if "ready" in states:
                break
            time.sleep(0.002)
    assert set(states[:-1]) == {"waiting"}
    assert len(states) > 5
    found = read_weights(Snapshot(epoch=1, path=folder / f"epoch_1.{suffix}"))
    assert torch.equal(found["w"], state["w"])
