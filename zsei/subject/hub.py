"""Finds the folder of a hub name: the local cache first, then the network, within seconds."""

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from zsei.errors import ModelError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "1_Pooling/*")
"""What is fetched: weights as safetensors, configs and tokenizers; no pickles, no code."""
PROBE_SECONDS = 2.0
"""How long the network is given to answer before a download is tried at all."""


def fetch_folder(name: str, allow_download: bool, allow_code: bool = False) -> Path:
    """Folder of a hub name.

    Args:
        name: `organisation/model` or `model`.
        allow_download: Whether the network may be used when the cache lacks the model.
        allow_code: Fetch Python code of the model's own too.

    Raises:
        ModelError: Not cached, and downloading is not allowed, impossible or refused.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    cached = _cached(name)
    if cached is not None:
        return cached
    by_hand = (
        f"Get it where there is a network with `hf download {name} --local-dir FOLDER`, and give "
        f"zsei that folder"
    )
    if not allow_download or constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{name!r} is no folder here, is not in the local hub cache, and downloading is "
            f"switched off. {by_hand}."
        )
    if not reachable(constants.ENDPOINT, PROBE_SECONDS):
        raise ModelError(
            f"{name!r} is no folder here, is not in the local hub cache, and "
            f"{constants.ENDPOINT} cannot be reached. {by_hand}."
        )
    try:
        patterns: list[str] = [*PATTERNS, *(["*.py"] if allow_code else [])]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"A hub name must be one that can be downloaded; {name!r} was refused: "
            f"{reason[:300]}. Check the spelling and whether it needs a login."
        ) from error


def _cached(name: str) -> Path | None:
    """Snapshot folder in the local cache that holds a config and weights, if there is one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if whole else None


def reachable(url: str, seconds: float) -> bool:
    """Whether a TCP connection to a URL's host (or to the proxy in force) opens within `seconds`.

    Runs in a thread of its own because name resolution knows no time limit.
    """
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy or url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
