"""Model and data that a file of claims names; what stands beside the file is found first."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from zsei.claims.claim import ClaimsFile
from zsei.errors import DataError, ModelError
from zsei.settings import Settings
from zsei.subject.load import LoadedModel, load_model, made_by


def model_of(file: ClaimsFile, folder: Path, settings: Settings) -> LoadedModel:
    """Load the model of a file of claims.

    Args:
        file: Names it: a folder or a `.pt2` beside the file, `name:function` with `name.py` beside
            the file, or whatever `zsei.analyze` takes.
        folder: Where the file stands.
        settings: As for `load_model`.

    Raises:
        ModelError: Nothing loadable stands under this name.
    """
    name, _, function = file.model.partition(":")
    script = folder / f"{name}.py"
    if function and script.is_file():
        return made_by(file.model, lambda: _run(script, function))
    beside = folder / file.model
    found = str(beside) if not function and beside.exists() else file.model
    return load_model(found, settings)


def data_of(file: ClaimsFile, folder: Path) -> Any:
    """The data named in the file; None leaves what the factory gave, or the default text.

    Raises:
        DataError: A file does not exist.
    """
    if file.data is None:
        return None
    groups = {"": file.data} if isinstance(file.data, str) else file.data
    found: dict[str, str] = {}
    for name, path in groups.items():
        place = next((p for p in (folder / path, Path(path)) if p.exists()), None)
        if place is None:
            raise DataError(
                f"Data of a file of claims stand beside it or in the working folder; there is no "
                f"{path!r} in either. Check the path."
            )
        found[name or place.stem] = str(place)
    return found


def _run(script: Path, function: str) -> Any:
    """What a function of a script returns."""
    with _imported(script) as module:
        if not hasattr(module, function):
            raise ModelError(
                f"`file:function` must name a function; {script.name} has no {function!r}. Check "
                f"the spelling."
            )
        return getattr(module, function)()


@contextmanager
def _imported(script: Path) -> Iterator[ModuleType]:
    """The script as a module of its own, importable by its name for as long as it lasts: two files
    of one name in two folders do not meet.
    """
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(script.stem)
    sys.modules[script.stem] = module
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        if str(script.parent) in sys.path:
            sys.path.remove(str(script.parent))
        if before is None:
            sys.modules.pop(script.stem, None)
        else:
            sys.modules[script.stem] = before
