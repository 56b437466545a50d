"""Kills at aimed and random moments: nothing acknowledged is lost, and the next question answers.

One memory lives through all of them, as a user's would. Nothing is repaired by hand in between.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import QUESTION, Kill, Nursery, Works, large_record, small_record
from memory_records import HashEmbedder

from zsei.memory import place
from zsei.memory.check import check
from zsei.memory.portable import export_runs, import_runs
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord

COLLECTION = "chromadb.api.models.Collection:Collection"
SEARCH: Works = (("ask", ""),)


@pytest.fixture(autouse=True)
def frequent_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the nursery."""
    monkeypatch.setitem(place._GRAPH["hnsw"], "sync_threshold", 100)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


class Survivor:
    """A memory, and what it has acknowledged."""

    def __init__(self, home: Path, nursery: Nursery) -> None:
        self.home, self.nursery = home, nursery
        self.held: dict[str, str] = {}
        self.possible: dict[str, str] = {}
        self.seed = 0

    def new(self, *, large: bool = False) -> tuple[str, str]:
        """Work that adds an analysis nobody has seen."""
        self.seed += 1
        record = (large_record if large else small_record)(self.seed)
        self.possible[record.id] = record.model_dump_json()
        return ("add", str(-self.seed if large else self.seed))

    def dies(self, works: Works, kill: Kill) -> None:
        """A process that works here is killed; then everything is looked at."""
        said, code = self.nursery.run(self.home, works, kill)
        assert code in (9, 14), (kill, said, code)
        added = {line.split()[1] for line in said if line.startswith("added ")}
        self.held |= {run: self.possible[run] for run in added}
        self.look(kill)

    def look(self, kill: Kill) -> None:
        memory = Memory(self.home, embedder=HashEmbedder())
        there = {row.id for row in memory.runs()}
        assert set(self.held) <= there <= set(self.possible), kill
        for run in there:  # not acknowledged, but there: then whole
            assert memory.get(run).model_dump_json() == self.possible[run], kill
        self.held |= {run: self.possible[run] for run in there}
        if there:
            assert retrieve(memory, QUESTION), kill
            coverage = refresh(memory)
            assert coverage.notes == (), kill
            assert coverage.indexed == coverage.vectors == coverage.chunks, kill


@pytest.fixture
def survivor(home: Path, nursery: Nursery) -> Survivor:
    return Survivor(home, nursery)


CREATION = (
    Kill(at="zsei.memory.schema:_create"),
    Kill(at="zsei.memory.schema:_migrate"),
    Kill(at="zsei.memory.schema:transaction", when="after"),
    Kill(at="pathlib:Path.replace"),
    Kill(at="pathlib:Path.replace", when="after"),
    Kill(at="zsei.memory.schema:_check"),
)
WRITING = (
    Kill(at="zsei.memory.rows:_insert", nth=1),
    Kill(at="zsei.memory.rows:_insert", nth=2, when="after"),
    Kill(at="zsei.memory.rows:_insert", nth=6),
    Kill(at="zsei.memory.rows:add_chunks"),
    Kill(at="zsei.memory.rows:moved", when="after"),
    Kill(at="zsei.memory.store:Memory.add", when="after"),
)
INDEXING = (
    Kill(at="zsei.memory.search:_embed_missing", when="after"),
    Kill(at="zsei.memory.index:_synchronised"),
    Kill(at="zsei.memory.kept:opened"),
    Kill(at="zsei.memory.kept:opened", when="after"),
    Kill(at="zsei.memory.index:_write"),
    Kill(at="zsei.memory.index:_write", when="after"),
    Kill(at=f"{COLLECTION}.add"),
    Kill(at=f"{COLLECTION}.add", when="after"),
    Kill(at="zsei.memory.kept:close"),
    Kill(at="zsei.memory.place:LocalPlace.content", when="after"),
    Kill(at="zsei.memory.index:_verify"),
    Kill(at="zsei.memory.index:_record"),
    Kill(at="zsei.memory.index:_record", when="after"),
    Kill(at=f"{COLLECTION}.query"),
)
"""Between SQLite's commit and the end of the index write."""
SETTING_ASIDE = (
    Kill(at="zsei.memory.place:LocalPlace.set_aside"),
    Kill(at="pathlib:Path.rename"),
    Kill(at="pathlib:Path.rename", when="after"),
    Kill(at="zsei.memory.place:LocalPlace.set_aside", when="after"),
    Kill(at="zsei.memory.index:_drop", when="after"),
    Kill(at=f"{COLLECTION}.add"),
)
REBUILDING = (
    Kill(at="zsei.memory.rebuild:_again", nth=2),
    Kill(at="zsei.memory.rows:add_chunks", nth=2),
    Kill(at="zsei.memory.rebuild:_embed_all"),
    Kill(at="zsei.memory.rebuild:_embed_all", when="after"),
    Kill(at="zsei.memory.index:_drop"),
    Kill(at=f"{COLLECTION}.add", when="after"),
)


def spoil_index(home: Path) -> None:
    """Bytes of the index that no reader survives unharmed."""
    for file in (home / "index").glob("*/chroma.sqlite3"):
        file.write_bytes(b"garbage" * 500)


def a_few(kills: tuple[Kill, ...], count: int) -> list[Kill]:
    """Some, evenly from first to last."""
    return [kills[round(n * (len(kills) - 1) / (count - 1))] for n in range(count)]


def born(survivor: Survivor, kills: list[Kill]) -> None:
    for number, kill in enumerate(kills):
        fresh = Survivor(survivor.home / f"fresh-{number}", survivor.nursery)
        fresh.dies([fresh.new()], kill)
        fresh.look(kill)


def written(survivor: Survivor, writing: list[Kill], indexing: list[Kill]) -> None:
    for kill in writing:
        survivor.dies([survivor.new(), *SEARCH], kill)
    for kill in indexing:
        survivor.dies([survivor.new(), *SEARCH], kill)


def inside_chroma(survivor: Survivor, count: int, rng: random.Random) -> None:
    """While Chroma adds and flushes: SIGALRM reaches it in its own code."""
    for _ in range(count):
        kill = Kill(at=f"{COLLECTION}.add", when="during", seconds=rng.uniform(0.0, 0.25))
        survivor.dies([survivor.new(large=True), *SEARCH], kill)


def set_aside(survivor: Survivor, kills: list[Kill]) -> None:
    for kill in kills:
        spoil_index(survivor.home)
        survivor.dies([survivor.new(), *SEARCH], kill)


def rebuilt(survivor: Survivor, kills: list[Kill]) -> None:
    for kill in kills:
        survivor.dies([("rebuild", "")], kill)
        assert not check(survivor.home).damaged, kill


def carried(survivor: Survivor, tmp_path: Path, lines: list[int]) -> None:
    """An export that was killed is no file; an import that was killed added nothing."""
    for line in lines:
        target = tmp_path / f"killed-{line}.jsonl"
        survivor.dies([("export", str(target))], Kill(at="zsei.memory.portable:_line", nth=line))
        assert not target.exists()
    whole = tmp_path / "whole.jsonl"
    export_runs(survivor.home, whole)
    for number in (1, len(survivor.held)):
        kill = Kill(at="zsei.memory.portable:_add", nth=number)
        elsewhere = survivor.home.parent / f"elsewhere-{number}"
        _, code = survivor.nursery.run(elsewhere, [("import", str(whole))], kill)
        assert code == 9
        memory = Memory(elsewhere, embedder=HashEmbedder())
        assert memory.runs() == ()
        assert set(import_runs(memory, whole).added) == set(survivor.held)


def deleted(survivor: Survivor, kills: list[Kill]) -> None:
    """Killed while it forgets: the analysis is whole or gone, and all others are there."""
    for kill in kills:
        survivor.nursery.run(survivor.home, [survivor.new()], Kill(at=""))
        run = f"run-{survivor.seed}"
        others = {row.id for row in Memory(survivor.home).runs()} - {run}
        _, code = survivor.nursery.run(survivor.home, [*SEARCH, ("delete", run)], kill)
        assert code == 9, kill
        there = {row.id for row in Memory(survivor.home).runs()}
        assert others == there - {run}, kill
        if run not in there:
            del survivor.possible[run]
        survivor.look(kill)
        assert not check(survivor.home).damaged


DELETING = (
    Kill(at="zsei.memory.rows:moved", nth=2),
    Kill(at="zsei.memory.store:Memory.delete", when="after"),
    Kill(at=f"{COLLECTION}.delete"),
    Kill(at=f"{COLLECTION}.delete", when="after"),
)


def at_random(survivor: Survivor, count: int, rng: random.Random) -> None:
    for number in range(count):
        kill = Kill(at="zsei.memory.store:prepare", when="during", seconds=rng.uniform(0.001, 0.35))
        survivor.dies([survivor.new(large=number % 4 == 0), *SEARCH], kill)


def test_twenty_kills(survivor: Survivor, tmp_path: Path) -> None:
    rng = random.Random(0)
    born(survivor, a_few(CREATION, 3))
    written(survivor, a_few(WRITING, 2), a_few(INDEXING, 5))
    inside_chroma(survivor, 2, rng)
    set_aside(survivor, a_few(SETTING_ASIDE, 2))
    rebuilt(survivor, a_few(REBUILDING, 2))
    carried(survivor, tmp_path, [2])
    deleted(survivor, a_few(DELETING, 2))
    at_random(survivor, 2, rng)
    assert len(survivor.held) >= 8


@pytest.mark.long
def test_a_hundred_kills(survivor: Survivor, tmp_path: Path) -> None:
    """Six births, 20 in writing, 25 inside Chroma, 6 set aside, 6 rebuilt, 5 carried, 4 deleted,
    and 30 at random: 102 in all."""
    rng = random.Random(1)
    born(survivor, list(CREATION))
    written(survivor, list(WRITING), list(INDEXING))
    inside_chroma(survivor, 25, rng)
    set_aside(survivor, list(SETTING_ASIDE))
    rebuilt(survivor, list(REBUILDING))
    carried(survivor, tmp_path, [1, 5, 20])
    deleted(survivor, list(DELETING))
    at_random(survivor, 30, rng)


def test_a_child_of_a_process_that_uses_chroma_answers(home: Path, nursery: Nursery) -> None:
    said, code = nursery.run(home, [("add", "1"), ("fork", "")], Kill(at=""))
    assert (said, code) == (["added run-1", "fork"], 0)


def test_a_record_that_was_seen_is_what_was_written() -> None:
    """The test's own oracle: equal seeds, equal bytes, and other seeds other bytes."""
    assert small_record(1).model_dump_json() == small_record(1).model_dump_json()
    assert small_record(1) != small_record(2)
    assert isinstance(large_record(3), AnalysisRecord)
