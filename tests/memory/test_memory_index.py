"""Chroma is an index that may be deleted, broken or absent: search answers all the same."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_records import HashEmbedder, make_record

from zsei.memory import index, kept, matrix
from zsei.memory.place import LocalPlace
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory

QUESTION = "why was removing layers rejected"


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
def memory(home: Path, embedder: HashEmbedder) -> Memory:
    memory = Memory(home, embedder=embedder)
    for seed in range(3):
        memory.add(make_record(seed))
    return memory


def folder(memory: Memory) -> Path:
    return index.folder(memory.home, memory.embedder.fingerprint)


def count(memory: Memory) -> int:
    with memory.reading() as db:
        return db.execute("SELECT COUNT(*) FROM chunks").fetchone()[0]


def vector_of(memory: Memory, passage: str) -> str:
    with memory.reading() as db:
        asked = "SELECT sha256 FROM chunks WHERE id = ?"
        return db.execute(asked, (passage,)).fetchone()["sha256"]


def hits(memory: Memory) -> list[tuple[str, float | None]]:
    return [(hit.id, hit.cosine) for hit in retrieve(memory, QUESTION, limit=8)]


def test_every_passage_is_indexed_once(memory: Memory, embedder: HashEmbedder) -> None:
    coverage = refresh(memory)
    assert (coverage.chunks, coverage.vectors, coverage.indexed) == (count(memory),) * 3
    assert coverage.notes == ()
    embedded = embedder.embedded
    assert refresh(memory).indexed == count(memory)
    memory.add(make_record(0))  # the same analysis again: the same passages
    assert refresh(memory).indexed == count(memory)
    assert embedder.embedded == embedded


def test_chroma_finds_what_exact_search_finds(memory: Memory, embedder: HashEmbedder) -> None:
    refresh(memory)
    asked = embedder.embed([QUESTION])[0]
    runs = [row.id for row in memory.runs()[:2]]
    for where in ((None, None), (runs, None), (runs, ["verdict"]), (None, ["summary"])):
        found = index.query(
            memory, embedder.fingerprint, asked, runs=where[0], kinds=where[1], limit=10
        )
        held = matrix.load(memory, embedder.fingerprint)
        exact = list(matrix.nearest(held, asked, *where, limit=10))
        cosines = cosine_table(memory, embedder, asked)
        np.testing.assert_allclose(
            [cosines[name] for name in found], [cosines[name] for name in exact], atol=1e-6
        )
    assert index.query(memory, embedder.fingerprint, asked, runs=[], limit=10) == ()


def cosine_table(memory: Memory, embedder: HashEmbedder, asked: np.ndarray) -> dict[str, float]:
    with memory.reading() as db:
        texts = {row["id"]: row["gist"] for row in db.execute("SELECT id, gist FROM chunks")}
    return {name: float(embedder.embed([text])[0] @ asked) for name, text in texts.items()}


def test_a_deleted_folder_is_built_again_without_embedding(
    memory: Memory, embedder: HashEmbedder
) -> None:
    before = hits(memory)
    embedded = embedder.embedded
    shutil.rmtree(folder(memory))
    assert hits(memory) == before
    assert folder(memory).is_dir()
    assert embedder.embedded == embedded + 1  # the question


@pytest.mark.parametrize("name", ["chroma.sqlite3", "segment"])
def test_a_broken_folder_is_set_aside_and_built_again(
    memory: Memory, embedder: HashEmbedder, name: str
) -> None:
    before = hits(memory)
    embedded = embedder.embedded
    path = folder(memory)
    if name == "segment":  # rows lost behind our back: found by counting
        with LocalPlace(path=path).writing() as collection:
            collection.delete(ids=[vector_of(memory, before[0][0])])
    else:
        (path / name).write_bytes(b"garbage" * 1000)
    assert hits(memory) == before
    assert len(list(path.parent.glob(f"{path.name}.broken-*"))) == 1
    assert refresh(memory).notes == ()
    assert embedder.embedded == embedded + 1


def test_a_wrong_vector_is_noticed(memory: Memory, embedder: HashEmbedder) -> None:
    before = hits(memory)
    path = folder(memory)
    with memory.reading() as db:
        ids = sorted({row["sha256"] for row in db.execute("SELECT sha256 FROM chunks")})
    with LocalPlace(path=path).writing() as collection:
        collection.update(ids=ids, embeddings=np.ones((len(ids), 512), dtype=np.float32))
    assert hits(memory) == before
    assert len(list(path.parent.glob("*.broken-*"))) == 1


def test_a_folder_in_which_a_process_died_is_not_opened_again(memory: Memory) -> None:
    before = hits(memory)
    path = folder(memory)
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom zsei.memory.place import LocalPlace\n"
        "with LocalPlace(path=Path(sys.argv[1])).writing() as collection:\n    os._exit(9)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert died.returncode == 9
    mark = path.with_name(f"{path.name}.open")
    assert mark.exists()
    memory.add(make_record(9))
    assert hits(memory) != []
    assert not mark.exists()
    assert len(list(path.parent.glob("*.broken-*"))) == 1
    assert {name for name, _ in before} <= set(cosine_ids(memory))


def cosine_ids(memory: Memory) -> list[str]:
    with memory.reading() as db:
        return [row["id"] for row in db.execute("SELECT id FROM chunks")]


def test_what_another_process_adds_is_found(memory: Memory, embedder: HashEmbedder) -> None:
    refresh(memory)
    other = Memory(memory.home, embedder=HashEmbedder())
    new = make_record(50, model="brand-new-model")
    other.add(new)
    found = retrieve(memory, "brand new model", kinds=["summary"])
    assert found[0].run == new.id
    asked = embedder.embed(["brand new model"])[0]
    near = index.query(memory, embedder.fingerprint, asked, runs=[new.id], limit=100)
    with memory.reading() as db:
        own = db.execute("SELECT id FROM chunks WHERE run = ?", (new.id,)).fetchall()
    assert set(near) == {row["id"] for row in own}


def test_without_chroma_exact_search_gives_the_same(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hits(memory)
    shutil.rmtree(memory.home / "index")
    (memory.home / "index").write_text("a file where the folder should be")
    assert hits(memory) == before
    coverage = refresh(memory)
    assert coverage.indexed == 0
    assert "exact search instead of Chroma" in coverage.notes[0]


def test_a_panic_in_chroma_is_no_end(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    import chromadb

    class Panic(BaseException):
        pass

    before = hits(memory)

    def panic(*_: object, **__: object) -> None:
        raise Panic

    monkeypatch.setattr(chromadb, "PersistentClient", panic)
    kept.close()  # else it is not opened at all
    assert hits(memory) == before


def test_another_embedder_has_another_folder_and_its_own_vectors(memory: Memory) -> None:
    refresh(memory)

    class Other(HashEmbedder):
        fingerprint = "another-space"

        def embed(self, texts: object) -> np.ndarray:
            return super().embed(texts)[:, ::-1].copy()  # type: ignore[arg-type]

    other = Memory(memory.home, embedder=Other())
    assert refresh(other).indexed == count(memory)
    assert folder(other) != folder(memory)
    assert refresh(memory).indexed == count(memory)


def test_two_processes_index_at_once(memory: Memory) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from memory_records import HashEmbedder, make_record\n"
        "from zsei.memory import Memory, refresh\n"
        "memory = Memory(Path(sys.argv[2]), embedder=HashEmbedder())\n"
        "for seed in range(4):\n"
        "    memory.add(make_record(int(sys.argv[3]) + seed, layers=2, heads=1))\n"
        "    assert refresh(memory).notes == ()\n"
    )
    here = str(Path(__file__).parent)
    writers = [
        subprocess.Popen([sys.executable, "-c", script, here, str(memory.home), first])
        for first in ("100", "200")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert len(memory.runs()) == 11
    assert refresh(memory).indexed == count(memory)
    assert list((memory.home / "index").glob("*.broken-*")) == []
