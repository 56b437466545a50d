"""Runs one command line: every way it can end becomes an exit code and at most one sentence."""

import _thread
import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType

from typer import TyperException

from zsei.cli import codes
from zsei.cli.app import app
from zsei.errors import OutputError, ZseiError

INTERRUPTED = "Interrupted; nothing was left half written."


def run(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return its exit code; nothing is raised."""
    _silence_libraries()
    # Idle threads sleep rather than spin: beside another busy process that is several times faster,
    # and on a quiet machine it costs little. Torch reads it when it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in options
    with _interruptible(as_json=as_json) as interrupted:
        try:
            code = app(args=arguments, prog_name="zsei", standalone_mode=False)
            if code != codes.INTERRUPTED:  # typer's own answer to KeyboardInterrupt
                return code if isinstance(code, int) else codes.DONE
        except BrokenPipeError:
            return _reader_is_gone()
        except (Exception, KeyboardInterrupt) as error:
            # A library may turn the interrupt into an error of its own on the way up.
            if not interrupted.is_set() and not isinstance(error, KeyboardInterrupt):
                return _fail(error, as_json=as_json)
            _show_traceback()
    _say("Interrupted", INTERRUPTED, as_json=as_json)
    return codes.INTERRUPTED


def _fail(error: Exception, *, as_json: bool) -> int:
    """Say in one sentence what went wrong, and return the exit code that goes with it."""
    _show_traceback()
    kind, code, message = type(error).__name__, codes.ERROR, str(error)
    if isinstance(error, ZseiError):
        code = error.exit_code
    elif isinstance(error, TyperException):
        kind, code, message = "UsageError", codes.USAGE, _with_hint(error)
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kind = OutputError.__name__
        message = f"What ZSEI writes must fit on the disk, but {error}; free some space."
    elif isinstance(error, MemoryError):
        message = "The analysis must fit into memory, but it ran out; take fewer or shorter inputs."
    else:
        message = (
            f"ZSEI ran into an error it does not know, {kind}: {message or 'no message'}; "
            "ZSEI_DEBUG=1 shows where."
        )
    try:
        _say(kind, message, as_json=as_json)
    except BrokenPipeError:
        return _reader_is_gone()
    return code


def _with_hint(error: TyperException) -> str:
    """Typer's message and where to read more; empty when it has already printed the help."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if not message or context is None:
        return message
    return f"{message.rstrip('.')}; see {context.command_path} --help."


def _say(kind: str, message: str, *, as_json: bool) -> None:
    from zsei.report.text import one_line  # a message may quote names that hold terminal codes

    sentence = one_line(message, 2000)
    if sentence:
        print(f"zsei: {sentence}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": sentence}}), flush=True)


def _show_traceback() -> None:
    if os.environ.get("ZSEI_DEBUG", "") not in ("", "0"):
        traceback.print_exc(file=sys.stderr)


def _reader_is_gone() -> int:
    """Whoever read our output has left, as `head` does: leave quietly, as other tools do."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return codes.ERROR


def _silence_libraries() -> None:
    """Keep other people's warnings and progress bars off the terminal; ZSEI_DEBUG=1 lets them."""
    if os.environ.get("ZSEI_DEBUG", "") in ("", "0"):
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextlib.contextmanager
def _interruptible(*, as_json: bool) -> Iterator[threading.Event]:
    """Remember that Ctrl-C was pressed, even where somebody else catches the exception.

    An exception in the middle of an import can abort the process (torch's start in C++) and is lost
    in a destructor. So while something is imported, when nothing is being written, the process
    leaves at once; and an interrupt that Python had to ignore is sent again. Once Ctrl-C was
    pressed, the next one ends the process: leaving must not be able to hang.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread may decide about signals
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        if is_importing(frame):
            _leave_now(as_json=as_json)
        raise KeyboardInterrupt

    ignored = sys.unraisablehook

    def again(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not KeyboardInterrupt:
            ignored(lost)
            return
        # From another thread: raised here, it would be lost here again.
        threading.Timer(0.01, _thread.interrupt_main).start()

    before = signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = again
    try:
        yield interrupted
    finally:
        sys.unraisablehook = ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL if interrupted.is_set() else before)


def is_importing(frame: FrameType | None) -> bool:
    """Whether an import is under way anywhere on the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave_now(*, as_json: bool) -> None:
    """Say that it was interrupted and end the process, without running anything else."""
    os.write(2, f"zsei: {INTERRUPTED}\n".encode())
    if as_json:
        answer = {"error": {"type": "Interrupted", "message": INTERRUPTED}}
        os.write(1, f"{json.dumps(answer)}\n".encode())
    os._exit(codes.INTERRUPTED)
