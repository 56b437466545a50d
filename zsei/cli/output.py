"""What goes where: results alone on stdout, progress and everything else on stderr."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, float, float | None, str], None]
"""Called with (stage, share done 0..1, seconds remaining or None, note)."""


@contextlib.contextmanager
def results() -> Iterator[TextIO]:
    """Yield stdout for the results, and send whatever else is printed meanwhile to stderr.

    That holds for Python and for C: libraries print what they like, and `--json` stays one object.
    """
    with contextlib.ExitStack() as stack:
        out = sys.stdout
        if _is_process_stdout(out):
            out = stack.enter_context(_moved_stdout(out))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield out
        out.flush()


def _is_process_stdout(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError, io.UnsupportedOperation):
        return False  # a test or a notebook put its own stream there


@contextlib.contextmanager
def _moved_stdout(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream on what descriptor 1 was, while descriptor 1 itself is stderr."""
    stdout.flush()
    descriptor = os.dup(1)
    try:
        os.dup2(2, 1)
        with open(descriptor, "w", encoding=stdout.encoding, closefd=False) as out:
            yield out
    finally:
        os.dup2(descriptor, 1)
        os.close(descriptor)


def console(stdout: TextIO) -> "Console":
    """A console for results: as wide as the terminal, or 100 columns where there is none."""
    from rich.console import Console

    wide = stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=stdout, width=None if wide else 100)


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress | None]:
    """Yield a callback that draws a bar with the time left, or None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Bars(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False
    ) as bars:
        task = bars.add_task("starting", total=1.0, left="", note="")

        def advance(stage: str, done: float, remaining: float | None, note: str) -> None:
            bars.update(
                task,
                description=escape(stage),
                completed=done,
                left="" if remaining is None else f"{_clock(remaining)} left",
                note=escape(note),
            )

        yield advance


def _clock(seconds: float) -> str:
    """Minutes and seconds, as 1:05."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
