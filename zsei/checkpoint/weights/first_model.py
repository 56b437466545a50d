"""The model of a folder of Hugging Face checkpoints, when nobody names one."""

import os
import shutil
from pathlib import Path

from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.weights.find import Found, find_checkpoints
from zsei.checkpoint.weights.weight_files import holds_weights, weight_files
from zsei.checkpoint.weights.whole import why_not_whole
from zsei.errors import ModelError, OutputError, UsageError

_BESIDE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model",
    "modules.json", "chat_template.jinja",
)  # fmt: skip


def first_model(folder: Path, run: RunFolder) -> Path | None:
    """A folder with the model of the first checkpoint that says what it is; None while there is no
    checkpoint at all.

    It stays with the run: checkpoints are taken away as training goes on. Weights are linked where
    the disk allows it, so they take no room.

    Raises:
        UsageError: There is no such folder, or none of its checkpoints says what it is.
        OutputError: The run's folder cannot be written.
    """
    kept = run.path / "model"
    if (kept / "config.json").is_file():
        return kept
    found = find_checkpoints(folder)
    for at in found:
        if (at.path / "config.json").is_file() and _is_whole(at):
            return _kept(at.path, kept)
    if not found or any((at.path / "config.json").is_file() for at in found):
        return None
    raise UsageError(
        f"Without --model the model is read from a checkpoint's config.json, and {found[0].name} "
        f"in {str(folder)!r} has none. Name the model with --model, such as package.module:factory."
    )


def has_checkpoints_below(folder: Path, depth: int = 3) -> Path | None:
    """A folder below this one that checkpoints lie in; None when there is none nearby."""
    below = [folder]
    for _ in range(depth):
        try:
            below = sorted(child for at in below for child in at.iterdir() if child.is_dir())[:200]
        except OSError:
            return None
        for at in below:
            try:
                if find_checkpoints(at):
                    return at
            except (UsageError, OSError):
                continue
    return None


def _is_whole(at: Found) -> bool:
    try:
        return not why_not_whole(at.path)
    except OSError:
        return False


def _kept(source: Path, kept: Path) -> Path:
    draft = kept.with_name(".model")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        weights = weight_files(source)
        beside = [source / name for name in _BESIDE if (source / name).is_file()]
        for file in (*beside, *source.glob("*.index.json")):
            shutil.copyfile(file, draft / file.name)
        for file in weights:
            if holds_weights(file):
                _link(file, draft / file.name)
        draft.replace(kept)
    except (OSError, ModelError) as error:
        raise OutputError(
            f"The model of a run is kept in its folder, and {kept} cannot be written ({error}). "
            "Free the disk, grant the permission, or name the model with --model."
        ) from error
    return kept


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
