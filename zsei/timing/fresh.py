"""Runs a function in a Python process of its own, for what can be set only once in a process.

Such are torch's inter-op threads and what OpenMP reads when it is loaded. The process is also where
memory is measured that torch's allocator does not see: nothing was there before.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsei import errors
from zsei.errors import ModelError, UsageError, ZseiError
from zsei.timing.resident import resident_memory

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_BEGIN = (
    "import sys, json; request = json.load(sys.stdin); sys.path[:] = request['path']; "
    "from zsei.timing.fresh import answer; answer(request)"
)
_TAIL = 600
"""Characters of what the process wrote that stand in an error."""


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """What a function returned in a process of its own."""

    result: Any
    """Plain JSON."""
    seconds: float
    """Of the function alone, without starting Python and importing."""
    resident_before: int | None
    """Bytes resident when the function began, its module imported; None where nobody tells."""
    resident_peak: int | None
    """Most bytes resident while it ran."""


def run_fresh(
    function: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    threads: int | None = None,
    interop_threads: int | None = None,
    timeout: float = 600,
) -> Fresh:
    """Call `package.module:function` with keyword arguments in a fresh Python process.

    What the function prints goes nowhere; its process group is ended when the time is up or the
    caller is interrupted.

    Args:
        function: Module and name; the module must be importable here.
        arguments: Keyword arguments, plain JSON.
        environment: Variables beside those of this process, such as OMP_NUM_THREADS.
        threads: Torch's intra-op threads; None leaves them.
        interop_threads: Torch's inter-op threads; None leaves them.
        timeout: Seconds the process may take, starting included.

    Raises:
        UsageError: The function's name is none, or the arguments are no JSON.
        ModelError: The process failed, was killed or took too long; the message says which. An
            error of ZSEI's own is raised here as it was there.
    """
    if not _NAME.fullmatch(function):
        raise UsageError(f"A function is named package.module:function; {function!r} is not.")
    request = {
        "path": sys.path, "function": function, "arguments": dict(arguments or {}),
        "threads": threads, "interop_threads": interop_threads,
    }  # fmt: skip
    try:
        text = json.dumps(request, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The arguments of {function} must be plain JSON: {error}.") from error
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BEGIN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})}, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        out, written = process.communicate(text, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{function} must end within {timeout:g} s in its own process; it was stopped. Give it "
            f"less to do or more time."
        ) from error
    finally:
        _end(process)
    return _read(function, process.returncode, out, written)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and whatever it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _read(function: str, code: int, out: str, written: str) -> Fresh:
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        found = {}
    if code == 0 and "result" in found:
        return Fresh(**found)
    if "message" in found:
        kind = getattr(errors, found["kind"], None)
        if isinstance(kind, type) and issubclass(kind, ZseiError):
            raise kind(found["message"])
        raise ModelError(
            f"{function} must run through in its own process; it raised {found['kind']} at "
            f"{found['where']}: {found['message']}"
        )
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        why = " (the system ends a process so when memory runs out)" if name == "SIGKILL" else ""
        how = f"it was killed by {name}{why}"
    else:
        how = f"it ended with exit code {code} and no answer"
    raise ModelError(
        f"{function} must run through in its own process; {how}. It wrote last: "
        f"{written.strip()[-_TAIL:] or 'nothing'}"
    )


def answer(request: Mapping[str, Any]) -> None:
    """What the fresh process does: call the function and write one JSON object to its output.

    Args:
        request: What `run_fresh` sent.
    """
    sys.stdin.close()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the function prints must not mix with the answer
    try:
        found: dict[str, Any] = _called(request)
        text = json.dumps(found, allow_nan=False)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found = {
            "kind": type(error).__name__,
            "message": str(error),
            "where": f"{last.filename}:{last.lineno}",
        }
        text = json.dumps(found)
    with channel:
        channel.write(text)


def _called(request: Mapping[str, Any]) -> dict[str, Any]:
    if request["threads"] or request["interop_threads"]:
        import torch

        if request["threads"]:
            torch.set_num_threads(request["threads"])
        if request["interop_threads"]:
            torch.set_num_interop_threads(request["interop_threads"])
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    took: list[float] = []

    def timed() -> object:
        begin = time.perf_counter()
        result = function(**request["arguments"])
        took.append(time.perf_counter() - begin)
        return result

    memory = resident_memory(timed)
    result = memory.result if memory else timed()
    return {
        "result": result,
        "seconds": took[0],
        "resident_before": memory.before if memory else None,
        "resident_peak": memory.peak if memory else None,
    }
