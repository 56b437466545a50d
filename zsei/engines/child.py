"""A worker process: makes its work once, then does one task after another until nobody asks.

Started by `zsei.engines.process` with nothing but a socket and a pipe. It does not run the main
module of its parent, so a script or notebook needs no `if __name__ == "__main__"`.
"""

import faulthandler
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

from zsei.engines.messages import DONE, ERROR, MEMORY, READY, WORK, Kind, Message, hear, say
from zsei.engines.watchdog import Watchdog, die_with, stand_back

WORDS = 600
"""Characters that are kept of an error."""


def serve(channel: int, lifeline: int, priority: str) -> None:
    """Do what is asked for over a socket until its other end is closed.

    Args:
        channel: File descriptor of the socket.
        lifeline: File descriptor of a pipe whose other end only the parent holds.
        priority: `idle` or `normal`.
    """
    die_with(lifeline)
    if priority == "idle":
        stand_back()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to act upon
    faulthandler.enable()
    sock = socket.socket(fileno=channel)
    watchdog = Watchdog()
    work: Callable[[Any], Any] | None = None
    while (asked := hear(sock)) is not None:
        with watchdog.over(asked.number):
            if asked.kind == WORK:
                work, kind, payload = _made(asked.payload)
            else:
                kind, payload = _done(work, asked.payload)
        del asked
        say(sock, Message(kind=kind, number=watchdog.peak, payload=payload))
        del payload


def _made(make: bytes | bytearray) -> tuple[Callable[[Any], Any] | None, Kind, bytes]:
    try:
        return cloudpickle.loads(make)(), READY, b""
    except BaseException as error:
        return None, *_failed(error)


def _done(work: Callable[[Any], Any] | None, task: bytes | bytearray) -> tuple[Kind, bytes]:
    assert work is not None
    try:
        # The work may raise anything, `SystemExit` too; only a signal ends a worker.
        value = work(cloudpickle.loads(task))
    except BaseException as error:
        return _failed(error)
    try:
        return DONE, cloudpickle.dumps(value)
    except BaseException as error:
        kind, why = _failed(error)
        return kind, b"What the work returned cannot be sent back (" + why + b")."


def _failed(error: BaseException) -> tuple[Kind, bytes]:
    why = in_words(error)
    # torch raises a plain RuntimeError when it gets no memory from the system.
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return (MEMORY if short or "can't allocate memory" in why else ERROR), why.encode(
        errors="replace"
    )


def in_words(error: BaseException) -> str:
    """An exception as its type and its message, in one line."""
    try:
        text = " ".join(str(error).split())[:WORDS]
    except Exception:
        text = ""  # its own __str__ raises
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
