"""Which checkpoints lie in a folder, and which epoch and step their names give.

A checkpoint is a file of weights, or a folder that holds them. Numbers are read from names:

    epoch=3-step=400.ckpt   Lightning, which counts epochs from 0: the fourth epoch, step 400
    epoch_12.pt, ep12.pth   epoch 12
    checkpoint-500          step 500; the epoch from its `trainer_state.json`, where there is one
    step_500, iter-500      step 500
    000031.safetensors      a number alone, or at the end: epoch 31

What is hidden, temporary (`.tmp`, `.part`, `tmp-checkpoint-5` ...), a link, an optimizer's file or
a single shard is none.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from zsei.checkpoint.weights.weight_files import holds_weights, weight_files
from zsei.errors import ModelError, UsageError

_EPOCH = re.compile(r"(?:^|[^a-z\d])(?:epoch|ep|e)(=)?[-_ ]?(\d{1,9})(?!\d)", re.IGNORECASE)
_STEP = re.compile(
    r"(?:^|[^a-z\d])(?:global[-_]?steps?|steps?|iter(?:ation)?s?|it|checkpoint|ckpt)"
    r"=?[-_ ]?(\d{1,15})(?!\d)",
    re.IGNORECASE,
)
_LAST = re.compile(r"(?:^|[a-z_ -])(\d{1,9})$", re.IGNORECASE)
_TEMPORARY = re.compile(
    r"^[.~]|^te?mp[-_.]|[-_.](?:te?mp|part|partial|incomplete|crdownload|lock|swp)$|~$",
    re.IGNORECASE,
)
_SHARD = re.compile(r"-\d+-of-\d+\.")
_BETWEEN = 0.02
"""Share of an epoch: Trainer says 0.99 or 1.01 where it means the end of the first."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint as it lies there; it may be half written."""

    path: Path
    name: str
    """Of the file or folder."""
    epoch: int | None
    """As its name or its `trainer_state.json` says, counted from 1; None where neither does."""
    step: int | None
    stamp: tuple[tuple[str, int, int], ...]
    """(name, bytes, time of the last change in ns) of its files: another stamp, another content."""

    @property
    def changed(self) -> int:
        """When it was last written to, in ns."""
        return max((changed for _, _, changed in self.stamp), default=0)

    @property
    def numbered(self) -> bool:
        """Whether anything says where in the run it belongs."""
        return self.epoch is not None or self.step is not None


def find_checkpoints(folder: Path) -> tuple[Found, ...]:
    """The checkpoints in a folder, in the order of training.

    By step where all have one, else by epoch, else by when they were written last. Where some are
    numbered, those that are not (`last.ckpt`, `best.pt`, the model saved at the end) are copies of
    them as a rule, and are left out.

    Raises:
        UsageError: There is no such folder.
    """
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is a file" if folder.is_file() else "does not exist"
        raise UsageError(
            f"Checkpoints are looked for in a folder, and {str(folder)!r} {what}. Name the folder "
            "that training writes its checkpoints into."
        ) from error
    except OSError as error:
        raise UsageError(
            f"The folder of checkpoints must be readable, and {str(folder)!r} is not "
            f"({error.strerror or error}). Grant the permission."
        ) from error
    found = [at for at in map(look_at, entries) if at is not None]
    if any(at.numbered for at in found):
        found = [at for at in found if at.numbered]
    if all(at.step is not None for at in found):
        return tuple(sorted(found, key=lambda at: (at.step or 0, at.epoch or 0, at.name)))
    return tuple(
        sorted(found, key=lambda at: (at.epoch or 0, at.step or 0, at.changed, at.name))
        if any(at.numbered for at in found)
        else sorted(found, key=lambda at: (at.changed, at.name))
    )


def look_at(path: Path) -> Found | None:
    """What one entry of a folder is; None when it is no checkpoint, or has gone meanwhile."""
    if _TEMPORARY.search(path.name) or path.is_symlink():
        return None
    try:
        if path.is_dir():
            if not _is_checkpoint(path):
                return None
            files = sorted(child for child in path.iterdir() if child.is_file())
        elif holds_weights(path) and not _SHARD.search(path.name):
            files = [path]
        else:
            return None
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    stem = path.name if path.is_dir() else path.stem
    epoch, step = numbers_of(stem)
    if path.is_dir():
        told_epoch, told_step = _trainer_state(path)
        epoch, step = (told_epoch or epoch), (told_step if told_step is not None else step)
    stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return Found(path=path, name=path.name, epoch=epoch, step=step, stamp=stamp)


def numbers_of(stem: str) -> tuple[int | None, int | None]:
    """(epoch from 1, step) that a name without its suffix gives; None for what it does not."""
    epoch, step = _EPOCH.search(stem), _STEP.search(stem)
    if epoch is not None:
        from_zero = 1 if epoch[1] else 0  # `epoch=3` is how Lightning writes it
        return int(epoch[2]) + from_zero, int(step[1]) if step else None
    if step is not None:
        return None, int(step[1])
    last = _LAST.search(stem)
    return (int(last[1]) if last else None), None


def _is_checkpoint(folder: Path) -> bool:
    if any(folder.glob("*.index.json")):
        return True
    try:
        return bool(weight_files(folder))
    except ModelError:
        return False  # several files of weights: checkpoints of their own


def _trainer_state(folder: Path) -> tuple[int | None, int | None]:
    """Epoch and step as transformers' Trainer notes them beside the weights; no epoch in the middle
    of one.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        epoch, step = state.get("epoch"), state.get("global_step")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None, None
    number = isinstance(epoch, int | float) and not isinstance(epoch, bool)
    over = number and 0.5 < epoch < 1e9 and abs(epoch - round(epoch)) <= _BETWEEN
    return round(epoch) if over else None, step if isinstance(step, int) and step >= 0 else None
