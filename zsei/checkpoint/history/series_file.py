"""The series of a run on disk: one safetensors file, written whole or not at all."""

import json
import os
import secrets
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsei.checkpoint.history.history import History
from zsei.checkpoint.history.series import Series
from zsei.errors import MemoryDamaged, OutputError, UsageError

PARTS = ("numbers", "activity", "pairs")


def save_series(series: Series, path: Path) -> None:
    """Write a series; what was at `path` stays until the new file is whole.

    Raises:
        OutputError: When it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    settings: dict[str, object] = {"version": 1}
    for part in PARTS:
        history: History = getattr(series, part)
        arrays[f"{part}/steps"] = np.array(history.steps, dtype=np.int64)
        for name, rows in history.values.items():
            arrays[f"{part}/values/{name}"] = np.ascontiguousarray(rows)
        settings[part] = {"momentum": history.momentum, "kept": history.kept}
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(save(arrays, metadata={"series": json.dumps(settings)}))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"The series of a run must be written whole, and `{path.name}` cannot be "
            f"({error.strerror or error}). Free the disk or grant the permission."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def load_series(path: Path) -> Series:
    """Read a series that `save_series` wrote.

    Raises:
        UsageError: When there is no such file.
        MemoryDamaged: When the file is not a whole series.
    """
    if not path.is_file():
        raise UsageError(f"There is no series at `{path}`; name the file it was saved to.")
    try:
        with safe_open(path, framework="np") as file:
            settings = json.loads((file.metadata() or {})["series"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if settings.pop("version") != 1:
            raise ValueError("it was written by another version")
        return Series(**{part: _history(part, arrays, settings[part]) for part in PARTS})
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, UsageError) as error:
        raise MemoryDamaged(
            f"The series of a run are one whole safetensors file, and `{path.name}` is not "
            f"({type(error).__name__}: {error}). Restore it from a copy, or take it away: it is "
            "then begun anew."
        ) from error


def _history(part: str, arrays: dict[str, np.ndarray], settings: dict[str, float]) -> History:
    steps = tuple(int(step) for step in arrays[f"{part}/steps"])
    if list(steps) != sorted(set(steps)):
        raise ValueError(f"the steps of its {part} do not rise")
    begin = f"{part}/values/"
    values = {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}
    for name, rows in values.items():
        if rows.ndim != 2 or len(rows) != len(steps):
            raise ValueError(f"{name} is {rows.shape}, and {len(steps)} checkpoints were kept")
    return History(
        steps=steps, values=dict(sorted(values.items())), momentum=settings["momentum"],
        kept=int(settings["kept"]),
    )  # fmt: skip
