"""What a language model would say after each layer."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from zsei.measures.modality import spread
from zsei.measures.tail import by_sample, find_tail, spread_rows
from zsei.records import Measurement
from zsei.trace.view import Measured, View

ENTRIES = 4_000_000
"""Logits computed per layer at most: it bounds the rows for large vocabularies."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerDecisions:
    """The final norm and head applied to the stream after each layer (the logit lens).

    Measures: how much of the final decision stands already after layer l.

    Formula: p_l = softmax(head(norm(x_l))), x_l [d] the stream after layer l at one position;
    lens_agreement = share of positions with argmax p_l = argmax p_L; lens_divergence = mean
    KL(p_L ‖ p_l) in nats; means over positions within samples first, then over samples.

    Reading it: both are 1 and 0 at the last layer. Where agreement is high early, later layers
    change few decisions there: candidates for an early exit, to be judged by exact ablation.

    Misleads when: layers write in a basis that the final norm and head do not read (early layers
    of models trained without it): low agreement is then the lens's, not the layer's. Only claimed
    where norm and head give the model's own logits from the last layer.

    References: nostalgebraist, "Interpreting GPT: the logit lens", 2020; Belrose et al., "Eliciting
    latent predictions from transformers with the tuned lens", 2023.
    """

    name: ClassVar[str] = "layer-decisions"

    rows: int = 256
    """Positions read at most."""

    def measure(self, view: View) -> Measured:
        """Two numbers per layer; nothing where there is no head on the stream."""
        tail = find_tail(view)
        if tail is None:
            return Measured()
        outputs = view.subject.anatomy.outputs
        most = max(16, min(self.rows, ENTRIES // tail.weight.shape[0]))
        last = view.rows[outputs[tail.layers[-1]]]
        chosen = spread_rows(len(last), most)
        samples = view.row_samples[outputs[tail.layers[-1]]][chosen]
        final = tail.logits(tail.read(last[chosen])).log_softmax(-1)
        found: dict[str, tuple[Measurement, ...]] = {}
        for layer in tail.layers:
            stream = view.rows[outputs[layer]]
            if len(stream) != len(last):
                continue
            now = tail.logits(tail.read(stream[chosen])).log_softmax(-1)
            found[layer] = _compared(now, final, samples)
        return Measured(measurements=found)


def _compared(now: Tensor, final: Tensor, samples: Tensor) -> tuple[Measurement, ...]:
    same = (now.argmax(-1) == final.argmax(-1)).double()
    apart = (final.exp() * (final - now)).sum(-1).clamp_min(0).double()
    note = f"from {len(samples)} positions"
    return (
        spread("lens_agreement", by_sample(same, samples), "share", note),
        spread("lens_divergence", by_sample(apart, samples), "nats", note),
    )
