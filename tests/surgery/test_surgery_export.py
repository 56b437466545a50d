"""Exported files give the model's outputs, at any size they promise, or are not there."""

import json
from pathlib import Path

import factories
import numpy as np
import onnxruntime
import pytest
import torch
from surgery_subjects import FEW, cut, sites
from torch import Tensor, nn

import zsei
from zsei.cli import main
from zsei.errors import ExportError, ModelError, OutputError, UsageError
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.surgery import export_model as exporting
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.export_model import export_model
from zsei.surgery.module_form import run
from zsei.surgery.save import save


def smaller(made: factories.Made) -> EditedModel:
    found = prepare(*made, settings=FEW)
    return apply_edits(found, [cut(sites(found.anatomy, "neuron")[0])])


@pytest.fixture(scope="module")
def mlp() -> EditedModel:
    return smaller(factories.tiny_mlp())


def onnx_output(path: Path, **inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest entry, entry by entry."""
    pairs = zip(found.ravel().tolist(), wanted.ravel().tolist(), strict=True)
    differences = [abs(one - other) for one, other in pairs]
    return max(differences) / max(abs(value) for value in wanted.ravel().tolist())


@pytest.mark.long
def test_a_bert_goes_to_onnx_with_any_batch_and_length(tmp_path: Path) -> None:
    edited = smaller(factories.tiny_bert(num_hidden_layers=1))
    before = model_hash(edited.model)
    done = export_model(edited, tmp_path / "bert.onnx")
    assert done.inputs == {"input_ids": (None, None), "attention_mask": (None, None)}
    assert done.compared == (((4, 16), (4, 16)), ((5, 16), (5, 16)), ((4, 8), (4, 8)))
    assert done.bytes == (tmp_path / "bert.onnx").stat().st_size
    session = onnxruntime.InferenceSession(str(tmp_path / "bert.onnx"))
    sizes = ["batch", "input_ids_length"]
    assert [i.shape for i in session.get_inputs()] == [sizes, sizes]
    assert session.get_outputs()[0].shape == [*sizes, 32]
    worst = []
    for rows, length in ((4, 16), (5, 16), (4, 8), (2, 11)):
        ids, mask = (torch.cat([t, t])[:rows, :length] for t in edited.inputs)
        wanted = run(edited.model, edited.input_names, (ids, mask)).numpy()
        found = onnx_output(tmp_path / "bert.onnx", input_ids=ids, attention_mask=mask)
        worst.append(largest(found, wanted))
    assert max(worst) < 1e-5
    assert 0 < done.difference < 1e-5
    assert model_hash(edited.model) == before


@pytest.mark.long
def test_experts_go_to_onnx_too(tmp_path: Path) -> None:
    model, data = factories.tiny_mixtral(num_hidden_layers=1, num_local_experts=2)
    before = model_hash(model)
    ids = data["input_ids"][:4]
    done = export_model(model, tmp_path / "experts.onnx", inputs={"input_ids": ids})
    assert done.inputs == {"input_ids": (None, None)}
    found = onnx_output(tmp_path / "experts.onnx", input_ids=ids[:3, :9])
    assert largest(found, run(model, ["input_ids"], (ids[:3, :9],)).numpy()) < 1e-5
    assert model_hash(model) == before
    assert model.config._experts_implementation == "grouped_mm"  # type: ignore[union-attr]


def test_pt2_is_exact_and_keeps_precision_and_names(mlp: EditedModel, tmp_path: Path) -> None:
    done = zsei.export(mlp, tmp_path / "mlp.pt2")
    assert (done.to, done.difference, done.inputs) == ("pt2", 0.0, {"input": (None, 8)})
    loaded = torch.export.load(tmp_path / "mlp.pt2").module()
    x = torch.randn(7, 8)
    assert torch.equal(loaded(x), mlp.model(x))
    model, data = factories.tiny_mlp()
    half = model.to(torch.bfloat16)
    x = data[0][:4].to(torch.bfloat16)
    zsei.export(half, tmp_path / "half.pt2", inputs={"input": x})
    assert torch.equal(torch.export.load(tmp_path / "half.pt2").module()(x), half(x))


@pytest.mark.long
def test_the_command_exports_a_saved_folder(
    mlp: EditedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(mlp, tmp_path / "saved")
    out = tmp_path / "mlp.onnx"
    assert main(["export", str(tmp_path / "saved"), "--out", str(out), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["to"], body["inputs"]) == ("onnx", {"input": [None, 8]})
    x = torch.randn(3, 8)
    assert largest(onnx_output(out, input=x), mlp.model(x).detach().numpy()) < 1e-5
    words = ["export", str(tmp_path / "saved"), "--to", "pt2", "--out", str(tmp_path / "program")]
    assert main(words) == 0
    assert "takes input [any, 8]" in capsys.readouterr().out
    weights = tmp_path / "saved" / "program.pt2"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "no.onnx")]) == 1
    assert "Copy the folder again" in capsys.readouterr().err
    assert not (tmp_path / "no.onnx").exists()


def test_half_precision_goes_to_onnx_in_full_only(tmp_path: Path) -> None:
    model, data = factories.tiny_mlp()
    model, x = model.to(torch.float16), data[0][:4].to(torch.float16)
    with pytest.raises(ExportError, match=r"holds float16\. Export it in float32 \(--float32"):
        export_model(model, tmp_path / "half.onnx", inputs={"input": x})
    assert list(tmp_path.iterdir()) == []
    export_model(model, tmp_path / "full.onnx", inputs={"input": x}, float32=True)
    found = onnx_output(tmp_path / "full.onnx", input=x.float())
    assert largest(found, model.float()(x.float()).detach().numpy()) < 1e-5


def test_a_folder_that_was_never_edited_is_exported_with_its_mask(tmp_path: Path) -> None:
    model, data = factories.tiny_bert(num_hidden_layers=1)
    model.save_pretrained(tmp_path / "plain")  # type: ignore[operator]
    done = export_model(tmp_path / "plain", tmp_path / "bert.pt2")
    assert done.inputs == {"input_ids": (None, None), "attention_mask": (None, None)}
    ids, mask = (data[name][:4] for name in done.inputs)
    assert float((mask == 0).sum()) > 0
    found = torch.export.load(tmp_path / "bert.pt2").module()(ids, mask)
    assert torch.equal(found, run(model, tuple(done.inputs), (ids, mask)))


class OneSize(nn.Module):
    """Its code asks for the very number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(4, 5)


def test_a_model_of_one_size_is_exported_at_that_size(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    done = export_model(OneSize(), tmp_path / "one.pt2", inputs={"x": x})
    assert (done.inputs, done.compared) == ({"x": (4, 6)}, (((4, 6),),))


class Unexportable(nn.Module):
    """Its path depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_a_failed_export_leaves_no_file(
    mlp: EditedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = {"x": torch.randn(4, 6)}
    with pytest.raises(ExportError, match="Control flow that depends on data"):
        export_model(Unexportable(), tmp_path / "no.onnx", inputs=x)
    with pytest.raises(UsageError, match="ends in neither"):
        export_model(mlp, tmp_path / "model.bin")
    with pytest.raises(UsageError, match="needs example inputs"):
        export_model(OneSize(), tmp_path / "no.pt2")
    with pytest.raises(ModelError, match="exists as none of them"):
        export_model(tmp_path / "nowhere", tmp_path / "no.pt2")
    write = exporting._write_pt2

    def shifted(*given: object) -> exporting.Run:
        again = write(*given)  # type: ignore[arg-type]
        return lambda inputs: again(inputs) * (1 + 3e-4)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write_pt2", shifted)
        with pytest.raises(ExportError, match=r"within 0\.0001 .* this pt2 differs by 3\.0e-04"):
            export_model(mlp, tmp_path / "no.pt2")
    with monkeypatch.context() as patch:
        found = exporting.check_installed.__globals__["find_spec"]
        patch.setattr(
            "zsei.surgery.export_onnx.find_spec", lambda n: None if n == "onnx" else found(n)
        )
        with pytest.raises(ExportError, match=r"installed: onnx\. .*pip install 'zsei\[onnx\]'"):
            export_model(mlp, tmp_path / "no.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.pt2").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.pt2 exists"):
        export_model(mlp, tmp_path / "mine.pt2")
    assert (tmp_path / "mine.pt2").read_text() == "mine"
