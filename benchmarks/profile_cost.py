"""What a profile of MiniLM costs, in forwards of the profiled batch; and whether its parts add up.

CPU time, so that other work on the machine counts little; preparing and the machine's ceilings,
which are kept, are left out, as the profile's own figure does.
"""

from dataclasses import dataclass

import torch

from benchmarks.minilm import subject
from benchmarks.paired import Ratio, ratio
from zsei.clock import Clock
from zsei.profiling.profile import SHARES, profile_subject
from zsei.profiling.record import ProfileRecord
from zsei.settings import Settings
from zsei.timing.ceilings import ceilings
from zsei.timing.device import find_device

FORWARDS = 12
"""What a profile may cost at most."""
AGREES = 0.05
"""How far the sum of the parts may lie from the whole."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    cost: Ratio
    """CPU time of a profile over that of a plain forward."""
    record: ProfileRecord
    """The last profile."""


def measure(pairs: int = 3) -> Result:
    """Cost of whole profiles, and the last of them."""
    model, device, settings = subject(), find_device("cpu"), Settings()
    torch.set_num_threads(1)
    ceilings(device, 1, ("float32",), settings.home)
    records: list[ProfileRecord] = []

    def profile() -> None:
        records.append(profile_subject(model, device, settings, Clock(None, None, SHARES)))

    program = model.program
    assert program is not None

    def forward() -> object:
        with torch.no_grad():
            return program(*model.calibration[0].inputs)

    return Result(cost=ratio(profile, forward, pairs), record=records[-1])


if __name__ == "__main__":
    found = measure()
    cost, added = found.cost, found.record.sum_of_parts
    print(
        f"profile {cost.median:.1f} forwards ({cost.low:.1f} to {cost.high:.1f}); "
        f"a forward is {cost.baseline_seconds:.3f} s; goal at most {FORWARDS}"
    )
    print(
        f"sum of parts {added.median:.3f} of the whole ({added.low:.3f} to {added.high:.3f}); "
        f"goal within {AGREES:.0%}"
    )
    for fit in found.record.growth:
        told = "could not tell" if fit.exponent is None else f"{fit.exponent.median:.2f}"
        print(f"{fit.measure} over {fit.over}: exponent {told}")
