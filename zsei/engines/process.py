"""A worker process as its parent sees it: start it, talk to it, look at it, end it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from zsei.engines.messages import Channel, Message
from zsei.engines.watchdog import MEMORY_EXIT

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from zsei.engines.child import serve; "
    "serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)
_TAIL = 4000
"""Bytes that are kept of what a worker printed."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerProcess:
    """One worker process, in a session of its own: signals of the terminal do not reach it, and
    what it starts ends with it.
    """

    def __init__(self, *, priority: str, threads: int, path: Sequence[str], folder: str):
        """Start the process.

        Args:
            priority: `idle` or `normal`.
            threads: Of the numerical libraries.
            path: Where modules are looked for, before this process's own places.
            folder: Where it runs, if there is one.

        Raises:
            OSError: No process can be started (no memory, too many).
        """
        ours, theirs = socket.socketpair()
        life, self._lifeline = os.pipe()
        output, printed = os.pipe()
        os.set_blocking(output, False)
        environment = os.environ | dict.fromkeys(_THREADS, str(threads))
        arguments = [
            json.dumps(list(dict.fromkeys([*path, *sys.path]))),
            str(theirs.fileno()),
            str(life),
            priority,
        ]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=environment,
                cwd=folder if Path(folder).is_dir() else None,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(self._lifeline)
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(life)
            os.close(printed)
        self.channel = Channel(ours)
        self.output: int | None = output
        """What it prints can be read here; None once nobody is left to print."""
        self._printed = b""
        self._code: int | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def put(self, message: Message) -> None:
        """Put a message up for sending; a worker that has died is noticed elsewhere."""
        self.channel.put(message)
        with suppress(OSError):
            self.channel.send()

    def listen(self) -> None:
        """Take in what it printed, so that it never waits for a reader; the end of it is kept."""
        try:
            while self.output is not None:
                part = os.read(self.output, 65536)
                self._printed = (self._printed + part)[-_TAIL:]
                if not part:
                    os.close(self.output)
                    self.output = None
        except BlockingIOError:
            pass  # nothing there now

    def memory(self) -> int:
        """Resident memory in bytes; 0 when it has died."""
        try:
            return psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0

    def has_ended(self) -> bool:
        """Whether it has died. What is left of it stays until `end`, and so does its number, which
        no other process can get meanwhile.
        """
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    def kill(self) -> None:
        """Kill it and all it started."""
        if self._code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, if it lives, and leave nothing of it behind. Twice does nothing more."""
        if self._code is not None:
            return
        self.kill()
        self._code = self._process.wait()
        self.listen()
        self.channel.socket.close()
        if self.output is not None:
            os.close(self.output)
            self.output = None
        os.close(self._lifeline)

    def had_grown_too_large(self) -> bool:
        """Whether it ended itself for its memory; after `end`."""
        return self._code == MEMORY_EXIT

    def how_it_ended(self) -> str:
        """In words, after `end`."""
        assert self._code is not None
        if self._code < 0:
            how = f"was killed by signal {-self._code} ({signal.Signals(-self._code).name})"
        else:
            how = f"ended with exit code {self._code}"
        lines = self._printed.decode(errors="replace").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        # The interpreter's own last words stand above the stack it prints.
        fatal = [line for line in told if line.startswith("Fatal Python error")]
        last = (fatal or told)[-1:]
        return f"{how}; its last words: {last[0][:300]}" if last else how
