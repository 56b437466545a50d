"""Checkpoints whose names transformers changes when it loads them.

Some families are saved under the names of an older layout (a ViT's `attention.attention.key`, one
tensor per expert of a Mixtral) and renamed or put together on loading. Their files hold other names
than the model in memory, so they are read through transformers itself.
"""

import json
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from zsei.errors import ZseiError
from zsei.subject.huggingface import load_folder, quiet


def is_converted(folder: Path, names: Collection[str]) -> bool:
    """Whether the weights in a Hugging Face folder have names that its model has not."""
    try:
        config = (folder / "config.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    own = _names(config)
    return bool(own) and not own.issuperset(names)


def read_converted(folder: Path) -> dict[str, Tensor] | None:
    """Its weights under the names of the model, in float32; None where transformers cannot.

    They take memory, where those of other checkpoints are mapped.
    """
    try:
        state = load_folder(folder).model.state_dict()
    except ZseiError:
        return None
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


@lru_cache(maxsize=4)
def _names(config: str) -> frozenset[str]:
    """Names of the model that a config.json describes; none where that cannot be told."""
    import transformers

    try:
        told = json.loads(config)
        if "auto_map" in told:
            return frozenset()  # a class of its own: nothing of it is run to find out
        model_class = getattr(transformers, str(told["architectures"][0]))
        with quiet(), torch.device("meta"):
            made = model_class.config_class(**told)
            return frozenset(model_class(made).state_dict())
    except Exception:  # whatever a config may hold; it is then read as it is
        return frozenset()
