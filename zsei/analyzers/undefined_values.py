"""Components that give NaN or infinity on part of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed
from zsei.records import Finding, Measurement
from zsei.trace.undefined import Undefined


@final
@dataclass(frozen=True, kw_only=True)
class UndefinedValues:
    """Where values or gradients stop being numbers, and for which data.

    Measures: on how many samples of each data group a component is the first to write NaN or
    infinity (or the last, seen from the output, whose gradient is).

    Formula: a sample counts where any entry of the component's value (its gradient) is not finite
    and every value before it (gradient behind it) is. Severity: share of all samples, at least
    `least`.

    Reading it: the cause stands in this component or in a call between the one before and this one:
    a division by zero, a logarithm or root of something not positive, an overflow in low precision,
    attention over nothing. The samples are left out of every other number of the analysis, so that
    these stay finite; where most samples are concerned, the component is left out instead.

    Misleads when: infinity is meant (a mask that is added), or the data contains inputs the model
    is never given.

    References: Goldberg, "What every computer scientist should know about floating-point
    arithmetic", ACM Computing Surveys, 1991.
    """

    code: ClassVar[str] = "undefined-values"
    clock: ClassVar[bool] = False

    least: float = 0.3
    """Severity of a single undefined sample."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per component and kind, values first, in the order they were met."""
        for undefined in sorted(analysis.trace.undefined, key=lambda u: u.what == "gradient"):
            yield self._report(undefined)

    def _report(self, undefined: Undefined) -> Finding:
        bad = sum(count for count, _ in undefined.groups.values())
        samples = sum(total for _, total in undefined.groups.values())
        hit = {group: pair for group, pair in undefined.groups.items() if pair[0]}
        said = [f"{count} of {total} of {group}" for group, (count, total) in hit.items()]
        subject = "What" if undefined.what == "value" else "The gradient of what"
        reach = "reaches" if undefined.reaches_output else "does not reach"
        output = f" It {reach} the output." if undefined.what == "value" else ""
        gone = "these samples" if undefined.left_out == "samples" else undefined.component
        return Finding.make(
            code=self.code,
            components=(undefined.component,),
            severity=self.least + (1 - self.least) * bad / max(samples, 1),
            evidence=(
                Measurement(name="undefined_samples", value=bad, unit="count", n=samples),
                *(
                    Measurement(name="undefined_share", value=count / total, unit="share", n=total,
                                note=f"group {group}")
                    for group, (count, total) in undefined.groups.items()
                ),
            ),
            message=f"{subject} {undefined.component} writes is NaN or infinite on "
            f"{bad} of {samples} samples ({listed(said)}).{output} Other numbers leave out {gone}.",
        )  # fmt: skip
