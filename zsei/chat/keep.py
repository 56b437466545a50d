"""What a conversation found out stays: verdicts in memory, every turn in a private transcript."""

import datetime
import os
from pathlib import Path

from zsei.assembly import sealed
from zsei.chat.records import Exchange, Ran
from zsei.chat.reopen import Reopened
from zsei.memory import Memory
from zsei.pipeline import remember
from zsei.records import AnalysisRecord
from zsei.settings import Settings
from zsei.strategies.fitted import kept_values
from zsei.surgery.weights import Weights

_FOLDED = ("head", "neuron")
"""Kinds whose means `apply` folds into biases."""


def with_verdict(reopened: Reopened, ran: Ran, brought: Weights) -> AnalysisRecord:
    """The analysis with one more proposal and its verdict, under an id of its own.

    All else is as it was, so that whatever was asked of the first can be asked of this one.
    """
    record, proposal, verdict = reopened.record, ran.action.proposal, ran.verdict
    assert proposal is not None, "only verdicts on proposals are kept"
    assert verdict is not None, "only verdicts are kept"
    last = max((p.priority for p in record.proposals), default=-1)
    accepted = verdict.outcome == "accepted"
    places = set(proposal.components)
    places |= {p for c in record.components if c.id in places and (p := c.parent)}
    means = {
        f"{component}|{kind}": tuple(mean.flatten().tolist())
        for (component, kind), mean in sorted(reopened.analysis.trace.means.items())
        if accepted and kind in _FOLDED and component in places
    }
    changed = record.model_copy(
        update={
            "proposals": (*record.proposals, proposal.model_copy(update={"priority": last + 1})),
            "verdicts": (*record.verdicts, verdict),
            "means": {**record.means, **means},
            "fitted": {**record.fitted, **(kept_values({proposal.id: brought}) if brought else {})},
        }
    )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return sealed(changed, record.timings.model_copy(update={"created": now}))


def keep_verdict(
    reopened: Reopened, ran: Ran, brought: Weights, memory: Memory, settings: Settings
) -> tuple[AnalysisRecord, str]:
    """Remember a verdict; one that the analysis holds already is not kept twice.

    Returns:
        The analysis that now holds it, and why it was not kept, if so.
    """
    if ran.repeats:
        return reopened.record, ""
    record = remember(with_verdict(reopened, ran, brought), settings, memory=memory)
    failed = [f for f in record.failures if f.stage == "memory"]
    return (reopened.record, failed[-1].why) if failed else (record, "")


class Transcript:
    """A file of one JSON line per turn, readable by its owner alone.

    Each line is on the disk before the next turn begins. A file that cannot be written ends the
    transcript, not the conversation: `problem` then says why.
    """

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        self.path = folder / f"{now}-{os.getpid()}.jsonl"
        self.problem = ""

    def add(self, exchange: Exchange) -> None:
        """Append one turn."""
        if self.problem:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self.path, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(exchange.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.problem = (
                f"The transcript must be writable, but {self.path} is not "
                f"({error.strerror or error}); the conversation goes on without one."
            )
