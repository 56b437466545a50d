"""Which epoch each checkpoint of a foreign folder counts as, and which were seen already.

Epochs are those of the names where all have one. Where only steps are known, or nothing, each
checkpoint counts as an epoch, in the order of steps or of time. That is settled at the first look
and kept with the run, so that it does not change when old checkpoints are taken away.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.weights.find import Found
from zsei.errors import OutputError, UsageError
from zsei.records import Record, digest

FILE = "counted.json"
By = Literal["epochs", "steps", "times"]


class Counted(Record):
    """How the checkpoints of a folder are counted, and how far that has come."""

    folder: str
    """Whose checkpoints; a run is of one folder."""
    by: By | None = None
    """None: nothing was seen yet."""
    from_zero: bool = False
    """Whether its names count epochs from 0."""
    epoch: int = 0
    """The last one; 0 before the first."""
    step: int = -1
    changed: int = -1
    """When the last one was written, ns."""
    seen: dict[str, str] = Field(default_factory=dict)
    """Name -> digest of its stamp, of each that was analysed or refused."""


def begin(counted: Counted, found: Sequence[Found]) -> Counted:
    """Settle how to count, by what lies there at the first look."""
    if counted.by is not None or not found:
        return counted
    epochs, steps = [at.epoch for at in found], [at.step for at in found]
    by: By = "times"
    if None not in epochs and (len(set(epochs)) == len(epochs) or None in steps):
        by = "epochs"
    elif None not in steps:
        by = "steps"
    return counted.model_copy(update={"by": by, "from_zero": by == "epochs" and 0 in epochs})


def in_words(counted: Counted) -> str:
    """What counts as an epoch, where that is not plain; else nothing."""
    if counted.by == "epochs":
        return "Names count epochs from 0; here they count from 1." if counted.from_zero else ""
    order = "of steps" if counted.by == "steps" else "of time, for names give no epoch"
    return f"Each checkpoint counts as an epoch, in the order {order}."


def in_order(counted: Counted, found: Sequence[Found]) -> list[Found]:
    """Checkpoints that are new, or have changed since, in the order they are counted."""
    new = [at for at in found if counted.seen.get(at.name) != _digest(at)]
    if counted.by == "times":
        return sorted(new, key=lambda at: (at.changed, at.name))
    if counted.by == "steps":
        return sorted(new, key=lambda at: (at.step if at.step is not None else -1, at.changed))
    return sorted(new, key=lambda at: (at.epoch if at.epoch is not None else -1, at.changed))


def epoch_of(counted: Counted, found: Found) -> int | str:
    """The epoch a checkpoint counts as; or in one sentence why it does not."""
    if counted.by == "times":
        if found.changed <= counted.changed:
            return "it is older than the one analysed before it; a run goes forward."
        return counted.epoch + 1
    if counted.by == "steps":
        if found.step is None:
            return "its name gives no step, as the others do."
        if found.step <= counted.step:
            return _backwards("step", found.step, counted.step, changed=found.name in counted.seen)
        return counted.epoch + 1
    if found.epoch is None:
        return "its name gives no epoch, as the others do."
    epoch = found.epoch + counted.from_zero
    if epoch < 1:
        return "it is of epoch 0, and the others count from 1."
    if epoch <= counted.epoch:
        return _backwards("epoch", epoch, counted.epoch, changed=found.name in counted.seen)
    return epoch


def seen(counted: Counted, found: Found, epoch: int | None) -> Counted:
    """With a checkpoint that was analysed as an epoch, or refused (None)."""
    names = {**counted.seen, found.name: _digest(found)}
    if epoch is None:
        return counted.model_copy(update={"seen": names})
    step = found.step if found.step is not None else counted.step
    last = {"epoch": epoch, "step": step, "changed": found.changed}
    return counted.model_copy(update={"seen": names, **last})


def load_counted(run: RunFolder, folder: Path) -> Counted:
    """How a folder was counted so far.

    Raises:
        UsageError: The run is that of another folder.
    """
    own = str(folder.resolve())
    try:
        counted = Counted.model_validate_json((run.state / FILE).read_bytes())
    except (OSError, ValidationError):
        return Counted(folder=own, epoch=max(run.epochs("decisions"), default=0))
    if counted.folder != own:
        raise UsageError(
            f"A run is of one folder; `{run.path.name}` is of {counted.folder}, and this is {own}. "
            "Give this one another name with --run."
        )
    return counted


def save_counted(run: RunFolder, counted: Counted) -> None:
    """Keep it with the run, whole.

    Raises:
        OutputError: The folder cannot be written.
    """
    path = run.state / FILE
    draft = path.with_name(f".{FILE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(counted.model_dump_json(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"What was seen of a run must be kept, and {path} cannot be written "
            f"({error.strerror or error}). Free the disk or grant the permission."
        ) from error


def _backwards(what: str, this: int, last: int, *, changed: bool) -> str:
    if changed:
        return "it was analysed already and has changed since; a run goes forward."
    if this == last:
        return f"{what} {this} was analysed already; each is analysed once."
    return f"{what} {this} comes after {what} {last}, and a run goes forward. If training was " + (
        "started again from an older checkpoint, name that run with --run."
    )


def _digest(found: Found) -> str:
    return digest([list(part) for part in found.stamp])
