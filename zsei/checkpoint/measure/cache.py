"""What was measured of weights, kept on disk by their content.

Nothing here can fail an analysis: what cannot be read is a miss, what cannot be written is not
kept. Only JSON is stored, as bytes; diskcache would unpickle whatever lies in its folder, so a disk
that knows no pickles and no paths out of its folder stands in for its own.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW
from pydantic import ValidationError

from zsei.checkpoint.job import Job
from zsei.records import Record

R = TypeVar("R", bound=Record)
FOLDER = "checkpoint-cache"
"""Folder in `settings.home`."""
BROKEN = (OSError, sqlite3.Error, diskcache.Timeout, ValueError, TypeError, KeyError)
"""What a cache that is full, damaged, locked or write-protected ends in."""


class PlainDisk(diskcache.Disk):
    """Keys are text and values bytes; anything else in the folder is refused."""

    def put(self, key: Any) -> tuple[Any, Literal[True]]:
        """The key as it is stored."""
        if type(key) is not str:
            raise TypeError(f"keys of this cache are text, and {type(key).__name__} is none")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        """The key that was stored."""
        if not raw or type(key) is not str:
            raise ValueError("a key in the cache is no text")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[Any, ...]:
        """The value as it is stored."""
        if type(value) is not bytes or read:
            raise TypeError(f"values of this cache are bytes, and {type(value).__name__} is none")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        """The value that was stored."""
        if mode not in (MODE_RAW, MODE_BINARY) or read:
            raise ValueError("a value in the cache is no bytes")
        if filename is not None:
            self._inside(filename)
        found = super().fetch(mode, filename, value, read)
        if type(found) is not bytes:
            raise ValueError("a value in the cache is no bytes")
        return found

    def remove(self, file_path: str) -> None:
        """Remove a value's file."""
        self._inside(file_path)
        super().remove(file_path)

    def _inside(self, name: str) -> None:
        folder = Path(self._directory).resolve()
        if not (folder / name).resolve().is_relative_to(folder):
            raise ValueError("a file of the cache lies outside of its folder")


class Kept:
    """A cache that is open; None stands for one that cannot be had."""

    def __init__(self, cache: diskcache.Cache | None):
        self._cache = cache

    def read(self, key: str, kind: type[R]) -> R | None:
        """What is kept under a key; None where there is nothing, or nothing whole."""
        if self._cache is None:
            return None
        try:
            found = self._cache.get(key)
            return kind.model_validate_json(found) if isinstance(found, bytes) else None
        except (*BROKEN, ValidationError):
            return None

    def write(self, key: str, value: Record) -> None:
        """Keep something, if that is possible."""
        if self._cache is None:
            return
        with contextlib.suppress(*BROKEN):
            self._cache.set(key, value.model_dump_json().encode())


@contextlib.contextmanager
def open_cache(job: Job) -> Iterator[Kept]:
    """The cache of a job's memory folder, of at most `analysis_cache_size` bytes; 0 is none.

    What was stored first goes first when it is full. Processes may share it.
    """
    size = job.config.elesh.analysis_cache_size
    cache = None
    if size > 0:
        with contextlib.suppress(*BROKEN):
            cache = diskcache.Cache(
                str(job.settings.home / FOLDER), disk=PlainDisk, size_limit=size, timeout=5
            )
    try:
        yield Kept(cache)
    finally:
        if cache is not None:
            with contextlib.suppress(*BROKEN):
                cache.close()
