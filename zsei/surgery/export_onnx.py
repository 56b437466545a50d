"""Writes an exported program as ONNX and runs it, with packages that only this needs."""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsei.errors import ExportError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 1_900_000_000
"""Bytes of weights; above, an ONNX file (2 GiB at most) has them in `<file>.data` beside it."""


def check_installed() -> None:
    """Raise ExportError with the line that installs what is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX export needs packages that are not installed: {', '.join(missing)}. Install "
            f"them with `pip install 'zsei[onnx]'`, or export to pt2."
        )


def write_onnx(exported: torch.export.ExportedProgram, path: Path, names: Sequence[str]) -> None:
    """Write a program as ONNX; its output is called `output`.

    Args:
        exported: From `torch.export`; sizes it leaves open stay open.
        path: The file. Large weights lie beside it, and both files belong together.
        names: Names of the inputs.
    """
    size = sum(tensor.nbytes for tensor in exported.state_dict.values())
    # What torch logs and warns of here is about operators that this program may not even call.
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exported,
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=["output"],
            )
            assert program is not None
            _name_axes(program.model.graph, names)
            program.save(str(path), external_data=size > LARGEST)
    finally:
        logging.disable(logged)


def _name_axes(graph: Any, names: Sequence[str]) -> None:
    """Call open sizes `batch`, `<input>_length` or `<input>_<axis>`, where torch calls them s72."""
    known: dict[str, str] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape):
            ending = "length" if len(value.shape) == 2 else str(axis)
            name = f"{value.name}_{ending}" if axis else "batch"
            if isinstance(size, int) or value.name not in names:
                continue
            known.setdefault(str(size.value), name)
    results = (output for node in graph.all_nodes() for output in node.outputs)
    for value in (*graph.inputs, *results):
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                value.shape[axis] = re.sub(r"\w+", lambda w: known.get(w[0], w[0]), size.value)


def onnx_runner(path: Path, names: Sequence[str]) -> Callable[[Sequence[Tensor]], Tensor]:
    """What runs an ONNX file on the CPU, with one thread, as a function of its inputs in order.

    An input that the model does not read is none of the file's, and is left out.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    read = {given.name for given in session.get_inputs()}

    def again(inputs: Sequence[Tensor]) -> Tensor:
        given = {n: t.numpy() for n, t in zip(names, inputs, strict=True) if n in read}
        return torch.from_numpy(session.run(["output"], given)[0])

    return again
