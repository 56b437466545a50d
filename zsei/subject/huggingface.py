"""Loads a folder in Hugging Face layout: safetensors only, no code of its own, no noise."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from zsei.errors import ModelError, UnsafeModelError

Pooling = Literal["mean", "first", "none"]
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FolderModel:
    """What a folder held."""

    model: nn.Module
    family: str
    tokenizer: Any
    pooling: Pooling
    notes: tuple[str, ...]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of transformers inside; all as before afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_folder(
    folder: Path,
    *,
    allow_remote_code: bool = False,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> FolderModel:
    """Load model, tokenizer and pooling of a folder on the CPU.

    In float32, unless `dtype` says otherwise: "auto" takes what the folder's config names.

    The class is the one `config.json` names under `architectures`; where transformers has none of
    that name, `AutoModel` decides. The attention implementation is transformers' default (sdpa).

    Raises:
        ModelError: No `config.json`, no weights, or weights that do not fit.
        UnsafeModelError: Pickled weights only, or code of its own without `allow_remote_code`.
    """
    config = _config(folder)
    _check_remote_code(folder, config, allow_remote_code)
    _check_weights(folder)
    import transformers

    names = config.get("architectures") or []
    found = getattr(transformers, str(names[0]), None) if names else None
    known = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    model_class: Any = found if known else transformers.AutoModel
    # Code of its own is only reachable through the Auto classes.
    remote = {"trust_remote_code": True} if allow_remote_code else {}
    if allow_remote_code and "auto_map" in config:
        model_class = _remote_class(config, names)
    try:
        with quiet():
            model, info = model_class.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
                dtype=dtype, **remote,
            )  # fmt: skip
            tokenizer = _tokenizer(folder, remote)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"A Hugging Face folder must load with transformers; {folder.name} stopped with "
            f"{type(error).__name__}: {reason[:300]}. Check that config.json and the weights "
            f"belong together."
        ) from error
    return FolderModel(
        model=model,
        family=str(config.get("model_type") or type(model).__name__),
        tokenizer=tokenizer,
        pooling=_pooling(folder),
        notes=_notes(config, info, dtype),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"A model folder must hold a config.json; {folder} has none. Name the folder that "
            f"save_pretrained wrote, or a factory `package.module:function`."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"config.json must be JSON; the one in {folder} is not ({error}). Save the model again."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"config.json must be a JSON object; the one in {folder} is a "
            f"{type(config).__name__}. Save the model again."
        )
    return config


def _check_remote_code(folder: Path, config: dict[str, Any], allowed: bool) -> None:
    if allowed:
        return
    tokenizer_path = folder / "tokenizer_config.json"
    tokenizer: Any = {}
    if tokenizer_path.is_file():
        try:
            tokenizer = json.loads(tokenizer_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(
                f"tokenizer_config.json must be JSON; the one in {folder} is not ({error}). "
                f"Save the tokenizer again."
            ) from error
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if isinstance(content, dict) and "auto_map" in content:
            raise UnsafeModelError(
                f"Models run no code that came with them; {name} in {folder} names Python code of "
                f"its own (auto_map). If you trust it, allow it with the setting "
                f"allow_remote_code=True (ZSEI_ALLOW_REMOTE_CODE=1)."
            )


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        for path in folder.glob(pattern)
    )
    if pickles:
        raise UnsafeModelError(
            f"Weights are loaded from safetensors only; {folder} holds {pickles[0]}, a pickle, "
            f"which can run any code. Convert it where you trust it: "
            f"model.save_pretrained(folder, safe_serialization=True)."
        )
    raise ModelError(
        f"A model folder must hold weights as *.safetensors; {folder} has none. Download them or "
        f"save the model again with save_pretrained."
    )


def _remote_class(config: dict[str, Any], names: list[Any]) -> Any:
    """The Auto class under which a folder's own code registers the architecture."""
    import transformers

    for auto, target in config["auto_map"].items():
        wanted = isinstance(target, str) and names and target.rpartition(".")[2] == names[0]
        if wanted and hasattr(transformers, auto):
            return getattr(transformers, auto)
    return transformers.AutoModel


def _tokenizer(folder: Path, remote: dict[str, bool]) -> Any:
    """The folder's tokenizer, or None where it holds none."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **remote)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        # Padding is masked; any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_of(model: nn.Module) -> Any:
    """Tokenizer of the folder a transformers model was loaded from, or None."""
    config = getattr(model, "config", None)
    folder = str(getattr(config, "_name_or_path", "") or "")
    if not folder or not Path(folder).is_dir():
        return None
    try:
        with quiet():
            return _tokenizer(Path(folder), {})
    except Exception:
        # The model came without asking for its tokenizer; data that needs one says so.
        return None


def _pooling(folder: Path) -> Pooling:
    """Pooling of a sentence-transformers folder: mean or first token; "none" where unsaid."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "none"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "none"
    if config.get("pooling_mode_cls_token") or config.get("pooling_mode") == "cls":
        return "first"
    return "mean"


def _notes(
    config: dict[str, Any], info: dict[str, Any], loaded: torch.dtype | str
) -> tuple[str, ...]:
    notes = []
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        notes.append(
            f"The checkpoint lacks {', '.join(missing[:3])}{more}: drawn at random, untrained."
        )
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unexpected:
        notes.append(
            f"The checkpoint holds {len(unexpected)} weights the class does not use, such as "
            f"{unexpected[0]}."
        )
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype not in (None, "float32") and loaded == torch.float32:
        notes.append(f"Weights stored as {dtype} were loaded as float32.")
    return tuple(notes)
