"""A conversation, turn by turn: where it stands is data, and a turn is a function of it.

    state = started(desk)
    state, events = turn(desk, state, "which heads matter most?")
    state, events = turn(desk, state, "ablate head 3 of layer 2")   # offered, with its cost
    state, events = turn(desk, state, "y")                          # run

Rules read the line first; a language model, where there is one, may choose a step for what they do
not read. Neither runs anything: an action runs when the user says yes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from zsei.chat import words
from zsei.chat.carry_out import carry_out
from zsei.chat.commands import Command, read_action, read_command
from zsei.chat.desk import Desk
from zsei.chat.keep import keep_verdict
from zsei.chat.records import Action, Event, Ran
from zsei.chat.reopen import estimate
from zsei.chat.voice import action_of, grounded, next_step, speaker
from zsei.errors import LLMError, ZseiError
from zsei.memory import Thread, ask_in, cards_of
from zsei.memory.tried import Tried, tried_before
from zsei.records import AnalysisRecord
from zsei.report.text import clean, one_line
from zsei.subject.seeded import seeded

LONGEST = 2000
"""Characters of a line that are read."""
_REMEMBERED = 6
_SHOWN = 8
_EARLIER = 3
_YES, _NO = ("y", "yes"), ("", "n", "no")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Where a conversation stands."""

    thread: Thread = field(default_factory=Thread)
    """What memory needs to understand the next question."""
    run: str | None = None
    """The analysis that actions are made on; None while memory is empty."""
    pending: Action | None = None
    """What was offered and waits for a yes."""
    shown: tuple[str, ...] = ()
    """Components and proposals of the last answer or action: "it", "them"."""
    lines: tuple[str, ...] = ()
    """The user's last lines, newest last."""
    actions: int = 0
    """Actions carried out or begun so far."""
    seconds: float = 0.0
    """What they took."""
    over: bool = False


def started(desk: Desk, runs: Sequence[str] = ()) -> Conversation:
    """A conversation about some analyses, or about all in memory.

    Args:
        desk: What it works with.
        runs: Ids of analyses, unambiguous beginnings of them, or "last"; none means all.

    Raises:
        UsageError: There is no such analysis.
    """
    named = tuple(dict.fromkeys(desk.record(run).id for run in runs))
    newest = desk.memory.runs()
    first = named[0] if named else (newest[0].id if newest else None)
    return Conversation(thread=Thread(runs=named), run=first)


def turn(desk: Desk, state: Conversation, line: str) -> tuple[Conversation, tuple[Event, ...]]:
    """One line of the user, and what comes of it.

    Whatever goes wrong is said in an event and the conversation goes on; only an interrupt passes
    through, see `cancelled`.

    Args:
        desk: What the conversation works with.
        state: Where it stands.
        line: What the user wrote.

    Returns:
        Where it stands then, and what is to be shown, in order.
    """
    line = one_line(line, LONGEST)
    pending, state = state.pending, replace(state, pending=None)
    try:
        if pending is not None and line.lower().rstrip(".!") in _YES:
            state, events = _run(desk, state, pending)
            return state, _plain(events)
        if pending is not None and line.lower().rstrip(".!") in _NO:
            return state, (Event(kind="said", text="Left out."),)
        if not line:
            return state, ()
        command = read_command(line)
        if command.word != "question":
            return _controlled(desk, state, command)
        state, events = _answered(desk, state, line)
    except ZseiError as error:
        events = (Event(kind="refusal", text=str(error)),)
    except Exception as error:
        told = f"{type(error).__name__}: {error or 'no message'}"
        said = f"That ran into an error ZSEI does not know, {told}; the conversation goes on."
        events = (Event(kind="refusal", text=said),)
    return replace(state, lines=(*state.lines, line)[-_REMEMBERED:]), _plain(events)


def _plain(events: Sequence[Event]) -> tuple[Event, ...]:
    """Events whose texts hold nothing that a terminal obeys, whatever names stand in them."""
    return tuple(event.model_copy(update={"text": clean(event.text)}) for event in events)


def cancelled(state: Conversation, seconds: float) -> Conversation:
    """Where a conversation stands after an interrupt: as before, with the time on its account."""
    ran = state.pending is not None
    return replace(
        state, pending=None, seconds=state.seconds + seconds, actions=state.actions + int(ran)
    )


def _controlled(
    desk: Desk, state: Conversation, command: Command
) -> tuple[Conversation, tuple[Event, ...]]:
    """Help, quit, runs, use, actions."""
    if command.word == "help":
        return state, (Event(kind="said", text=words.HELP),)
    if command.word == "quit":
        return replace(state, over=True), (Event(kind="bye", text="Bye."),)
    if command.word == "runs":
        return state, (Event(kind="said", text=_runs(desk, state)),)
    if command.word == "actions":
        limits = desk.limits
        said = (
            f"{state.actions} of {limits.actions} actions and {state.seconds:.0f} of "
            f"{limits.seconds:.0f} seconds spent."
        )
        return state, (Event(kind="said", text=said),)
    if command.argument.lower() == "all":
        return replace(state, thread=Thread()), (Event(kind="said", text="All analyses."),)
    record = desk.record(command.argument)
    state = replace(state, run=record.id, thread=Thread(runs=(record.id,)), shown=())
    said = f"Speaking of {record.id} ({record.provenance.model}); `use all` for every analysis."
    return state, (Event(kind="said", text=said),)


def _runs(desk: Desk, state: Conversation) -> str:
    rows = desk.memory.runs()
    lines = [
        f"{'*' if row.id == state.run else ' '} {row.id}  {row.model}  {row.created}  "
        f"{row.findings} findings, {row.accepted} of {row.proposals} proposals accepted"
        for row in rows[:30]
        if not state.thread.runs or row.id in (*state.thread.runs, state.run)
    ]
    return "\n".join(lines) or "Memory is empty; `zsei analyze` makes the first analysis."


def _answered(desk: Desk, state: Conversation, line: str) -> tuple[Conversation, tuple[Event, ...]]:
    """An action offered, or an answer."""
    if state.run is not None:
        record = desk.record(state.run)
        action = read_action(line, record, desk.cards.strategies, state.shown)
        if action is not None:
            return _offered(desk, state, record, action, line)
        if desk.line is not None:
            found = _chosen(desk, state, record, line)
            if found is not None:
                return found
    cards = desk.cards
    answer, thread = ask_in(
        state.thread, line, desk.memory, desk.line, cards_of(cards), cards=cards
    )
    cited = dict.fromkeys(c.run for c in answer.citations if c.run != "knowledge")
    shown = tuple(dict.fromkeys(name for row in answer.rows for name in _named(row)))
    state = replace(
        state,
        thread=thread,
        run=next(iter(cited)) if len(cited) == 1 else state.run,
        shown=shown[:_SHOWN] or state.shown,
    )
    return state, (Event(kind="answer", text=answer.text, voice=answer.voice, answer=answer),)


def _named(row: Mapping[str, JsonValue]) -> list[str]:
    """Ids that stand in a row of an answer: of a proposal, of its components, of one component."""
    components = row.get("components")
    listed = components if isinstance(components, list) else []
    found = [row.get("id"), row.get("component"), *listed]
    return [name for name in found if isinstance(name, str)]


def _chosen(
    desk: Desk, state: Conversation, record: AnalysisRecord, line: str
) -> tuple[Conversation, tuple[Event, ...]] | None:
    """What a language model chose; None when memory shall answer, or it failed."""
    assert desk.line is not None, "there is somebody to ask"
    agent = speaker(desk.cards)
    asked = len(desk.line.log)
    try:
        step = next_step(desk.line, agent, desk.cards, record, line, state.lines)
        action = action_of(step, record, desk.cards)
        if action is not None:
            return _offered(desk, state, record, action, line, voice=desk.line.voice)
        said = grounded(step.text, record, desk.cards) if step.step == "say" else ""
    except LLMError:
        return None  # rules go on; the answer's voice tells of a failure
    finally:
        if len(desk.line.log) > asked:
            desk.memory.log_calls(desk.line.log[asked:])
    if not said:
        return None
    return state, (Event(kind="said", text=said, voice=desk.line.voice),)


def _offered(
    desk: Desk, state: Conversation, record: AnalysisRecord, action: Action, line: str,
    voice: str = "rules",
) -> tuple[Conversation, tuple[Event, ...]]:  # fmt: skip
    """An action with its cost, to be confirmed; what needs no run is told at once."""
    events: list[Event] = []
    if action.kind == "compare":
        answer = words.side_by_side(line, action.components, record)
        events.append(Event(kind="answer", text=answer.text, answer=answer))
    state = replace(state, shown=_components(action))
    spent = _spent(desk, state)
    if spent:
        return state, (*events, Event(kind="refusal", text=spent))
    cost = estimate(record, action, desk.settings, open_now=desk.is_open(record))
    said = words.offer(action, cost, record) + words.earlier(_earlier(desk, record, action))
    offered = Event(kind="offer", text=said, action=action, estimate=cost, voice=voice)
    own = voice == "rules"
    if own and desk.yes:
        state, ran = _run(desk, state, action)
        return state, (*events, offered, *ran)
    if not desk.interactive:
        why = "An action must be confirmed, but there is no terminal to ask at; " + (
            "run with --yes." if own else "ask for it in words the rules read, with --yes."
        )
        return state, (*events, offered, Event(kind="refusal", text=why))
    return replace(state, pending=action), (*events, offered)


def _earlier(desk: Desk, record: AnalysisRecord, action: Action) -> tuple[Tried, ...]:
    """How the gate judged such a proposal in other analyses, the nearest first."""
    if action.proposal is None:
        return ()
    model = record.provenance
    found = tried_before(
        desk.memory, action.proposal, model_hash=model.model_hash, model=model.model,
        family=model.family,
    )  # fmt: skip
    return tuple(one for one in found if one.run != record.id)[:_EARLIER]


def _components(action: Action) -> tuple[str, ...]:
    return (action.proposal.components if action.proposal else action.components)[:_SHOWN]


def _spent(desk: Desk, state: Conversation) -> str:
    """Why no action may begin any more; "" while one may."""
    limits = desk.limits
    if state.actions < limits.actions and state.seconds < limits.seconds:
        return ""
    return (
        f"A conversation may spend {limits.actions} actions and {limits.seconds:.0f} seconds, and "
        f"this one has spent {state.actions} and {state.seconds:.0f}; questions go on, for more "
        "actions start one with a larger --budget or --actions."
    )


def _run(desk: Desk, state: Conversation, action: Action) -> tuple[Conversation, tuple[Event, ...]]:
    """Carry out what was confirmed, and keep what came of it."""
    begin = time.monotonic()
    failed = ""
    kept = record = desk.record(action.run)
    ran: Ran | None = None
    try:
        reopened = desk.reopened(record)
        with seeded(reopened.analysis.settings):
            ran, brought = carry_out(action, reopened, desk.progress)
        if ran.verdict is not None:
            kept, failed = keep_verdict(reopened, ran, brought, desk.memory, desk.settings)
            ran = ran.model_copy(update={"kept": None if ran.repeats or failed else kept.id})
    except ZseiError as error:
        failed = str(error)
    except Exception as error:
        told = one_line(f"{type(error).__name__}: {error or 'no message'}", LONGEST)
        failed = f"The action ran into an error ZSEI does not know, {told}; nothing was kept."
    spent = state.seconds + time.monotonic() - begin
    state = replace(state, actions=state.actions + 1, seconds=spent)
    events: list[Event] = []
    if ran is not None:
        events.append(Event(kind="result", text=words.result(ran), action=ran.action, ran=ran))
        state = replace(state, shown=_components(ran.action))
    if failed:
        told = f"The verdict was not kept: {failed}" if ran is not None else failed
        events.append(Event(kind="refusal", text=told))
    return _moved(state, record.id, kept.id), tuple(events)


def _moved(state: Conversation, before: str, after: str) -> Conversation:
    """The conversation, with one analysis in the place of the one that it continues."""
    if before == after:
        return state
    thread = state.thread
    runs = tuple(after if run == before else run for run in thread.runs)
    focus = tuple(after if run == before else run for run in thread.focus)
    return replace(state, run=after, thread=replace(thread, runs=runs, focus=focus))
