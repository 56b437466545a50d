"""What a conversation consists of, as data: actions, what they measured, and what was said."""

from typing import Literal

from zsei.records import Answer, Measurement, Proposal, Record, Verdict

ActionKind = Literal["ablate", "compare", "gate"]


class Action(Record):
    """Something that can be run on a stored analysis. Built by the program from closed lists."""

    kind: ActionKind
    run: str
    """The analysis whose model, data and conditions it repeats."""
    components: tuple[str, ...] = ()
    """What is ablated or compared; for the gate see `proposal`."""
    replacement: Literal["mean", "zero", "resample"] = "mean"
    """What stands in for an ablated value; layers are bypassed."""
    proposal: Proposal | None = None
    """What the gate shall judge; a share or "heads of an attention" is settled when it runs."""


class Estimate(Record):
    """What an action will cost, before it runs."""

    forwards: int
    """Forward passes of one batch, about; a backward pass counts as two."""
    opening: int
    """Those among them that open the model again; 0 when it is open."""
    batch: int
    """Samples in a batch."""


class Row(Record):
    """One measured number and whom it belongs to."""

    components: tuple[str, ...]
    measurement: Measurement


class Ran(Record):
    """An action that was carried out: what exactly was run, and what was measured."""

    action: Action
    """As it was run, with everything settled."""
    conditions: dict[str, str | int]
    """Metric, replacement, samples, data, seed, precision."""
    rows: tuple[Row, ...] = ()
    verdict: Verdict | None = None
    repeats: bool = False
    """Whether the analysis holds a verdict on this very proposal already."""
    kept: str | None = None
    """The analysis in memory that holds the verdict; None where nothing had to be kept."""


class Event(Record):
    """One thing said in a turn."""

    kind: Literal["answer", "said", "offer", "result", "refusal", "bye"]
    text: str
    voice: str = "rules"
    answer: Answer | None = None
    action: Action | None = None
    estimate: Estimate | None = None
    ran: Ran | None = None


class Exchange(Record):
    """One turn of a conversation, as `--json` prints it and the transcript keeps it."""

    line: str
    events: tuple[Event, ...]
    run: str | None
    """The analysis that actions are then made on."""
    actions: int
    """Actions carried out so far."""
