"""Writes an exported program as ONNX and runs it, with packages that only this needs."""

import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

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
            program.save(str(path), external_data=size > LARGEST)
    finally:
        logging.disable(logged)


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
