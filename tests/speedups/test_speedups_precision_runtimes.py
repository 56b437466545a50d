"""Other runtimes give the model's outputs; eight bits give what eight bits by hand give."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.precision import int8_dynamic_linear, int8_weights
from precision_models import linear, of_family, spiky, workload
from torch import Tensor, nn

from zsei.errors import ExportError, SpeedUpRefused, UsageError
from zsei.speedups import carry_out, onnx_session
from zsei.speedups.compiled import Compiled, CompileParams
from zsei.speedups.int8 import Int8, Int8Params
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import EXACT, Step
from zsei.speedups.workload import Workload
from zsei.subject.program import model_hash


def with_steps(given: Workload, *names: str, **params: Any) -> Runnable:
    """The last step has the parameters."""
    before = [Step(speedup=name) for name in names[:-1]]
    return carry_out([*before, Step(speedup=names[-1], params=params)], given)


def moved(given: Workload, runnable: Runnable) -> float:
    inputs = given.held_out[0].inputs
    clean = carry_out((), given)(inputs)
    return float((runnable(inputs) - clean).norm() / clean.norm())


def array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_onnx_runtime_gives_the_outputs_and_changes_nothing(folders: Path) -> None:
    given = linear()
    before, threads = model_hash(given.model), torch.get_num_threads()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    runnable = with_steps(given, "onnx-runtime", threads=1)
    assert moved(given, runnable) <= EXACT
    other = torch.randn(3, 12)  # a batch of a size that was never seen
    assert torch.allclose(runnable([other]), given.model(other), atol=EXACT)
    assert runnable.main_only
    assert model_hash(given.model) == before
    assert torch.get_num_threads() == threads
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert not list(folders.glob("zsei-onnx-*"))
    with pytest.raises(UsageError, match="exported with, x"):
        runnable.module(x=other, mask=other)
    with pytest.raises(SpeedUpRefused, match="opaque"):
        Compiled().apply(runnable, CompileParams(), given)


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "resnet", "lstm", "encoder", "patchtst"])
def test_onnx_runtime_runs_every_family(name: str) -> None:
    given = of_family(name)
    assert moved(given, with_steps(given, "onnx-runtime")) <= EXACT


@pytest.mark.long
@pytest.mark.parametrize("mode", ["dynamic", "blocks", "weights"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "encoder"])
def test_eight_bits_run_every_family(name: str, mode: str) -> None:
    given = of_family(name)
    assert 0 < moved(given, with_steps(given, "int8", mode=mode)) < 0.05


def test_dynamic_eight_bits_are_what_plain_loops_give() -> None:
    given = linear()
    layer = given.model[0]  # type: ignore[index]
    x = given.held_out[0].inputs[0]
    wanted = int8_dynamic_linear(array(x), array(layer.weight), array(layer.bias))  # type: ignore[union-attr]
    found = array(with_steps(given, "int8")([x]))
    clean = array(given.model(x))
    # A value that lies between two levels may go either way; the error of all eight bits is larger.
    assert np.abs(found - wanted).max() < 0.2 * np.abs(found - clean).max()


@pytest.mark.long
def test_eight_bit_weights_are_what_plain_loops_give() -> None:
    given = linear()
    layer = given.model[0]  # type: ignore[index]
    x = given.held_out[0].inputs[0]
    weight = int8_weights(array(layer.weight), 128)  # type: ignore[union-attr]
    wanted = array(x) @ weight.T + array(layer.bias)  # type: ignore[union-attr]
    found = array(with_steps(given, "int8", mode="weights")([x]))
    assert np.abs(found - wanted).max() < 0.2 * np.abs(found - array(given.model(x))).max()


@pytest.mark.long
def test_one_large_value_destroys_eight_bits_and_its_layer_is_kept() -> None:
    given = spiky()
    assert moved(given, with_steps(given, "int8")) > 0.3
    assert moved(spiky(planted=False), with_steps(spiky(planted=False), "int8")) < 0.02
    assert moved(given, with_steps(given, "int8", keep=["middle"])) < 0.02
    offered = Int8().variants(given)
    assert all(isinstance(params, Int8Params) for params in offered)
    assert offered[-1] == Int8Params()
    assert all("middle" in p.keep for p in offered if p.mode == "dynamic" and p.keep)  # type: ignore[attr-defined]


class Sorted(nn.Module):
    """Branches on data, which no export can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(x.sum() > 0) else -self.inner(x)


@pytest.mark.long
def test_a_model_that_cannot_be_exported_is_refused_with_the_reason(folders: Path) -> None:
    given = replace(workload(nn.Linear(4, 4), [torch.randn(8, 4)]), model=Sorted().eval())
    with pytest.raises(SpeedUpRefused, match="export stopped with"):
        with_steps(given, "onnx-runtime")
    assert not list(folders.glob("zsei-onnx-*"))


def test_missing_packages_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise ExportError("Install them with `pip install 'zsei[onnx]'`.")

    monkeypatch.setattr(onnx_session, "check_installed", missing)
    for name in ("onnx-runtime", "int8"):
        with pytest.raises(SpeedUpRefused, match=r"zsei\[onnx\]"):
            with_steps(linear(), name)


@pytest.mark.parametrize("name", ["onnx-runtime", "int8"])
def test_after_lower_precision_another_runtime_is_refused_by_name(name: str) -> None:
    with pytest.raises(SpeedUpRefused, match=r"bfloat16.*Leave lower-precision out"):
        with_steps(linear(), "lower-precision", name)


@pytest.mark.long
def test_nothing_left_to_quantise_is_said() -> None:
    with pytest.raises(SpeedUpRefused, match="none is left"):
        with_steps(linear(), "int8", keep=["0"])


@pytest.mark.long
@pytest.mark.parametrize("freeze", [False, True], ids=["plain", "frozen"])
@pytest.mark.parametrize("steps", [("compile",), ("lower-precision", "compile")])
def test_a_compiled_model_gives_the_same_outputs(steps: tuple[str, ...], freeze: bool) -> None:
    import torch._inductor.config as inductor

    given = of_family("bert")
    before = model_hash(given.model)
    inputs = given.held_out[0].inputs
    plain = carry_out([Step(speedup=name) for name in steps[:-1]], given)(inputs)
    compiled = with_steps(given, *steps, dynamic=True, freeze=freeze)
    assert not inductor.freezing, "set around calls alone"
    bound = EXACT if len(steps) == 1 else 0.02
    assert float((compiled(inputs) - plain).norm() / plain.norm()) <= bound
    assert type(compiled.module) is type(given.model)
    assert model_hash(given.model) == before
    torch.compiler.reset()


def test_a_failure_of_the_compiler_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(self: nn.Module, **options: object) -> None:
        raise RuntimeError("no kernel for this call\nand much more")

    monkeypatch.setattr(nn.Module, "compile", compile_)
    with pytest.raises(SpeedUpRefused, match="no kernel for this call") as told:
        with_steps(linear(), "compile")
    assert "much more" not in str(told.value)


def test_without_a_compiler_compilation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no g++ here")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(SpeedUpRefused, match=r"C\+\+ compiler"):
        Compiled().variants(linear())


def test_sizes_are_open_where_batches_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsei.speedups.compiled.check_compiler", lambda workload: None)
    same = workload(nn.Sequential(nn.Linear(4, 4)), [torch.randn(16, 4)])
    other = workload(nn.Sequential(nn.Linear(4, 4)), [torch.randn(12, 4)])
    assert Compiled().variants(same) == (CompileParams(freeze=True),)
    assert Compiled().variants(other) == (CompileParams(freeze=True, dynamic=True),)
