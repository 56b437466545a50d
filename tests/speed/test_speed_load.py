"""The settings file and `zsei.load`: what was measured is applied, and nothing else is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import zsei
from zsei.errors import DataError, DeviceError, SpeedUpRefused, UsageError, ZseiError
from zsei.speed.load import made_up
from zsei.speed.record import SpeedSettings
from zsei.speed.settings_file import input_shapes, read_settings
from zsei.speedups import Step
from zsei.speedups.runnable import Accelerated
from zsei.subject.program import model_hash
from zsei.subject.types import Batch


class Tiny(nn.Module):
    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.down = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x)


def settings(measured: nn.Module, *steps: Step, **more: Any) -> SpeedSettings:
    batch = Batch(inputs=(torch.randn(2, 6),))
    given: dict[str, Any] = {
        "model": "Tiny", "kind": "object", "model_hash": model_hash(measured), "device": "cpu",
        "inputs": input_shapes(batch, ("x",)), "steps": steps, **more,
    }  # fmt: skip
    return SpeedSettings(**given)


def written(folder: Path, found: SpeedSettings) -> Path:
    path = folder / "speed.json"
    path.write_text(found.model_dump_json(indent=1))
    return path


INFERENCE = Step(speedup="inference-mode")


def test_the_settings_are_applied_to_the_model_they_were_measured_on(tmp_path: Path) -> None:
    model = Tiny().train()
    before = model_hash(model)
    path = written(tmp_path, settings(model, INFERENCE, Step(speedup="threads")))
    fast = zsei.load(model, speed=path)
    assert isinstance(fast, Accelerated)
    x = torch.randn(3, 6)
    found = fast(x)
    assert found.is_inference()  # the step is in force
    assert torch.equal(found, model(x))
    assert torch.equal(fast(x=x), found)
    assert model.training
    assert model_hash(model) == before


def test_a_folder_is_loaded_by_the_name_in_the_file(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ids = torch.randint(1, 32, (2, 4)) * mask
    names = ("input_ids", "attention_mask")
    shapes = input_shapes(Batch(inputs=(ids, mask), mask=mask.bool()), names)
    found = settings(
        model, Step(speedup="attention-backend"), INFERENCE, model=str(tmp_path / "bert"),
        kind="huggingface", inputs=shapes,
    )  # fmt: skip
    path = written(tmp_path, found)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    for fast in (zsei.load(path), zsei.load(tmp_path / "bert", speed=path)):
        output = fast(input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=0)


def test_another_models_weights_are_refused_unless_that_is_meant(tmp_path: Path) -> None:
    path = written(tmp_path, settings(Tiny(), INFERENCE))
    other = Tiny(seed=4)
    with pytest.raises(UsageError, match="any_model=True"):
        zsei.load(other, speed=path)
    x = torch.randn(2, 6)
    assert torch.equal(zsei.load(other, speed=path, any_model=True)(x), other(x))


@pytest.mark.parametrize(
    ("named", "kind"),
    [("Tiny", "object"), ("speed_factory:make", "factory"), ("speed_factory:make", "huggingface"),
     ("os:getcwd", "pt2")],
)  # fmt: skip
def test_a_file_names_no_code_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, kind: str
) -> None:
    (tmp_path / "speed_factory.py").write_text("raise SystemExit('this ran')\n")
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, settings(Tiny(), INFERENCE, model=named, kind=kind))
    with pytest.raises(UsageError, match=r"zsei\.load\("):
        zsei.load(path)
    assert "speed_factory" not in sys.modules


def damaged(text: str) -> str:
    return text[: len(text) // 2]


def without_steps(text: str) -> str:
    return json.dumps({"schema_version": 1, "model": "demo:minilm"})


def changed(**update: Any) -> Any:
    return lambda text: json.dumps({**json.loads(text), **update})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (damaged, DataError, "must be whole"),
        (without_steps, DataError, "holds no steps"),
        (lambda text: "[]", DataError, "holds no steps"),
        (changed(extra=1), DataError, "extra"),
        (changed(model_hash=None), DataError, "model_hash"),
        (changed(inputs=[{"name": "x", "shape": [2], "dtype": "load"}]), DataError, "dtype"),
        (changed(inputs=[{"name": "x", "shape": [-2], "dtype": "int64"}]), DataError, "shape"),
        (changed(schema_version=99), UsageError, "version 99"),
        (changed(steps=[{"speedup": "warp"}]), UsageError, "warp"),
        (changed(steps=[{"speedup": "threads", "params": {"intra": "x"}}]), UsageError, "intra"),
        (changed(device="cuda"), DeviceError, "cpu"),
        (changed(use="training", steps=[{"speedup": "autocast"}]), UsageError, "training_setup"),
        (changed(steps=[{"speedup": "channels-last"}]), SpeedUpRefused, "channels-last"),
    ],
)  # fmt: skip
def test_each_way_a_file_can_be_wrong_has_its_own_words(
    tmp_path: Path, change: Any, error: type[ZseiError], says: str
) -> None:
    if error is DeviceError and torch.cuda.is_available():
        pytest.skip("there is a card here, so that the device is there")
    model = Tiny()
    threads = torch.get_num_threads()
    text = settings(model, INFERENCE).model_dump_json()
    path = tmp_path / "speed.json"
    path.write_text(change(text))
    with pytest.raises(error, match=says):
        zsei.load(model, speed=path)
    assert torch.get_num_threads() == threads


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        zsei.load(tmp_path / "nowhere.json")
    (tmp_path / "speed.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text"):
        read_settings(tmp_path / "speed.json")


def test_a_loaded_model_without_settings_needs_their_name() -> None:
    with pytest.raises(UsageError, match="settings file"):
        zsei.load(Tiny())


def test_made_up_inputs_stay_in_the_recorded_shape_type_and_range() -> None:
    mask = torch.tensor([[1, 1, 0]])
    given = Batch(inputs=(torch.tensor([[7, 5, 9]]), mask, torch.randn(1, 2)), mask=mask.bool())
    names = ("input_ids", "attention_mask", "values")
    made = made_up(input_shapes(given, names), seed=0)
    for before, after in zip(given.inputs, made.inputs, strict=True):
        assert before.shape == after.shape
        assert before.dtype == after.dtype
    assert 5 <= int(made.inputs[0].min()) <= int(made.inputs[0].max()) <= 9
    assert made.mask is not None
    assert bool(made.mask.all())
