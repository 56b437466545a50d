"""`zsei chat`: a conversation about the analyses in memory, in a plain terminal or a pipe."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from zsei.cli import codes
from zsei.cli.options import Llm, RemoteCode, data_groups, settings

if TYPE_CHECKING:
    from zsei.chat import Conversation, Desk
    from zsei.chat.records import Exchange

PROMPT, CONFIRM = "zsei> ", "Run it? [y/N] "
_LATER = 0.1
"""Seconds after which an interrupt that came in the middle of an import is tried again."""


def chat(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Analyses to speak of, as `zsei list` shows them; all by default."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Data of the analysis, where it was not the default; may be given several times.",
        ),
    ] = None,
    llm: Llm = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run the actions that your own lines ask for, unasked.")
    ] = False,
    budget: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="What all actions together may take.")
    ] = 900.0,
    actions: Annotated[int, typer.Option(min=0, help="Actions there may be.")] = 20,
    transcript: Annotated[
        bool, typer.Option(help="Keep a private transcript in the memory folder.")
    ] = True,
    allow_remote_code: RemoteCode = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print exactly one JSON object per line of yours.")
    ] = False,
) -> int:
    """Ask, ablate, compare and gate in a conversation; every action is confirmed first."""
    from zsei.cli.output import results

    with results() as stdout:
        chosen = settings(llm=llm, allow_remote_code=allow_remote_code or None)
        from zsei.chat import Desk, Limits, started
        from zsei.chat.keep import Transcript
        from zsei.llm import open_line
        from zsei.memory import Memory
        from zsei.resources import load_cards

        desk = Desk(
            memory=Memory(chosen.home, chosen.embedder, chroma_url=chosen.chroma_url),
            cards=load_cards(chosen),
            settings=chosen,
            line=open_line(chosen),
            limits=Limits(actions=actions, seconds=budget),
            interactive=sys.stdin.isatty(),
            yes=yes,
            data=data_groups(data or []),
            progress=_shown_progress,
        )
        state = started(desk, runs or ())
        kept = Transcript(Path(chosen.home) / "chat") if transcript else None
        if desk.interactive:
            _note("Ask about the analyses in memory; `help` says what else there is.")
        for exchange in _exchanges(desk, state):
            _show(exchange, stdout, as_json=as_json)
            if kept is not None and not kept.problem:
                kept.add(exchange)
                if kept.problem:
                    _note(kept.problem)
    return codes.DONE


def _exchanges(desk: "Desk", state: "Conversation") -> "Iterator[Exchange]":
    """Read line after line, and give back what came of each."""
    from zsei.chat import Event, cancelled, turn
    from zsei.chat.records import Exchange

    with _interruptible() as interrupted:
        while not state.over:
            try:
                line = _line(desk, CONFIRM if state.pending else PROMPT)
            except KeyboardInterrupt:
                _note("")
                if state.pending is None:
                    continue
                line = "no"
            if line is None:
                return
            interrupted.clear()
            begin = time.monotonic()
            events: tuple[Event, ...] = ()
            try:
                after, events = turn(desk, state, line)
            except KeyboardInterrupt:
                interrupted.set()
                after = state
            # A library may turn the interrupt into an error of its own on the way up.
            if interrupted.is_set() and not any(event.kind == "result" for event in events):
                after = cancelled(state, time.monotonic() - begin)
                events = (Event(kind="said", text="Stopped; what was not finished is not kept."),)
            state = after
            yield Exchange(line=line, events=events, run=state.run, actions=state.actions)


def _line(desk: "Desk", prompt: str) -> str | None:
    """The next line; None at the end."""
    if not desk.interactive:
        source = getattr(sys.stdin, "buffer", sys.stdin)
        given = source.readline()
        text = given.decode(errors="replace") if isinstance(given, bytes) else given
        return text.rstrip("\n") if given else None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lines can then be edited)
    # Results left descriptor 1 to the messages; that is the terminal which readline edits on.
    with contextlib.redirect_stdout(sys.__stdout__ or sys.stdout):
        try:
            return input(prompt)
        except EOFError:
            _note("")
            return None
        except UnicodeDecodeError:
            return ""


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C stops what runs and leaves the conversation; in an import it waits for its end."""
    from zsei.cli.run import is_importing  # which imports this module

    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread may decide about signals
        return

    def interrupt(_number: int, frame: FrameType | None) -> None:
        interrupted.set()
        if is_importing(frame):  # an exception there could abort the process
            threading.Timer(_LATER, _thread.interrupt_main).start()
            return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _show(exchange: "Exchange", stdout: TextIO, *, as_json: bool) -> None:
    """One turn, as text or as one line of JSON."""
    from zsei.cli.output import console
    from zsei.report import terminal
    from zsei.report.text import clean

    if sys.stderr.isatty():
        sys.stderr.write(f"\r{' ' * 8}\r")
        sys.stderr.flush()
    if as_json:
        stdout.write(exchange.model_dump_json() + "\n")
    else:
        screen = console(stdout)
        for event in exchange.events:
            if event.answer is not None:
                terminal.answer(event.answer, screen)
                continue
            voice = "" if event.voice == "rules" else f"\n({clean(event.voice, 80)})"
            stdout.write(f"{clean(event.text)}{voice}\n")
    stdout.flush()


def _shown_progress(share: float) -> None:
    """The share of a running action, where somebody sees it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r  {min(max(share, 0.0), 1.0):4.0%} ")
        sys.stderr.flush()


def _note(sentence: str) -> None:
    from zsei.report.text import one_line

    print(one_line(sentence, 2000), file=sys.stderr, flush=True)
