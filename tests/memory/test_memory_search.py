"""Passages and how they are found: ids, lengths, filters, fusion; and questions of random words."""

import random
from pathlib import Path

import numpy as np
import pytest
from memory_records import HashEmbedder, make_record

from zsei.memory.ask import ask
from zsei.memory.chunks import chunks_of, chunks_of_cards
from zsei.memory.search import _by_words, retrieve
from zsei.memory.store import Memory
from zsei.records import Failure, Finding

WORDS = """
what which how many why is are was the a of in and or not compare heads head layer layers mlp 1
2 7 last two analysis analyses model model-1 model-9 bert encoder encoders llama redundant
bottleneck critical path accepted rejected prune heads effective rank sensitivity entropy
largest smallest mean total per above below 0.5 top 3 all ever encoder.layer.1/mlp
encoder.layer.8/mlp h.0 matter most least importance combined parameters flops seconds similar
define explain summary ? banana seed objective
"""


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for seed in range(3):
        memory.add(make_record(seed, model=f"model-{seed}"))
    return memory


def test_one_passage_per_thing_that_can_be_asked_about() -> None:
    record = make_record(0).model_copy(
        update={"failures": (Failure(stage="export", what="it broke", why="a loop"),)}
    )
    chunks = chunks_of(record)
    keys = {kind: [c.key for c in chunks if c.kind == kind] for kind in {c.kind for c in chunks}}
    assert keys == {
        "finding": [f.id for f in (*record.findings, *record.timings.findings)],
        "verdict": [*(v.proposal_id for v in record.verdicts), "combined"],
        "interpretation": [i.id for i in record.interpretations],
        "failure": ["export"],
        "summary": [""],
    }
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert chunks_of(record) == chunks
    for chunk in chunks:
        header = chunk.text.splitlines()[0]
        assert f"model demo:minilm | family bert | run {record.id}" in header
        assert record.id not in chunk.gist


def test_a_finding_of_many_components_stays_short() -> None:
    finding = Finding.make(
        code="redundant-heads",
        components=tuple(f"encoder.layer.{n // 12}/head.{n % 12}" for n in range(144)),
        severity=0.5,
        evidence=(),
        message="all alike",
    )
    record = make_record(0).model_copy(update={"findings": (finding,)})
    chunk = next(c for c in chunks_of(record) if c.key == finding.id)
    assert len(chunk.text) < 700
    assert "and 136 more" in chunk.text


def test_long_cards_are_cut_between_paragraphs() -> None:
    paragraphs = [f"Paragraph {n} " + "word " * 60 for n in range(8)]
    pieces = chunks_of_cards([("card", "Title", "\n\n".join(paragraphs))])
    assert len(pieces) == 4
    for piece in pieces:
        assert piece.text.startswith("Title\n")
    for paragraph in paragraphs:
        assert sum(paragraph.strip() in piece.text for piece in pieces) == 1


def test_filters_hold(memory: Memory) -> None:
    runs = [row.id for row in memory.runs()]
    hits = retrieve(memory, "attend alike", runs=[runs[1]], kinds=["finding"], limit=20)
    assert {(hit.run, hit.kind) for hit in hits} == {(runs[1], "finding")}
    memory.learn([("card", "Attend alike", "what it means")])
    assert {hit.kind for hit in retrieve(memory, "attend alike", runs=[""])} == {"knowledge"}


def test_rankings_are_fused_by_reciprocal_rank(memory: Memory) -> None:
    question = "why was removing layers rejected by divergence"
    hits = retrieve(memory, question, limit=100)
    words = _by_words(memory, question, None, None)
    with memory.reading() as db:
        gists = {row["id"]: row["gist"] for row in db.execute("SELECT id, gist FROM chunks")}
    embedder = HashEmbedder()
    asked = embedder.embed([question])[0]
    near = {name: float(embedder.embed([gist])[0] @ asked) for name, gist in gists.items()}
    candidates = {hit.id for hit in hits}
    meaning = sorted(candidates, key=lambda name: (-near[name], name))
    for hit in hits:
        expected = 1 / (60 + meaning.index(hit.id) + 1)
        if hit.id in words:
            expected += 1 / (60 + words.index(hit.id) + 1)
        assert hit.score == pytest.approx(expected)
        assert hit.cosine == pytest.approx(near[hit.id], abs=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].kind == "verdict"


def test_words_join_their_forms(memory: Memory) -> None:
    for word in ("reject", "rejected", "REJECTING"):
        found = _by_words(memory, f"{word}?", None, ["verdict"])
        assert len(found) == 3


def test_words_of_the_search_language_are_words(memory: Memory) -> None:
    for question in ('"', "NEAR(a b)", "heads AND OR NOT", "text:heads", "*", "heads*", "^", "a-b"):
        assert isinstance(retrieve(memory, question), tuple)


def test_questions_of_random_words_never_break_and_never_invent(memory: Memory) -> None:
    rng = random.Random(0)
    words = WORDS.split()
    runs = {row.id for row in memory.runs()}
    findings = {f.id for seed in range(3) for f in _all_findings(seed)}
    stored = _all_values()
    for _ in range(150):
        question = " ".join(rng.choices(words, k=rng.randrange(1, 9)))
        if not any(letter.isalnum() for letter in question):
            continue
        answer = ask(question, memory)
        assert answer.text
        for citation in answer.citations:
            assert citation.run in runs, question
            assert citation.finding is None or citation.finding in findings, question
        for row in answer.rows:
            if {"component", "value", "run"} <= set(row) and row["value"] is not None:
                assert row["value"] in stored, question
        if answer.text.startswith("No such"):
            assert (answer.rows, answer.citations) == ((), ()), question


def _all_findings(seed: int) -> tuple[Finding, ...]:
    record = make_record(seed, model=f"model-{seed}")
    return (*record.findings, *record.timings.findings)


def _all_values() -> set[float]:
    values: set[float] = set()
    for seed in range(3):
        record = make_record(seed, model=f"model-{seed}")
        values |= {
            m.value for ms in record.measurements.values() for m in ms if m.value is not None
        }
        values |= {float(v) for c in record.components for v in (c.parameters, c.flops)}
        values |= set(record.timings.components.values())
    return values


def test_vectors_are_stored_as_little_endian_float32(memory: Memory) -> None:
    retrieve(memory, "anything")
    with memory.reading() as db:
        row = db.execute("SELECT gist, vector FROM chunks JOIN vectors USING (sha256)").fetchone()
    stored = np.frombuffer(row["vector"], "<f4")
    np.testing.assert_array_equal(stored, HashEmbedder().embed([row["gist"]])[0])
