"""Answers kept by what was asked, so that the same question is not paid for twice.

Only text that became a valid answer is kept, one file an answer, named by the hash of all that was
sent. Nothing here can fail a question: what cannot be read is a miss, what cannot be written is not
kept. What is read back is judged again like any answer of a language model.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zsei.llm.types import TEMPERATURE, LLMRequest
from zsei.settings import Settings

FOLDER = "llm-cache"
_FORMAT = 1
_STALE = 3600.0
"""Seconds after which a file that a killed process left half written is thrown away."""


@dataclass(frozen=True, kw_only=True)
class AnswerCache:
    """A folder of answers. Processes may share it: files appear and vanish whole."""

    folder: Path
    megabytes: float = 32.0
    """Most that all answers may take, in 10^6 bytes; the ones unused for longest go."""

    def get(self, key: str) -> str | None:
        """The text kept for a question; None where there is none, or none that is whole."""
        path = self._path(key)
        try:
            entry = json.loads(path.read_bytes())
            text, whole = entry["text"], entry["sha256"]
            if hashlib.sha256(text.encode()).hexdigest() != whole:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now, so it is not the first to go
        return text

    def put(self, key: str, text: str) -> None:
        """Keep a text for a question, if that is possible."""
        entry = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        data = json.dumps(entry).encode()
        if len(data) > self.megabytes * 1e6:
            return
        part = self.folder / f".{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}.part"
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(self._path(key))
            finally:
                part.unlink(missing_ok=True)
            self._make_room()

    def drop(self, key: str) -> None:
        """Forget one answer."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def clear(self) -> int:
        """Forget all answers; returns how many there were.

        Raises:
            OSError: One cannot be removed.
        """
        removed = 0
        for path, _, _ in self._files():
            path.unlink(missing_ok=True)
            removed += path.suffix == ".json"
        return removed

    def size(self) -> tuple[int, int]:
        """Number of answers, and bytes of all files together."""
        files = list(self._files())
        answers = sum(path.suffix == ".json" for path, _, _ in files)
        return answers, sum(size for _, size, _ in files)

    def _make_room(self) -> None:
        """Remove the answers unused for longest until the rest fits, and what was left behind."""
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        for path, size, used in files:
            left_behind = path.suffix == ".part" and used < time.time() - _STALE
            if left_behind or (path.suffix == ".json" and total > self.megabytes * 1e6):
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Path, bytes and time of last use of every file of ours; another process may remove it."""
        try:
            listed = list(os.scandir(self.folder))
        except OSError:
            return
        for entry in listed:
            with contextlib.suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                if entry.name.endswith((".json", ".part")):
                    yield Path(entry.path), state.st_size, state.st_mtime

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def cache_of(settings: Settings) -> AnswerCache:
    """The cache in the memory folder; it is made when the first answer is kept."""
    return AnswerCache(folder=settings.home / FOLDER, megabytes=settings.llm_call.cache_megabytes)


def question_key(request: LLMRequest, identity: str) -> str:
    """SHA-256 over all that decides an answer: the model, where it is asked, and what is sent."""
    asked = {
        "format": _FORMAT,
        "model": identity,
        "system": request.system,
        "prompt": request.prompt,
        "schema": request.answer_schema,
        "name": request.answer_name,
        "max_tokens": request.max_tokens,
        "temperature": TEMPERATURE,
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
