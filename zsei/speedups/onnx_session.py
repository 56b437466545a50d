"""A model as an ONNX Runtime session: export, session, and the module that calls it."""

import ast
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsei.errors import ExportError, SpeedUpRefused, UsageError
from zsei.speedups.runnable import Runnable
from zsei.speedups.weighted import one_line, refuse_opaque
from zsei.speedups.workload import Workload
from zsei.subject.program import MainOutput, frozen_twin
from zsei.surgery.export_onnx import LARGEST, check_installed

Optimisation = Literal["none", "basic", "extended", "all"]
_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT = "model."
"""What `MainOutput` puts before the names of the user's modules."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How a session runs."""

    threads: int
    """Threads that share one operation."""
    inter_threads: int = 1
    """Operations that run side by side."""
    optimisation: Optimisation = "all"
    """How much of the graph is fused when it is loaded."""


@contextmanager
def exported(runnable: Runnable, workload: Workload, title: str) -> Iterator["Exported"]:
    """A model written as ONNX into a folder that is gone afterwards; sessions made of it stay.

    Args:
        runnable: The steps so far; its model must be in float32 and on the CPU.
        workload: Batches it must run on.
        title: Names the speed-up in refusals.

    Raises:
        SpeedUpRefused: A package is missing, or the model cannot be expressed in ONNX.
    """
    _check(runnable, workload, title)
    with tempfile.TemporaryDirectory(prefix="zsei-onnx-") as folder:
        yield Exported(runnable, workload, title, Path(folder) / "model.onnx")


class Exported:
    """An ONNX file of a model, from which sessions are made."""

    def __init__(self, runnable: Runnable, workload: Workload, title: str, path: Path):
        self.title = title
        self.path = path
        self._runnable = runnable
        self._workload = workload
        self.products: Mapping[str, frozenset[str]] = self._write()
        """Node name of every matrix product -> paths of the modules it stands in."""

    def _write(self) -> Mapping[str, frozenset[str]]:
        twin = frozen_twin(self._runnable.module)
        choose = getattr(twin, "set_attn_implementation", None)
        if callable(choose):
            # Plain products and a softmax are what the runtime fuses; which torch kernel an
            # earlier step chose means nothing there.
            choose("eager")
        inputs = _example(self._workload)
        auto = torch.export.Dim.AUTO
        shapes = {"inputs": tuple(dict.fromkeys(range(t.ndim), auto) for t in inputs)}
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with quiet(), torch.no_grad():
                program = torch.onnx.export(
                    MainOutput(twin, self._runnable.input_names).eval(), inputs,
                    dynamic_shapes=shapes, dynamo=True, verbose=False,
                    input_names=list(self._runnable.input_names), output_names=["output"],
                )  # fmt: skip
                assert program is not None
                size = sum(weight.nbytes for weight in twin.parameters())
                program.save(str(self.path), external_data=size > LARGEST)
        except Exception as error:
            raise SpeedUpRefused(
                f"{self.title} needs the model as ONNX; the export stopped with "
                f"{one_line(error)}. Control flow that depends on data and operators that ONNX "
                f"lacks are the usual causes."
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
        return {
            str(node.name): _scopes(node)
            for node in program.model.graph.all_nodes()
            if node.op_type in ("MatMul", "Gemm")
        }

    def file(self, name: str) -> Path:
        """A path beside the export, for another version of it."""
        return self.path.with_name(name)

    def run(self, path: Path, settings: SessionSettings) -> Runnable:
        """A runnable that runs an ONNX file of this model.

        Raises:
            SpeedUpRefused: The runtime refuses the file, or one of the workload's batches.
        """
        runnable = self._runnable
        try:
            session = _session(path, settings)
            module = OnnxModule(session, runnable.input_names)
            found = runnable.with_module(module, main_only=True)
            for inputs in shapes_of(self._workload):
                found(inputs)
        except Exception as error:
            raise SpeedUpRefused(
                f"{self.title} must run the exported model on batches of every shape; ONNX "
                f"Runtime stopped with {one_line(error)}. A size that the export took for fixed "
                f"is a usual cause."
            ) from error
        return found


class OnnxModule(nn.Module):
    """Calls a session with tensors by position or by name; gives the main output alone."""

    def __init__(self, session: Any, input_names: tuple[str, ...]):
        super().__init__()
        self.session = session
        self.input_names = input_names
        self._read = tuple(given.name for given in session.get_inputs())

    def forward(self, *args: Tensor, **named: Tensor | None) -> Tensor:
        """The main output, float32, on the CPU."""
        given = dict(zip(self.input_names, args, strict=False)) | {
            name: value for name, value in named.items() if value is not None
        }
        unknown = [name for name in given if name not in self.input_names]
        missing = [name for name in self._read if name not in given]
        if unknown or missing or len(args) > len(self.input_names):
            raise UsageError(
                f"A model that ONNX Runtime runs takes what it was exported with, "
                f"{', '.join(self.input_names)}; "
                f"{'missing: ' + ', '.join(missing) if missing else 'given besides: '}"
                f"{', '.join(unknown)}. Give these and no others."
            )
        arrays = {name: given[name].detach().contiguous().numpy() for name in self._read}
        return torch.from_numpy(self.session.run(["output"], arrays)[0])

    def __deepcopy__(self, memo: object) -> "OnnxModule":
        """Itself: a session cannot be copied and holds nothing that a call changes."""
        del memo
        return self


def shapes_of(workload: Workload) -> tuple[tuple[Tensor, ...], ...]:
    """Inputs of one batch of every shape there is, calibration and held-out."""
    found = {
        tuple(tuple(tensor.shape) for tensor in batch.inputs): batch.inputs
        for batch in (*workload.calibration, *workload.held_out)
    }
    return tuple(found.values())


def _check(runnable: Runnable, workload: Workload, title: str) -> None:
    if workload.device.is_cuda:
        raise SpeedUpRefused(
            f"{title} runs on the CPU here; the device is {workload.device.torch}. Use "
            f"--device cpu."
        )
    try:
        check_installed()
    except ExportError as error:
        raise SpeedUpRefused(f"{title}: {error}") from error
    refuse_opaque(runnable, title)
    types = {
        str(w.dtype)[6:]
        for w in runnable.module.parameters()
        if w.is_floating_point() and w.dtype != torch.float32
    }
    if types:
        raise SpeedUpRefused(
            f"{title} starts from a model in float32; an earlier step turned weights into "
            f"{', '.join(sorted(types))}. Leave lower-precision out: eight bits are its own."
        )


def _example(workload: Workload) -> tuple[Tensor, ...]:
    """A batch to export with; never a single sample, whose size 1 would be taken for fixed."""
    inputs = workload.calibration[0].inputs
    return tuple(torch.cat([t, t]) for t in inputs) if len(inputs[0]) == 1 else inputs


def _scopes(node: Any) -> frozenset[str]:
    """Paths in the user's model of the modules that a node comes from."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset(str(name).removeprefix(_ROOT) for name in scopes)


def _session(path: Path, settings: SessionSettings) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.inter_threads
    if settings.inter_threads > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # Threads that wait by spinning would take the cores from whatever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL, "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED, "all": levels.ORT_ENABLE_ALL,
    }[settings.optimisation]  # fmt: skip
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter and the quantiser log and warn of on their way."""
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logged)
