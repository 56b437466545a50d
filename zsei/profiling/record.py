"""What a profile found: calls, components, ceilings, memory along the program, growth with size."""

from typing import Literal

from pydantic import Field

from zsei.records import Record
from zsei.timing.interval import Interval

Bound = Literal["compute", "memory"]
OUTSIDE = "outside components"
"""Stands where a component's id would, for calls that belong to none."""


class Call(Record):
    """One call of the program, or of one module where there is no program."""

    name: str
    operation: str
    """`linear`, `add` ...; the class of a module."""
    component: str
    """Id of the component that owns it; `OUTSIDE` for none."""
    seconds: Interval
    """Time for the whole batch, releasing what nothing reads any more included."""
    flops: int | None
    """Operations for the whole batch; None where shapes do not tell."""
    moved: int | None
    """Bytes read and written; 0 for a call that only looks at a value in another shape."""
    written: int | None
    """Bytes of the value it makes; 0 for a look."""
    alive: int | None = None
    """Bytes of all values alive right after it, inputs and parameters left out."""
    held: int | None = None
    """Most bytes that torch's allocator held while it ran, beyond those at the beginning."""


class Part(Record):
    """A component, or all components of one kind: what its calls cost together."""

    name: str
    """Id of the component, the kind, or `OUTSIDE`."""
    kind: str
    calls: int
    seconds: Interval
    share: float
    """Of the time of all parts."""
    band: str
    """now (over 20 %), next (10 to 20 %), later (5 to 10 %), not worth it (under 5 %)."""
    flops: int | None
    moved: int | None
    written: int | None
    intensity: float | None = None
    """Operations per byte moved; None where nothing is moved or it is not known."""
    flops_per_second: float | None = None
    bytes_per_second: float | None = None
    bound: Bound | None = None
    """Which ceiling is the lower one at its intensity."""
    roofline_share: float | None = None
    """Least time the ceilings allow / time it took. Over 1 where values stayed in a cache; far
    under 1 where neither ceiling is the limit, but the cost of making calls."""
    alive: int | None = None
    """Most bytes alive after any of its calls."""
    held: int | None = None
    """Most bytes the allocator held during any of its calls."""


class Roof(Record):
    """The ceilings all parts are held against."""

    dtype: str
    """Type of the model's parameters, whose matrix product was measured."""
    peak: float | None
    """Operations per second; None where it could not be measured."""
    bandwidth: float
    """Bytes per second."""
    ridge: float | None
    """Operations per byte above which arithmetic, and below which memory, is the limit."""
    note: str = ""
    """Why there is no peak."""


class MemoryUse(Record):
    """Memory of one forward pass, for the whole batch, beyond parameters and inputs."""

    parameters: int
    """Bytes of parameters and buffers."""
    inputs: int
    """Bytes of the batch."""
    alive: int | None = None
    """Most bytes of values alive at once."""
    alive_call: str = ""
    """The call after which that is."""
    held: int | None = None
    """Most bytes torch's allocator held: values, and scratch space inside calls."""
    held_call: str = ""
    component: str = ""
    """Component of the call at the peak: the allocator's where it is known."""


class Growth(Record):
    """How time or memory grows with the batch or the length.

    Exponent: slope of the least-squares line through log(value) over log(size), with a t-interval
    from its residuals. 1 is proportional, 2 quadratic, 0 does not grow.
    """

    over: Literal["batch", "length"]
    measure: Literal["seconds", "bytes"]
    sizes: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    """Median at each size."""
    at: str = ""
    """What the other size was held at: `4 samples`, `64 positions`."""
    exponent: Interval | None = None
    """None where it could not be told; `note` says why."""
    kinds: dict[str, float] = Field(default_factory=dict)
    """Kind of component -> exponent of its time, for kinds with at least 5 % of it."""
    note: str = ""

    @property
    def fastest(self) -> str:
        """The kind whose time grows fastest; "" where kinds were not told apart."""
        return max(sorted(self.kinds), key=lambda kind: self.kinds[kind], default="")


class ProfileRecord(Record):
    """A profile, whole. Nearly all of it comes from a clock."""

    schema_version: int = 1
    id: str
    """Hash of what was asked, without what clocks said."""
    model: str
    model_class: str
    model_hash: str
    parameters: int
    versions: dict[str, str]
    seed: int
    device: str
    """`cpu` or `cuda:0`."""
    device_name: str
    threads: int
    fidelity: Literal["program", "modules"]
    inputs: dict[str, tuple[int, ...]]
    """Name of an input -> its shape, axis 0 the sample."""
    batch_size: int
    length: int | None
    """Positions of a sample, padding included; None where samples are no sequences."""
    rounds: int
    """Interleaved rounds, each the whole once and the parts once."""
    whole: Interval
    """Seconds of a plain forward of the batch."""
    sum_of_parts: Interval
    """Seconds of all calls together, / seconds of the whole in the same round."""
    parts: tuple[Part, ...]
    """Components, slowest first."""
    kinds: tuple[Part, ...]
    """Components of one kind together, slowest first."""
    calls: tuple[Call, ...]
    """In the order in which they ran."""
    roof: Roof
    memory: MemoryUse
    growth: tuple[Growth, ...] = ()
    forwards: float
    """What measuring took, in forwards of the batch; preparing and ceilings left out."""
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds of the stages of the profile itself."""
    command: str = ""
    created: str = ""

    def show(self) -> None:
        """Print the profile as tables, hot spots first."""
        from zsei.report.profile_text import show

        show(self)

    def _repr_html_(self) -> str:
        from zsei.report.profile_html import fragment

        return fragment(self)
