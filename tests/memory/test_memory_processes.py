"""Several processes on one folder, and processes that are killed: nothing acknowledged is lost."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from memory_records import HashEmbedder, make_record

from zsei.memory.store import Memory

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from memory_records import HashEmbedder, make_record
from zsei.memory.store import Memory

home, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
records = [make_record(seed, layers=2, heads=1) for seed in range(first, first + min(count, 40))]
print("ready", flush=True)
sys.stdin.readline()
memory = Memory(home, embedder=HashEmbedder())
for number in range(count):
    record = records[number % len(records)]
    record = record.model_copy(update={{"id": f"run-{{first + number}}"}})
    memory.add(record)
    print(record.id, flush=True)
"""


def start(home: Path, first: int, count: int) -> subprocess.Popen[str]:
    script = WRITER.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home), str(first), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(*writers: subprocess.Popen[str]) -> None:
    """Let all writers start at one moment, each having made its records."""
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()


def test_two_processes_at_once_lose_nothing(home: Path) -> None:
    """Both also make the store: neither may find it half-made."""
    count = 40
    writers = [start(home, first, count) for first in (0, 1000)]
    go(*writers)
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    memory = Memory(home, embedder=HashEmbedder())
    expected = {f"run-{first + n}" for first in (0, 1000) for n in range(count)}
    assert {row.id for row in memory.runs()} == expected
    with memory.reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        sequences = [row[0] for row in db.execute("SELECT sequence FROM runs ORDER BY sequence")]
    assert sequences == list(range(1, 2 * count + 1))


def test_kill_9_loses_no_acknowledged_record(home: Path) -> None:
    rng = random.Random(0)
    acknowledged: set[str] = set()
    for attempt in range(3):
        writer = start(home, 10_000 * attempt, 5000)
        go(writer)
        assert writer.stdout is not None
        acknowledged.add(writer.stdout.readline().strip())
        time.sleep(rng.uniform(0.02, 0.3))
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=30)
        acknowledged |= {line for line in rest.split("\n")[:-1] if line}
    memory = Memory(home, embedder=HashEmbedder())
    held = {row.id for row in memory.runs()}
    assert acknowledged <= held
    assert len(acknowledged) >= 3
    example = make_record(0, layers=2, heads=1).model_copy(update={"id": "run-0"})
    assert memory.get("run-0") == example
    with memory.reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        whole = "SELECT COUNT(*) FROM runs WHERE id NOT IN (SELECT run FROM records)"
        assert db.execute(whole).fetchone()[0] == 0


def test_a_kill_while_the_store_is_made_leaves_one_that_opens(home: Path) -> None:
    for pause in (0.0, 0.01):
        writer = start(home, 0, 1)
        go(writer)
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=30)
        Memory(home, embedder=HashEmbedder()).runs()
