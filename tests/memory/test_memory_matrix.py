"""Exact search over vectors held in memory: equal to the naive way, and never out of date."""

import random
from pathlib import Path

import numpy as np
import pytest
from memory_records import HashEmbedder, make_record

from zsei.memory import index, matrix
from zsei.memory.embedder import EmbedderUnavailable
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory

QUESTION = "why was removing layers rejected"


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for seed in range(4):
        memory.add(make_record(seed))
    memory.learn([("card", "Divergence", "how far two answers lie apart")])
    return memory


def naive(memory: Memory, runs: list[str] | None, kinds: list[str] | None) -> dict[str, float]:
    embedder = HashEmbedder()
    asked = embedder.embed([QUESTION])[0]
    with memory.reading() as db:
        rows = db.execute("SELECT id, run, kind, gist FROM chunks").fetchall()
    return {
        row["id"]: float(embedder.embed([row["gist"]])[0] @ asked)
        for row in rows
        if (runs is None or (row["run"] or "") in runs) and (kinds is None or row["kind"] in kinds)
    }


def test_it_finds_what_comparing_one_by_one_finds(memory: Memory) -> None:
    retrieve(memory, QUESTION)
    held = matrix.load(memory, HashEmbedder.fingerprint)
    asked = HashEmbedder().embed([QUESTION])[0]
    ids = [row.id for row in memory.runs()]
    cases = [
        (None, None),
        (ids[:2], None),
        (None, ["verdict"]),
        ([""], None),
        (ids[:1], ["summary"]),
    ]
    for runs, kinds in [*cases, ([], None), (["nobody"], None)]:
        every = naive(memory, runs, kinds)
        found = matrix.nearest(held, asked, runs, kinds, 10)
        assert set(found) <= set(every)
        assert len(found) == min(10, len(every))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        np.testing.assert_allclose(
            list(found.values()), sorted(every.values(), reverse=True)[:10], atol=1e-6
        )
        for name, cosine in found.items():
            assert cosine == pytest.approx(every[name], abs=1e-6)
    assert held.whole
    assert len(held.vectors) < len(held.ids)  # equal passages share a vector


def test_chroma_and_exact_search_answer_alike(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hits() -> list[tuple[str, float]]:
        return [(hit.id, hit.score) for hit in retrieve(memory, QUESTION, limit=10)]

    def away(*_: object, **__: object) -> tuple[str, ...]:
        raise index.IndexUnusable("there is no Chroma here")

    near = hits()
    assert (memory.home / "index").exists()
    monkeypatch.setattr(index, "query", away)
    assert hits() == near


def test_it_is_loaded_once_and_follows_every_change(memory: Memory) -> None:
    retrieve(memory, QUESTION)
    held = matrix.load(memory, HashEmbedder.fingerprint)
    retrieve(memory, "something else")
    assert matrix.load(memory, HashEmbedder.fingerprint) is held
    other = Memory(memory.home, embedder=HashEmbedder())
    new = make_record(50, model="brand-new-model")
    other.add(new)
    assert retrieve(memory, "brand new model", kinds=["summary"])[0].run == new.id
    other.delete(new.id)
    assert new.id not in {hit.run for hit in retrieve(memory, "brand new model", limit=100)}
    other.learn([])
    assert retrieve(memory, QUESTION, kinds=["knowledge"]) == ()


def test_random_changes_never_leave_it_behind(home: Path) -> None:
    """Two who share a memory add and forget in turn; what one finds is what is there."""
    rng = random.Random(0)
    sides = [Memory(home, embedder=HashEmbedder()) for _ in range(2)]
    there: set[str] = set()
    for step in range(25):
        side = sides[rng.randrange(2)]
        if there and rng.random() < 0.4:
            gone = rng.choice(sorted(there))
            side.delete(gone)
            there.remove(gone)
        else:
            record = make_record(step, layers=2, heads=1)
            side.add(record)
            there.add(record.id)
        for each in sides:
            found = {hit.run for hit in retrieve(each, QUESTION, kinds=["summary"], limit=100)}
            assert found == there


def test_without_an_embedder_words_are_left(memory: Memory) -> None:
    class Nothing(HashEmbedder):
        def embed(self, texts: object) -> np.ndarray:
            raise EmbedderUnavailable("nothing to embed with")

    other = Memory(memory.home, embedder=Nothing())
    hits = retrieve(other, "attend alike")
    assert hits
    assert {hit.cosine for hit in hits} == {None}
    assert "search by words only" in refresh(other).notes[0]
