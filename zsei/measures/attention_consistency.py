"""Whether a head looks at the same places whatever it is given."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from zsei.measures.samples import could_not_tell
from zsei.records import Measurement
from zsei.trace.attention_evidence import AttentionEvidence
from zsei.trace.view import Measured, View

NAME, UNIT = "attention_divergence", "bits"


@final
@dataclass(frozen=True, kw_only=True)
class AttentionConsistency:
    """Jensen-Shannon divergence of a head's attention rows between inputs.

    Measures: how much the attention of a head depends on the input, at the same query position of
    inputs of like length (the same quarter of the longest).

    Formula: per query position i, JS_i = H(mean_n w_ni) - mean_n H(w_ni) in bits, w_ni the row of
    attention weights of input n; then the mean over i, and over lengths weighted by their inputs.
    Entropies of the mean and means of entropies are running sums: no pair of inputs is compared.

    Reading it: 0 for a head that attends by position alone, at most log2 of the number of inputs
    for one that looks somewhere else each time. A positional head of low divergence can often be
    replaced by something fixed.

    Misleads when: inputs are few (the value cannot exceed log2 n) or share a template; a head that
    always looks at one delimiter diverges as the delimiter moves, and lengths that differ a little
    add to it.

    References: Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
    Information Theory, 1991; Clark, Khandelwal, Levy and Manning, "What does BERT look at?", 2019.
    """

    name: ClassVar[str] = "attention-consistency"

    fewest: int = 2
    """Inputs of like length that a comparison needs."""

    def measure(self, view: View) -> Measured:
        """One measurement per head whose weights were recomputed."""
        found: dict[str, tuple[Measurement, ...]] = {}
        for tap in view.taps.attentions:
            kept = view.evidence.attention.get(tap.component)
            if kept is None:
                continue
            for index, head in enumerate(tap.heads):
                found[head] = (self._head(kept, index),)
        return Measured(measurements=found)

    def _head(self, kept: AttentionEvidence, index: int) -> Measurement:
        found = [
            (shared.inputs, values[index])
            for shared in kept.shared.values()
            if (values := shared.divergence(self.fewest)) is not None
        ]
        n = sum(inputs for inputs, _ in found)
        if not found:
            return could_not_tell(
                NAME, UNIT, f"{self.fewest} inputs of like length are needed; there is one of each",
                sum(shared.inputs for shared in kept.shared.values()),
            )  # fmt: skip
        values = torch.stack([value for _, value in found]).double()
        weights = torch.tensor([inputs for inputs, _ in found], dtype=torch.float64)
        largest = float((weights * weights.log2()).sum() / n)
        return Measurement(
            name=NAME, value=float((values * weights).sum() / n), unit=UNIT, n=n,
            note=f"at most {largest:.2f} for so many inputs",
        )  # fmt: skip
