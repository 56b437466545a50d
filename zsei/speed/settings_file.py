"""The settings file of a measurement: written from what was accepted, read back strictly."""

import json
from pathlib import Path

import torch
from pydantic import ValidationError

from zsei.errors import DataError, UsageError
from zsei.speed.record import SETTINGS_VERSION, InputShape, SpeedSettings, Trial
from zsei.speedups.known import check_step
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch

FILE = "speed.json"


def settings_of(workload: Workload, trial: Trial, versions: dict[str, str]) -> SpeedSettings:
    """What `zsei.load` needs to run the model as this trial did."""
    subject, device = workload.subject, workload.device
    return SpeedSettings(
        model=subject.source.name,
        kind=subject.source.kind,
        model_hash=subject.model_hash,
        inputs=input_shapes(workload.calibration[0], workload.input_names),
        device="cuda" if device.is_cuda else "cpu",
        steps=trial.steps,
        speed_up=trial.speed_up,
        measured_on=f"{device.name}, {workload.threads} threads",
        versions=versions,
    )


def input_shapes(batch: Batch, names: tuple[str, ...]) -> tuple[InputShape, ...]:
    """Shape, type and range of each input of a batch; no value of a sample itself."""
    found = []
    for name, tensor in zip(names, batch.inputs, strict=True):
        whole = not tensor.is_floating_point() and tensor.dtype != torch.bool
        is_mask = batch.mask is not None and tensor.shape == batch.mask.shape
        found.append(
            InputShape.model_validate(
                {
                    "name": name,
                    "shape": tuple(tensor.shape),
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "low": int(tensor.min()) if whole else 0,
                    "high": int(tensor.max()) if whole else 0,
                    "mask": is_mask and torch.equal(tensor != 0, batch.mask),  # type: ignore[arg-type]
                }
            )
        )
    return tuple(found)


def read_settings(path: Path | str) -> SpeedSettings:
    """Read a settings file; nothing in it is run.

    Raises:
        UsageError: There is no such file, it is of a newer version, or it names a speed-up or a
            parameter that does not exist here.
        DataError: It is damaged, or something else than a settings file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"A settings file must be there and readable; {path} is not "
            f"({error.strerror or error}). `zsei speed MODEL --out DIR` writes DIR/{FILE}."
        ) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict) or "steps" not in content:
        raise _damaged(path, "it holds no steps")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SETTINGS_VERSION:
        raise UsageError(
            f"A settings file must be of version {SETTINGS_VERSION} or older; {path.name} is of "
            f"version {version}. Update zsei, or measure again with `zsei speed`."
        )
    try:
        found = SpeedSettings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise _damaged(path, f"{where}: {first['msg']}") from error
    for step in found.steps:
        check_step(step, found.use)
    return found


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"A settings file must be whole, as `zsei speed --out` wrote it; {path.name} is not: "
        f"{why[:200]}. Measure again, or restore the file."
    )
