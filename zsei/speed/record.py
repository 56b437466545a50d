"""What a measurement of speed-ups found: each alone, all together, and what to set."""

from typing import Annotated, Literal

from pydantic import Field

from zsei.records import Failure, Measurement, Record, Verdict
from zsei.speedups.speedup import Step, Use
from zsei.timing.interval import Interval

SETTINGS_VERSION = 1
"""Of the settings file; a newer one is refused."""


class Trial(Record):
    """Some steps, measured against the baseline."""

    id: str
    """Hash of the steps; the verdict's `proposal_id`."""
    steps: tuple[Step, ...]
    exact: bool
    """Whether every step promises the same outputs within 1e-5."""
    verdict: Verdict
    """Of the gate: outputs and quality, then whether it is faster at all."""
    speed_up: Interval | None = None
    """Baseline time / time, over interleaved rounds; None where it never ran."""
    seconds: Interval | None = None
    """Of one batch."""
    measurements: tuple[Measurement, ...] = ()
    """relative_difference (the largest), mean_cosine, divergence, peak_bytes, baseline_peak_bytes,
    prepare_seconds (compiling, converting)."""


class PartTime(Record):
    """Where the time of one part of the model went, and what the combination made of it."""

    component: str
    baseline: float
    """Seconds a batch."""
    predicted: float
    """Baseline x the product of the ratios each single step reached on this part."""
    combined: float | None
    """Measured with all steps; None where the combination runs the model as one opaque piece."""


class Combination(Record):
    """All accepted steps together, beside the product of their single speed-ups."""

    trial: Trial
    order: tuple[Step, ...]
    """In the order in which they were added."""
    left_out: tuple[Failure, ...] = ()
    """Steps accepted alone and not kept together, each with what was measured."""
    product: float
    """Of the single speed-ups of the steps kept: what multiplying would have claimed. It is no
    measurement."""
    parts: tuple[PartTime, ...] = ()
    explanation: str = ""
    """Where the difference between product and measurement lies, in words made of these numbers."""


class InputShape(Record):
    """What an input looks like, so that one can be made up where a step needs an example."""

    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal[
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool",
    ]  # fmt: skip
    low: int = 0
    """Smallest value of an input of whole numbers."""
    high: int = 0
    """Largest value of an input of whole numbers."""
    mask: bool = False
    """Whether it says which tokens are real."""


class SpeedSettings(Record):
    """The settings file: what `zsei.load` applies. It holds names and numbers, nothing to run."""

    schema_version: int = SETTINGS_VERSION
    model: str
    """As the user named it; what `zsei.load(FILE)` loads."""
    kind: Literal["huggingface", "factory", "pt2", "object"] = "object"
    """What stands under that name; an *object* must be passed to `zsei.load`."""
    model_hash: str
    inputs: tuple[InputShape, ...] = ()
    device: str
    """`cpu` or `cuda`."""
    steps: tuple[Step, ...]
    use: Use = "inference"
    """What the steps speed up; those of training are carried out by `carry_out_training`
    (`zsei.speedups.training`)."""
    speed_up: Interval | None = None
    measured_on: str = ""
    """Processor or card, and threads of the baseline."""
    versions: dict[str, str] = Field(default_factory=dict)


class SpeedRecord(Record):
    """One measurement of speed-ups, whole. Nearly all of it comes from a clock."""

    schema_version: int = 1
    id: str
    """Hash of what was asked, without what clocks said."""
    model: str
    model_class: str
    model_hash: str
    parameters: int
    versions: dict[str, str]
    seed: int
    objective: str
    metric: str
    safety: str
    device: str
    """`cpu` or `cuda:0`."""
    device_name: str
    threads: int
    use: Use = "inference"
    samples: int
    batch_size: int
    lengths: tuple[int, ...] = ()
    """Real length of every timed sample, where samples have one."""
    baseline: Interval
    """Seconds of one batch: eager attention, float32, padded to the longest of the batch."""
    alone: tuple[Trial, ...]
    together: Combination | None = None
    refused: tuple[Failure, ...] = ()
    """Speed-ups that this model, machine or installation cannot have, and why."""
    settings: SpeedSettings | None = None
    """None when nothing was accepted."""
    command: str = ""
    created: str = ""
