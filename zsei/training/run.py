"""Where a training run's mail lies, and what the analysis of it begins with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.run_folder import RunFolder
from zsei.errors import OutputError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def configuration(
    given: CheckpointConfig | Path | str | Mapping[str, Any] | None,
) -> CheckpointConfig:
    """The configuration as it may be given: itself, a YAML or TOML file, or a dictionary.

    Raises:
        UsageError: A key is unknown or a value does not fit.
    """
    from zsei.checkpoint.read_config import config_of, read_config

    if isinstance(given, CheckpointConfig):
        return given
    if isinstance(given, str | Path):
        return read_config(Path(given))
    return config_of(None if given is None else dict(given), "the dictionary")


def open_run(
    run: str, folder: Path | str | None, home: Path, *, new: bool = True
) -> tuple[str, RunFolder]:
    """Name and folder of a new run.

    Without a folder it is `runs/NAME` in the home of memory; where a run of that name was before,
    this one is `NAME-2` and so on.

    Args:
        run: Its name.
        folder: Its folder, or None.
        home: Home of memory.
        new: Whether there must not be one yet.

    Raises:
        UsageError: The name names no folder, or the folder holds the mail of a run already.
        OutputError: The folder cannot be made.
    """
    if _NAME.fullmatch(run) is None:
        raise UsageError(
            f"A run's name is made of letters, digits, `.`, `_` and `-` and begins with a letter "
            f"or digit; {run!r:.120} is not."
        )
    if folder is None:
        name, number = run, 1
        while new and _used(home / "runs" / name):
            number += 1
            name = f"{run}-{number}"
        run, path = name, home / "runs" / name
    else:
        path = Path(folder)
        if new and _used(path):
            raise UsageError(
                f"A run has a folder of its own, and {path} holds the requests of another. Name "
                "a new folder; a run that was interrupted goes on as a new one, from the model as "
                "it is now."
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"A run's folder must be writable; {path} is not ({error.strerror or error})."
        ) from error
    return run, RunFolder(path=path.resolve())


def _used(path: Path) -> bool:
    return (path / "end").exists() or any((path / "requests").glob("*.json"))
