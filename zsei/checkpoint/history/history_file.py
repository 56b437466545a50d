"""A history on disk: one safetensors file, written whole or not at all, read without a pickle."""

import json
import os
import secrets
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsei.checkpoint.history.history import History
from zsei.errors import MemoryDamaged, OutputError, UsageError

_STEPS, _VALUES = "steps", "values/"


def save_history(history: History, path: Path) -> None:
    """Write a history: steps [c] as int64, importance [c, u] by component as float32.

    What was at `path` stays until the new file is whole.

    Raises:
        OutputError: When it cannot be written.
    """
    arrays = {_STEPS: np.array(history.steps, dtype=np.int64)}
    arrays |= {_VALUES + name: np.ascontiguousarray(x) for name, x in history.values.items()}
    settings = {"version": 1, "momentum": history.momentum, "kept": history.kept}
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(save(arrays, metadata={"history": json.dumps(settings)}))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"The importance history must be written whole, and `{path.name}` cannot be "
            f"({error.strerror or error}). Free the disk or grant the permission."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def load_history(path: Path) -> History:
    """Read a history that `save_history` wrote.

    Raises:
        UsageError: When there is no such file.
        MemoryDamaged: When the file is not a whole history.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no importance history at `{path}`; name the file it was saved to."
        )
    try:
        with safe_open(path, framework="np") as file:
            settings = json.loads((file.metadata() or {})["history"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if settings.pop("version") != 1:
            raise ValueError("it was written by another version")
        steps = tuple(int(step) for step in arrays.pop(_STEPS))
        values = {name.removeprefix(_VALUES): x for name, x in arrays.items()}
        _check(steps, {name: x.shape for name, x in arrays.items()})
        return History(steps=steps, values=dict(sorted(values.items())), **settings)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, UsageError) as error:
        raise MemoryDamaged(
            f"An importance history is one whole safetensors file, and `{path.name}` is not "
            f"({type(error).__name__}: {error}). Restore it from a copy or begin a new history."
        ) from error


def _check(steps: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    if list(steps) != sorted(set(steps)):
        raise ValueError("its steps do not rise")
    for name, shape in shapes.items():
        if not name.startswith(_VALUES) or len(shape) != 2 or shape[0] != len(steps):
            raise ValueError(f"{name} is {shape}, and {len(steps)} checkpoints were kept")
