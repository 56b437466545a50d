"""Records of claims as a check would give them, made by hand."""

from zsei.claims.record import ClaimsRecord, Machine, Outcome
from zsei.records import Failure, Measurement
from zsei.speedups.speedup import Step
from zsei.timing.interval import Interval

MACHINE = Machine(name="Planted processor", device="cpu", cores=2, threads=1)


def outcome(**said: object) -> Outcome:
    given = {
        "id": "faster", "kind": "speed-up", "use": "inference", "unit": "x", "verdict": "held",
        "reason": "3 x", "machine": MACHINE, "command": "zsei claims it.yaml --only faster",
        "seconds": 1.5, "at_least": 2.0, "at_most": 4.0,
    }  # fmt: skip
    return Outcome.model_validate(given | said)


def interval(low: float, median: float, high: float) -> Interval:
    return Interval(median=median, low=low, high=high, n=20, confidence=0.99)


def record(*outcomes: Outcome) -> ClaimsRecord:
    return ClaimsRecord(
        id="c0", file="it.yaml", title="What was promised", model="demo:minilm", seed=0,
        machine=MACHINE, versions={"zsei": "0.1.0"}, outcomes=outcomes,
        command="zsei claims it.yaml", created="2026-03-14T09:26:00+00:00", seconds=12.0,
    )  # fmt: skip


HELD = outcome(value=3.0, interval=interval(2.8, 3.0, 3.2), quote="2 to 4 times", source="page 3")
LOST = outcome(
    id="smaller", kind="memory", verdict="not held", value=250.0, at_least=5000.0, at_most=None,
    reason="250 x less", steps=(Step(speedup="attention-backend"),),
)  # fmt: skip
OPEN = outcome(id="open", verdict="not decided", value=2.0, interval=interval(1.5, 2.0, 2.5))
GONE = outcome(id="cores@16", kind="scaling", verdict="not measurable here",
               reason="this machine has 2 cores")  # fmt: skip
PRODUCT = outcome(
    id="combined", kind="combined", verdict="held", value=9.0, interval=interval(8.0, 9.0, 10.0),
    more_than_claimed=True,
    measurements=(
        Measurement(name="product_of_parts", value=78.75, unit="x", note="no measurement"),
    ),
    left_out=(Failure(stage="refused", what="onnx-runtime", why="the package is missing"),),
)  # fmt: skip
