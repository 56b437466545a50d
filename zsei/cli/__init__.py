"""The command line: one file a command, and no logic beyond asking the pipeline and printing.

`main` is the console script. Next to nothing is imported before it runs, so that Ctrl-C finds
somebody to answer it from the first moment, and every command imports what it needs when it runs.
"""

import os
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, whatever happens.

    Args:
        arguments: The words after `zsei`; None takes the process's own.

    Returns:
        0 done, 1 error, 2 usage, 3 the gate accepted nothing, 4 the language model failed and
        rules stood in, 5 memory damaged, 130 interrupted.
    """
    try:
        from zsei.cli.run import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = 130
    if code == 130 and arguments is None:
        _leave(code)
    return code


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
