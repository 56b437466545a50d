"""The command line: one file a command, and no logic beyond asking the pipeline and printing.

`main` is the console script. Next to nothing is imported before it runs, so that Ctrl-C finds
somebody to answer it from the first moment, and every command imports what it needs when it runs.
"""

import atexit
import os
import signal
import sys
import threading

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, whatever happens.

    Args:
        arguments: The words after `zsei`; None takes the process's own.

    Returns:
        0 done, 1 error, 2 usage, 3 nothing accepted or a claim not held, 4 the language model
        failed and rules stood in, 5 memory damaged, 130 interrupted.
    """
    try:
        from zsei.cli.run import run

        code = run(sys.argv[1:] if arguments is None else arguments)
        if arguments is None and code != 130:
            _answer_late_interrupts()
    except KeyboardInterrupt:
        code = 130
    if code == 130 and arguments is None:
        _leave(code)
    return code


def _answer_late_interrupts() -> None:
    """Ctrl-C while Python and the libraries put themselves away: leave at once, without a word.

    Registered first, the function at exit runs last; after it Python would let the signal kill.
    """
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))


def _leave(code: int) -> None:
    """End the process now. Whatever had to be put away was, on the way here.

    An ordinary exit could still wait for a library's threads. And where the interrupt passed
    through `exec`, as dataclasses use it, CPython ends `python -m` by signal, not with our code.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
