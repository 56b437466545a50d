"""What a modification log says: its steps as data, and what changed from one to the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from zsei.errors import ModelError
from zsei.records import Record, Verdict
from zsei.surgery.objects import KeptFile
from zsei.surgery.recipe import SavedEdit
from zsei.surgery.state import TensorState

LOG = "zsei-log.json"


class LogStep(Record):
    """One step: the model with all edits since the original."""

    number: int
    form: Literal["source", "huggingface", "module", "program"]
    """The kind of folder it is kept as; source: the files the original came from."""
    edits: tuple[SavedEdit, ...] = ()
    """All edits since the original, not only those of this step."""
    parameters_before: int
    """Parameters of the step before, tied ones once."""
    parameters_after: int
    state: str
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers (`model_hash`)."""
    tensors: dict[str, TensorState]
    files: tuple[KeptFile, ...]
    verdict: Verdict | None = None
    """What the gate measured of it."""
    note: str = ""


class History(Record):
    """A log: its steps, and when each was made, apart from what was made."""

    schema_version: Literal[1] = 1
    source: str
    """As the user named the original model."""
    model_class: str
    original_kept: bool = True
    """Whether the original's tensors are in the log; else step 0 needs the original."""
    steps: tuple[LogStep, ...]
    times: tuple[str, ...]
    """When each step was made, UTC."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Names of parameters and buffers that differ between two steps."""

    cut: tuple[str, ...]
    """Of another shape."""
    revalued: tuple[str, ...]
    """Of the same shape with other values."""
    gone: tuple[str, ...]
    new: tuple[str, ...]


def changes(before: LogStep, after: LogStep) -> Changes:
    """What became of every tensor from one step to another."""
    old, new = before.tensors, after.tensors
    both = [name for name in old if name in new]
    return Changes(
        cut=tuple(name for name in both if old[name].shape != new[name].shape),
        revalued=tuple(
            name
            for name in both
            if old[name].shape == new[name].shape and old[name].sha256 != new[name].sha256
        ),
        gone=tuple(name for name in old if name not in new),
        new=tuple(name for name in new if name not in old),
    )


def read_history(folder: Path) -> History:
    """The history in a log's folder.

    Raises:
        ModelError: There is none, or it is not what zsei wrote.
    """
    path = folder / LOG
    if not path.is_file():
        raise ModelError(
            f"A modification log is a folder with a {LOG}; {folder} has none. Name the folder "
            f"that ModificationLog.start made."
        )
    try:
        return History.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{LOG} in {folder} is not what this zsei writes ({str(error).splitlines()[0]}). "
            f"Update zsei, or use a copy of the log."
        ) from error
