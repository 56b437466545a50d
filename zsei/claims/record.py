"""What a check of claims found: a verdict for each, with what it rests on."""

from typing import Literal

from zsei.claims.claim import Kind, Unit
from zsei.records import Failure, Measurement, Record
from zsei.speedups.speedup import Step, Use
from zsei.timing.interval import Interval

ClaimVerdict = Literal["held", "not held", "not decided", "not measurable here"]
VERDICTS: tuple[ClaimVerdict, ...] = ("held", "not held", "not decided", "not measurable here")


class Machine(Record):
    """Where a claim was measured."""

    name: str
    """Processor or card."""
    device: str
    """`cpu`, `cuda` or `cuda:N`."""
    cores: int
    """Of the processor that this process may use."""
    threads: int
    """Torch threads of the baseline."""
    dtype: str = "float32"
    """Of the baseline."""


class Outcome(Record):
    """One claim and what was measured; a row of a scaling table is one too."""

    id: str
    """The claim's; of a row of a table `claim@cores`."""
    kind: Kind
    use: Use
    quote: str = ""
    source: str = ""
    at_least: float | None = None
    at_most: float | None = None
    """As claimed. Of a range only one end decides (`zsei.claims.claim.Claim`)."""
    unit: Unit
    verdict: ClaimVerdict
    value: float | None = None
    """What was measured, in `unit`; None where it could not be."""
    interval: Interval | None = None
    """Of the value, where a clock took part; what is counted has none."""
    more_than_claimed: bool = False
    """Held, and beyond the far end of the range that was claimed."""
    reason: str
    """The verdict in words, with its numbers."""
    steps: tuple[Step, ...] = ()
    """What was carried out: the claimed steps, or the best of the alternatives."""
    left_out: tuple[Failure, ...] = ()
    """Alternatives that do not count, and why."""
    measurements: tuple[Measurement, ...] = ()
    """What stands beside the value: difference and divergence of outputs, bytes of both sides, the
    product of the parts of a combined claim, which is no measurement of the whole."""
    machine: Machine
    command: str
    """Measures this claim again."""
    seconds: float
    """What it took."""

    @property
    def claimed(self) -> str:
        """The claim in short: `2 to 4 x`, `at most 10 ms/sample`."""
        low, high = self.at_least, self.at_most
        unit = "" if self.unit in ("1", "share") else f" {self.unit}"
        if low is not None and high is not None:
            return f"{low:g} to {high:g}{unit}"
        if low is not None:
            return f"at least {low:g}{unit}"
        return "the gate's limits" if high is None else f"at most {high:g}{unit}"


class ClaimsRecord(Record):
    """A file of claims, checked."""

    schema_version: int = 1
    id: str
    """Hash of the file and the model, without what clocks said."""
    file: str
    title: str
    model: str
    model_class: str = ""
    model_hash: str = ""
    """Empty where the device is not here, so that the model was not loaded."""
    parameters: int = 0
    objective: str = ""
    metric: str = ""
    seed: int
    machine: Machine
    samples: int = 0
    """Held-out samples: what is timed and judged on."""
    batch_size: int = 0
    baseline: tuple[Step, ...] = ()
    versions: dict[str, str]
    outcomes: tuple[Outcome, ...]
    command: str
    created: str
    seconds: float

    def count(self, verdict: ClaimVerdict) -> int:
        """How many claims got this verdict."""
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def holds(self) -> bool:
        """Whether no claim was measured and found wrong."""
        return self.count("not held") == 0

    def outcome(self, claim: str) -> Outcome:
        """The outcome of the claim of this id.

        Raises:
            KeyError: There is none.
        """
        for outcome in self.outcomes:
            if outcome.id == claim:
                return outcome
        raise KeyError(claim)
