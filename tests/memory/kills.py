"""Processes that die at a chosen moment: a nursery forks them, each patches one call and is gone.

A child works on a memory and kills itself with SIGKILL before or after the n-th call of a function,
or is killed by the kernel (SIGALRM, no handler) so many seconds after that call has begun, which
reaches into Chroma's own code. What it has finished it says at once, through a pipe.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from memory_records import HashEmbedder, make_record

from zsei.memory import place, rebuild
from zsei.memory.portable import export_runs, import_runs
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Finding

QUESTION = "why was removing layers rejected"
Works = Sequence[tuple[str, str]]
"""(what to do, with what): ("add", seed), ("ask", ""), ("refresh", ""), ("rebuild", ""),
("export", file), ("import", file), ("delete", run), ("fork", "")."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Where a process dies."""

    at: str
    """Function as `module:name` or `module:Class.name`; "" is nowhere."""
    when: str = "before"
    """"before", "after", or "during": `seconds` after the call began."""
    nth: int = 1
    seconds: float = 0.0


def small_record(seed: int) -> AnalysisRecord:
    """An analysis that is quickly written."""
    record = make_record(seed, layers=2, heads=1)
    return record.model_copy(update={"id": f"run-{seed}"})


def large_record(seed: int, findings: int = 130) -> AnalysisRecord:
    """An analysis whose passages make Chroma flush its index."""
    many = tuple(
        Finding.make(
            code="dead-units",
            components=("encoder.layer.0/mlp",),
            severity=0.5,
            evidence=(),
            message=f"{number:b} {seed} never active".replace("1", "alpha ").replace("0", "omega "),
        )
        for number in range(findings)
    )
    return small_record(seed).model_copy(update={"findings": many, "id": f"large-{seed}"})


class Nursery:
    """A process that has imported everything and forks one child after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )

    def run(self, home: Path, works: Works, kill: Kill) -> tuple[list[str], int]:
        """What a child said it had finished, and the number of the signal it died of (0: none)."""
        order = {"home": str(home), "works": list(works), "kill": asdict(kill)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        said = []
        while not (line := self.process.stdout.readline().strip()).startswith("ended "):
            assert line, "the nursery itself died"
            said.append(line)
        return said, int(line.split()[1])

    def close(self) -> None:
        """No more children."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _nursery() -> None:
    import chromadb  # noqa: F401  # imported once, never opened here: a child could not use it

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _child(json.loads(line))
        _, status = os.waitpid(child, 0)
        code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        os.write(1, f"ended {code}\n".encode())


def _child(order: dict[str, Any]) -> None:
    try:
        armed = _arm(Kill(**order["kill"]))
        for work, value in order["works"]:
            done = _work(Path(order["home"]), work, value)
            os.write(1, f"{done}\n".encode())
        while armed:  # the kernel's timer is still to come
            _work(Path(order["home"]), "ask", "")
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


def _work(home: Path, work: str, value: str) -> str:
    memory = Memory(home, embedder=HashEmbedder())
    if work == "add":
        record = (large_record if int(value) < 0 else small_record)(abs(int(value)))
        memory.add(record)
        return f"added {record.id}"
    if work == "refresh":
        assert refresh(memory).notes == ()
    elif work == "ask":
        assert retrieve(memory, QUESTION)
    elif work == "fork":
        assert retrieve(memory, QUESTION)
        child = os.fork()
        if not child:  # Chroma would hang here
            os._exit(0 if retrieve(memory, QUESTION) else 1)
        assert os.waitpid(child, 0)[1] == 0
    elif work == "rebuild":
        rebuild.rebuild(memory, embed=True)
    elif work == "export":
        export_runs(home, Path(value))
    elif work == "import":
        import_runs(memory, Path(value))
    elif work == "delete":
        memory.delete(value)
        rebuild.follow(memory)
    return f"{work} {value}".strip()


def _arm(kill: Kill) -> list[None]:
    """Patch the function; the list is not empty once a timer runs."""
    armed: list[None] = []
    if not kill.at:
        return armed
    module, _, name = kill.at.partition(":")
    owner: Any = import_module(module)
    *classes, name = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls == kill.nth
        if now and kill.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if now and kill.when == "during":
            armed.append(None)
            signal.setitimer(signal.ITIMER_REAL, max(kill.seconds, 1e-6))
        result = function(*arguments, **options)
        if now and kill.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
    return armed


if __name__ == "__main__":
    place._GRAPH["hnsw"]["sync_threshold"] = 100  # flushes often, so that kills meet flushes
    _nursery()
