"""The index on a Chroma server: shared by a team, and never a reason for a question to fail."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

import pytest
from memory_records import HashEmbedder, make_record

from zsei.errors import UsageError
from zsei.memory import index, kept, place
from zsei.memory.check import check
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory

QUESTION = "why was removing layers rejected"


@pytest.fixture(autouse=True)
def nobody_is_away() -> Iterator[None]:
    kept._HELD.away.clear()
    yield
    kept._HELD.away.clear()
    kept.close()


def opened(home: Path, url: str | None) -> Memory:
    return Memory(home, embedder=HashEmbedder(), chroma_url=url)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hits(memory: Memory) -> list[tuple[str, float | None]]:
    return [(hit.id, hit.cosine) for hit in retrieve(memory, QUESTION, limit=8)]


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://host/path", "http://u:p@h",
     "http://host:0", "http://host?x=1", "chroma"],
)  # fmt: skip
def test_what_is_no_address_is_said(home: Path, url: str) -> None:
    with pytest.raises(UsageError, match="ZSEI_CHROMA_URL"):
        opened(home, url)
    assert not home.exists()


def test_a_server_that_is_away_is_no_end(home: Path) -> None:
    alone = opened(home, None)
    for seed in range(2):
        alone.add(make_record(seed))
    url = f"http://127.0.0.1:{free_port()}"
    memory = opened(home, url)
    assert hits(memory) == hits(alone)
    assert kept.is_away(url)  # and is not asked again for a while
    assert "exact search instead of Chroma" in refresh(memory).notes[0]
    (space,) = check(home, url).spaces
    assert "not built" in space.index


class Stranger(BaseHTTPRequestHandler):
    """Says that it is there, and knows nothing else."""

    def do_GET(self) -> None:
        if self.path.endswith("/heartbeat"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"nanosecond heartbeat": 1}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_a_server_that_says_nothing_is_not_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and never answers: no client of Chroma would ever return."""
    monkeypatch.setattr(place, "_ANSWER_SECONDS", 0.2)
    alone = opened(home, None)
    alone.add(make_record(0))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert hits(opened(home, url)) == hits(alone)
    assert kept.is_away(url)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Chroma's sockets
def test_a_server_that_is_none_of_chroma_s_is_no_end(home: Path) -> None:
    alone = opened(home, None)
    alone.add(make_record(0))
    server = HTTPServer(("127.0.0.1", 0), Stranger)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert hits(opened(home, url)) == hits(alone)
    finally:
        server.shutdown()
        server.server_close()


class Server:
    """`chroma run` on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("chroma")
        words = ["run", "--path", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [str(program), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            try:
                with urlopen(f"{self.url}/api/v2/heartbeat", timeout=1):
                    return
            except OSError:
                assert self.process.poll() is None, "chroma run ended"
                time.sleep(0.1)
        pytest.fail("chroma run does not answer")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.long
def test_a_team_s_server(home: Path, tmp_path: Path, server: Server) -> None:
    """Two memories on one server; it is killed, restarted, emptied; each answers all the while."""
    ours, theirs = opened(home, server.url), opened(tmp_path / "theirs", server.url)
    for seed in range(3):
        ours.add(make_record(seed))
        theirs.add(make_record(seed + 10))
    exact = hits(opened(home, None))
    counts = {}
    for memory in (ours, theirs):
        coverage = refresh(memory)
        assert coverage.notes == ()
        counts[memory.identity()] = coverage.indexed
        assert coverage.indexed == coverage.chunks
    assert ours.identity() != theirs.identity()
    assert hits(ours) == exact

    ours.delete("last")  # our index follows; theirs is not touched
    assert refresh(ours).indexed < counts[ours.identity()]
    assert refresh(theirs).indexed == counts[theirs.identity()]
    ours.add(make_record(2))

    server.kill()
    assert hits(ours) == exact
    assert kept.is_away(server.url)
    server.start()
    kept._HELD.away.clear()
    coverage = refresh(ours)
    assert (coverage.notes, coverage.indexed) == ((), coverage.chunks)
    assert hits(ours) == exact
    assert isinstance(ours.embedder, HashEmbedder)
    embedded = ours.embedder.embedded

    with index.place(ours, ours.embedder.fingerprint).writing() as collection:
        collection.delete(ids=collection.get(limit=1, include=[])["ids"])  # behind our back
    assert hits(ours) == exact
    assert refresh(ours).notes == ()
    index.place(ours, ours.embedder.fingerprint).set_aside()  # the whole collection
    assert hits(ours) == exact
    assert refresh(ours).indexed == coverage.chunks
    assert ours.embedder.embedded == embedded + 2  # the questions
    assert refresh(theirs).indexed == counts[theirs.identity()]
    (space,) = check(home, server.url).spaces
    assert "a sample read back" in space.index

    os.kill(server.process.pid, signal.SIGSTOP)  # there, and says nothing
    try:
        monkey = pytest.MonkeyPatch()
        monkey.setattr(place, "_WORK_SECONDS", 1.0)
        kept.close()
        assert hits(ours) == exact
        monkey.undo()
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from memory_records import HashEmbedder, make_record
from zsei.memory import Memory, refresh

memory = Memory(Path(sys.argv[1]), embedder=HashEmbedder(), chroma_url=sys.argv[2])
for seed in range(4):
    memory.add(make_record(int(sys.argv[3]) + seed, layers=2, heads=1))
    assert refresh(memory).notes == ()
"""


@pytest.mark.long
def test_two_clients_at_once(home: Path, server: Server) -> None:
    """Of one memory, each writing what the other does not know yet."""
    script = CLIENT.format(tests=str(Path(__file__).parent))
    clients = [
        subprocess.Popen([sys.executable, "-c", script, str(home), server.url, first])
        for first in ("100", "200")
    ]
    assert [client.wait(timeout=300) for client in clients] == [0, 0]
    memory = opened(home, server.url)
    assert len(memory.runs()) == 8
    coverage = refresh(memory)
    assert (coverage.notes, coverage.indexed) == ((), coverage.chunks)
    assert hits(memory) == hits(opened(home, None))
