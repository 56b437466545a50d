"""What a speed-up is: a name, typed parameters, and another way to run the same model."""

from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from zsei.errors import UsageError
from zsei.gate.speed_stages import EXACT as EXACT
from zsei.records import Record
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload

Use = Literal["inference", "training"]


class Params(BaseModel):
    """Parameters of a speed-up."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(Record):
    """One speed-up with its parameters, as a settings file holds it."""

    speedup: str
    params: dict[str, JsonValue] = Field(default_factory=dict)

    def text(self) -> str:
        """The step in one line: `attention-backend (backend=sdpa)`."""
        said = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.speedup} ({said})" if said else self.speedup


class Shelved(Protocol):
    """What every speed-up has, of inference or of training."""

    name: ClassVar[str]
    params: ClassVar[type[Params]]


class SpeedUp(Protocol):
    """Another way to run the same model. It says how; timing and the gate say whether it counts.

    It works on copies that share the original's weights and sets process-wide state only inside
    `Runnable.around`, so that dropping the result undoes it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int]
    """Place in which steps are carried out, small first: 10 attention, 20 layout, 30 precision,
    40 int8, 50 compilers and other runtimes, 60 wrappers that rearrange batches, 70 contexts."""
    exact: ClassVar[bool]
    """Whether outputs must agree within `EXACT`; else the gate's limits and the stated bound on the
    divergence hold."""
    params: ClassVar[type[Params]]

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """What is worth measuring here, most promising first.

        Raises:
            SpeedUpRefused: This model, machine or installation cannot have it, and why.
        """
        ...

    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        """The runnable made faster.

        Raises:
            SpeedUpRefused: It cannot be carried out on this runnable, and why.
        """
        ...


def step_of(speedup: Shelved, params: Params) -> Step:
    """A speed-up with parameters as data; defaults are left out."""
    return Step(
        speedup=speedup.name, params=params.model_dump(mode="json", exclude_defaults=True)
    )  # fmt: skip


def params_of(speedup: Shelved, step: Step) -> Params:
    """The parameters of a step, checked.

    Raises:
        UsageError: They do not fit the speed-up's schema.
    """
    try:
        return speedup.params.model_validate(step.params)
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()
        )
        takes = ", ".join(speedup.params.model_fields) or "none"
        raise UsageError(
            f"The parameters of {speedup.name} must fit its schema; {where}. It takes {takes}."
        ) from error
