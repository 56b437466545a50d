"""An output head whose width limits what can be predicted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.checks import with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number
from zsei.records import Check, Finding


@final
@dataclass(frozen=True, kw_only=True)
class VocabularyBottleneck:
    """Every direction in front of a far larger vocabulary is in use.

    Measures: whether the predictions need all the directions that the width in front of the head
    has (the softmax bottleneck).

    Formula: found when vocabulary >= min_ratio · width and head_rank_needed >= min_used · width,
    both as in the measure vocabulary. Severity: head_rank_needed / width · (1 - width /
    vocabulary). The check asks the same of the lower end of its 90 % interval over held-apart
    samples.

    Reading it: log probabilities over contexts cannot have more independent directions than the
    width, and these data use all of them; a wider stream in front of the head, or a mixture of
    softmaxes, is the trial that would tell whether it costs anything.

    Misleads when: principal directions of small variance are needed for reasons other than the
    vocabulary, or the width is ample for the entropy of the task: full use is no proof of a loss.

    References: Yang, Dai, Salakhutdinov and Cohen, "Breaking the softmax bottleneck: a high-rank
    RNN language model", ICLR 2018; Godey, Villemonte de la Clergerie and Sagot, "Why do small
    language models underperform? Studying language model saturation via the softmax bottleneck",
    COLM 2024.
    """

    code: ClassVar[str] = "vocabulary-bottleneck"
    clock: ClassVar[bool] = False

    min_ratio: float = 2.0
    """Vocabulary over width from which the width can limit."""
    min_used: float = 0.75
    """Share of the width that predictions need, 0 to 1."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """At most one finding, on the head."""
        for component, named in analysis.trace.measurements.items():
            needed, low = named.get("head_rank_needed"), named.get("head_rank_needed_low")
            width, vocabulary = named.get("head_width"), named.get("vocabulary")
            if needed is None or low is None or width is None or vocabulary is None:
                continue
            used, least = needed.value, low.value
            if used is None or least is None or not width.value or not vocabulary.value:
                continue
            if vocabulary.value < self.min_ratio * width.value:
                continue
            if used < self.min_used * width.value:
                continue
            finding = Finding.make(
                code=self.code,
                components=(component,),
                severity=used / width.value * (1 - width.value / vocabulary.value),
                evidence=(needed, width, vocabulary),
                message=f"Predictions over {number(vocabulary.value)} tokens need "
                f"{number(used)} of the {number(width.value)} directions that {component} reads: "
                f"its width may limit what can be predicted.",
            )
            sure = least >= self.min_used * width.value
            check = Check(
                name="half-samples",
                outcome="agrees" if sure else "inconclusive",
                evidence=(low,),
                message=f"With directions found on one half of the samples, at least "
                f"{number(least)} are needed on the other (90 %)"
                + ("." if sure else "; about four times as many samples would tell."),
            )
            yield with_checks(finding, check)
