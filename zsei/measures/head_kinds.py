"""Names what a head looks at by where its attention lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.records import Measurement
from zsei.trace.view import Measured, View

MASSES = (
    ("first token", "first_token_mass"),
    ("diagonal", "diagonal_mass"),
    ("previous token", "previous_token_mass"),
    ("delimiter", "delimiter_mass"),
)


@final
@dataclass(frozen=True, kw_only=True)
class HeadKinds:
    """The kind of every head: first or previous token, diagonal, delimiter, local, broad, mixed.

    Measures: which single place, or which range, holds most of a head's attention.

    Formula: broad when the normalised entropy is at least `even`; else the place whose mass is
    largest, if that is at least `most`; else local when the mean distance is at most `near`
    positions; else mixed. The value is the number that decided.

    Reading it: heads on the first token or a delimiter are often parked there and write little;
    diagonal and previous-token heads work by position; broad heads average.

    Misleads when: inputs are so short that positions coincide (the first token is the previous one
    of the second), or the kind changes with the input: look at the divergence beside it.

    References: Clark, Khandelwal, Levy and Manning, "What does BERT look at?", BlackboxNLP 2019;
    Kovaleva, Romanov, Rogers and Rumshisky, "Revealing the dark secrets of BERT", EMNLP 2019.
    """

    name: ClassVar[str] = "head-kinds"

    most: float = 0.5
    """Mass from which a place names the head."""
    near: float = 2.0
    """Mean distance, in positions, up to which a head is local."""
    even: float = 0.85
    """Normalised entropy from which a head is broad."""

    def measure(self, view: View) -> Measured:
        """One measurement per head; its note is the kind."""
        found = {}
        for tap in view.taps.attentions:
            for head in tap.heads:
                known = {
                    name: m.value
                    for name, m in view.measurements.get(head, {}).items()
                    if m.value is not None
                }
                if "attention_entropy" in known:
                    n = view.measurements[head]["attention_entropy"].n
                    kind, value, unit = self.kind(known)
                    found[head] = (
                        Measurement(name="head_kind", value=value, unit=unit, n=n, note=kind),
                    )
        return Measured(measurements=found)

    def kind(self, known: Mapping[str, float]) -> tuple[str, float, str]:
        """(kind, number that decided, its unit) from a head's patterns."""
        entropy = known["attention_entropy"]
        mass, place = max(
            ((known[name], place) for place, name in MASSES if name in known),
            key=lambda pair: pair[0],
        )
        if entropy >= self.even:
            return "broad", entropy, "share"
        if mass >= self.most:
            return place, mass, "share"
        distance = known.get("attention_distance")
        if distance is not None and distance <= self.near:
            return "local", distance, "positions"
        return "mixed", entropy, "share"
