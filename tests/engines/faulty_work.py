"""A worker's work that goes wrong in every way, as asked; for tests of engines.

Tasks are plain: ("square", 3), or the name of a fault. A fault of kind ("once", file, fault) only
happens as long as the file does not exist, so the task is done when it is tried again.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 200_000_000
"""Bytes of memory that are plenty for all but "balloon"."""
GONE = ("exit", "killed", "killed group", "segmentation fault")
"""Faults that a worker dies of."""
LATE = ("hang", "hang with lock", "stopped")
"""Faults after which it never answers."""


class Unreadable:
    """Can be sent, but not read."""

    def __reduce__(self) -> Any:
        return (_refuse, ())


def _refuse() -> None:
    raise RuntimeError("not to be read")


class Mute(Exception):
    """An exception that cannot say what it is, nor be pickled."""

    def __init__(self) -> None:
        self.held = open(os.devnull)  # noqa: PTH123, SIM115

    def __str__(self) -> str:
        raise RuntimeError("no words")


def make() -> Callable[[Any], Any]:
    """The work."""
    counted = 0
    kept = []

    def work(task: Any) -> Any:
        nonlocal counted
        counted += 1
        if task == "count":
            return counted
        if task[0] == "keep":
            kept.append(bytearray(task[1]))
            return time.sleep(0.3)
        name, *rest = (task,) if isinstance(task, str) else task
        return WORKS[name](*rest)

    return work


def _once(marker: str, fault: str) -> str:
    if Path(marker).exists():
        return f"done after {fault}"
    Path(marker).touch()
    WORKS[fault]()
    raise AssertionError("the fault did not happen")


def _balloon() -> None:
    held = []
    while True:
        held.append(bytearray(2_000_000))
        time.sleep(0.001)


def _fill_with_lock(size: int) -> None:
    held = ctypes.create_string_buffer(size)
    ctypes.PyDLL(None).memset(held, 1, size)
    ctypes.PyDLL(None).sleep(600)


def _raise() -> None:
    raise ValueError("first line\n  second line")


def _mute() -> None:
    raise Mute


def _noise() -> str:
    sys.stdout.write("garbage on stdout\n")
    os.write(1, b"\x80\xff" * 500_000)
    os.write(2, b"garbage on stderr\n" * 10_000)
    os.close(1)
    os.close(2)
    return "heard"


def _offspring(marker: str, then: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(marker).write_text(str(child.pid))
    WORKS[then]()


def _meet(mine: str, other: str, then: float) -> str:
    Path(mine).touch()
    while not Path(other).exists():
        time.sleep(0.01)
    time.sleep(then)
    return other


def _wait(mine: str, gate: str) -> str:
    Path(mine).write_text(str(os.getpid()))
    while not Path(gate).exists():
        time.sleep(0.02)
    return mine


def _stay(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


WORKS: dict[str, Callable[..., Any]] = {
    "square": lambda number: number * number,
    "echo": lambda value: value,
    "pid": os.getpid,
    "environment": lambda name: os.environ.get(name),
    "scheduler": lambda: (os.sched_getscheduler(0), os.nice(0)),
    "meet": _meet,
    "wait": _wait,
    "once": _once,
    "exit": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "killed group": lambda: os.killpg(0, signal.SIGKILL),
    "killed parent": lambda: os.kill(os.getppid(), signal.SIGKILL) or time.sleep(600),
    "segmentation fault": lambda: ctypes.string_at(0),
    "hang": lambda: time.sleep(600),
    "hang with lock": lambda: ctypes.PyDLL(None).sleep(600),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "stay": _stay,
    "balloon": _balloon,
    "fill with lock": _fill_with_lock,
    "no memory": lambda: (_ for _ in ()).throw(MemoryError("no room")),
    "raise": _raise,
    "mute": _mute,
    "leave": lambda: sys.exit("leaving"),
    "unpicklable": lambda: open(os.devnull, "rb"),  # noqa: PTH123, SIM115
    "unreadable": Unreadable,
    "noise": _noise,
    "offspring": _offspring,
}
