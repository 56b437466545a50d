"""Disks that are full or cannot be written, for real: a small file system, a limit on file size."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import QUESTION, small_record
from memory_records import HashEmbedder, make_record

from zsei import pipeline
from zsei.cli import codes, main
from zsei.errors import OutputError
from zsei.memory import index, kept
from zsei.memory.ask import ask
from zsei.memory.check import check
from zsei.memory.portable import export_runs
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory
from zsei.settings import Settings

SIZE = 2_000_000


def mount(*words: str) -> None:
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a small file system")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False, timeout=20)


def opened(home: Path) -> Memory:
    return Memory(home, embedder=HashEmbedder())


def filled(disk: Path, *, leave: int = 0) -> Path:
    """Fill the disk but for so many bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        try:
            while out.write(bytes(4096)):
                pass
        except OSError:
            out.truncate(max(0, out.tell() - leave))
    return filler


def away(*_: object, **__: object) -> tuple[str, ...]:
    raise index.IndexUnusable("there is no Chroma here")


@pytest.mark.parametrize("chroma", [False, True])
def test_a_full_disk_loses_nothing_and_answers(
    disk: Path, chroma: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not chroma:
        monkeypatch.setattr(index, "query", away)
    memory = opened(disk / "home")
    held = {}
    for seed in range(3):
        held[f"run-{seed}"] = small_record(seed)
        memory.add(held[f"run-{seed}"])
    filler = filled(disk, leave=60_000)

    def goes_on() -> None:
        for seed in range(3, 60):
            memory.add(small_record(seed))
            held[f"run-{seed}"] = small_record(seed)

    with pytest.raises(OutputError, match="free space"):
        goes_on()
    filled_up = filled(disk / "home")  # not a byte is left
    again = opened(disk / "home")
    assert {row.id for row in again.runs()} == set(held)
    for run, record in held.items():
        assert again.get(run) == record
    assert ask("which heads matter most?", again).rows
    assert retrieve(again, QUESTION)
    filler.unlink()
    filled_up.unlink()
    again.add(small_record(99))
    assert retrieve(again, QUESTION)
    assert not check(disk / "home").damaged


def test_an_analysis_on_a_full_disk_is_returned_all_the_same(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=disk / "home")
    first = make_record(0)
    assert pipeline.remember(first, settings).failures == ()
    filled(disk)
    record = pipeline.remember(make_record(1), settings)
    (failure,) = record.failures
    assert failure.stage == "memory"
    assert "free space" in failure.why
    assert record.findings == make_record(1).findings
    assert codes.of_record(record) == codes.ERROR
    assert "free space" in capsys.readouterr().err
    assert opened(disk / "home").get(first.id) == first


def test_a_disk_that_cannot_be_written_can_be_asked(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = opened(disk / "home")
    memory.add(make_record(0))
    refresh(memory)
    kept.close()  # a file system with files open to be written stays as it is
    mount("-o", "remount,ro", str(disk))
    try:
        again = opened(disk / "home")
        assert again.get("last") == make_record(0)
        assert ask("which heads matter most?", again).rows
        assert retrieve(again, QUESTION)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "query", away)
            assert retrieve(again, QUESTION)
        assert not check(disk / "home").damaged
        with pytest.raises(OutputError, match="ZSEI_HOME"):
            again.add(make_record(1))
        with pytest.raises(OutputError, match="ZSEI_HOME"):
            Memory(disk / "other")
        monkeypatch.setenv("ZSEI_HOME", str(disk / "home"))
        assert main(["list", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["runs"]) == 1
        assert main(["delete", "last", "--yes"]) == 1
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert "mend the permissions" in sentence
    finally:
        mount("-o", "remount,rw", str(disk))
    assert opened(disk / "home").get("last") == make_record(0)


def test_an_export_to_a_full_disk_is_no_file(disk: Path, home: Path) -> None:
    memory = opened(home)
    for seed in range(3):
        memory.add(make_record(seed))
    filled(disk, leave=8192)
    with pytest.raises(OutputError, match="free some"):
        export_runs(home, disk / "export.jsonl")
    assert {path.name for path in disk.iterdir()} == {"filler"}


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from kills import small_record
from memory_records import HashEmbedder
from zsei.errors import OutputError
from zsei.memory.store import Memory

memory = Memory(Path(sys.argv[1]), embedder=HashEmbedder())
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
for seed in range(100):
    try:
        memory.add(small_record(seed))
    except OutputError as error:
        assert "free space" in str(error), error
        break
    print(f"run-{{seed}}", flush=True)
else:
    raise SystemExit("no limit was met")
"""


def test_files_that_must_not_grow_lose_nothing(home: Path) -> None:
    """As on a full disk, and needs no rights: writes fail from some byte on."""
    script = LIMITED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert len(said) > 3
    memory = opened(home)
    assert [row.id for row in reversed(memory.runs())] == said
    for run in said:
        assert memory.get(run) == small_record(int(run.removeprefix("run-")))
    assert not check(home).damaged
