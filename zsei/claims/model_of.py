"""Model and data that a file of claims names; what stands beside the file is found first."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from zsei.claims.claim import ClaimsFile
from zsei.errors import DataError, ModelError, ZseiError
from zsei.settings import Settings
from zsei.subject.load import LoadedModel, load_model
from zsei.subject.types import ModelSource


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
        return _from_script(script, function, file, settings)
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


def _from_script(
    script: Path, function: str, file: ClaimsFile, settings: Settings
) -> LoadedModel:  # fmt: skip
    try:
        with _imported(script) as module:
            made = getattr(module, function)()
    except ZseiError:
        raise
    except AttributeError as error:
        raise ModelError(
            f"`file:function` must name a function; {script.name}: {error}. Check the spelling."
        ) from error
    except Exception as error:
        raise ModelError(
            f"A factory must return a model; {file.model} beside the claims raised "
            f"{type(error).__name__}: {error}. Run it in Python to see where."
        ) from error
    model, data = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A factory must return a torch.nn.Module or (module, data); {file.model} returned "
            f"{type(made).__name__}. Return the module itself."
        )
    loaded = load_model(model, settings)
    source = ModelSource(name=file.model, kind="factory", location=file.model)
    return replace(loaded, source=source, data=data)


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
