"""Texts of which the model uses a small part, or all and would take more."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

from zsei.analyzers.checks import inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number, percent
from zsei.measures.context_length import cut_texts
from zsei.measures.reach import reach
from zsei.records import Check, Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class ContextBottleneck:
    """A context far longer than what the answer rests on.

    Measures: how much of the given text the answer depends on, by cutting it.

    Formula: effective_context as in the measure context-length. Found when the upper end of its 90
    % interval is at most max_share of the tokens given. Severity: 1 - effective_context / given.
    The check repeats the cut on held-out samples: it agrees when the effective context there lies
    within the interval's upper end too.

    Reading it: on texts like these a window of the effective context gives the same answers with a
    smaller cache and, since attention is quadratic, far fewer operations on long texts. It is also
    the limit: nothing farther back can change an answer, so tasks that need it are out of reach.

    Misleads when: the texts hold nothing worth looking back for, or are much shorter than those
    of the real use.

    References: Khandelwal, He, Qi and Jurafsky, "Sharp nearby, fuzzy far away: how neural language
    models use context", ACL 2018; Beltagy, Peters and Cohan, "Longformer: the long-document
    transformer", 2020 (windows).
    """

    code: ClassVar[str] = "context-bottleneck"
    clock: ClassVar[bool] = False

    max_share: float = 0.25
    """Effective context over tokens given, up to which it counts as short, 0 to 1."""
    samples: int = 8
    """Held-out samples of the check."""
    ends: int = 4
    """Positions per held-out sample of a decoder."""
    enough: float = 0.05
    """Share of the largest effect that counts as nothing, in the check."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """At most one finding, on the embedding."""
        for component, named in analysis.trace.measurements.items():
            length, high = named.get("effective_context"), named.get("effective_context_high")
            given = named.get("context_given")
            if length is None or high is None or given is None:
                continue
            if length.value is None or high.value is None or given.value is None:
                continue
            if high.value > self.max_share * given.value:
                continue
            finding = Finding.make(
                code=self.code,
                components=(component,),
                severity=1 - length.value / given.value,
                evidence=(length, high, given),
                message=f"Of {number(given.value)} tokens the answer rests on "
                f"{number(length.value)} ({length.note.split(';')[0]}): the rest, "
                f"{percent(1 - length.value / given.value)} of the context, changes nothing.",
            )
            yield with_checks(finding, self._held_out(analysis, high.value))

    def _held_out(self, analysis: Analysis, high: float) -> Check:
        """The same cut on samples that were not looked at before."""
        name = "held-out"
        subject = analysis.subject
        cut = cut_texts(
            replace(subject, calibration=subject.held_out), self.samples, self.ends
        )  # fmt: skip
        if cut is None or len(cut.effects) < 3:
            return inconclusive(name, "It takes at least 3 held-out texts of 4 tokens to tell.")
        again = reach(cut.effects, cut.lengths, enough=self.enough, seed=analysis.settings.seed)
        agrees = again.length <= high
        n = len(cut.effects)
        return Check(
            name=name,
            outcome="agrees" if agrees else "disagrees",
            evidence=(
                Measurement(name="effective_context", value=again.length, unit="tokens", n=n,
                            note="held-out samples"),
            ),
            message=f"On {n} held-out texts the answer rests on {again.length} tokens, which "
            + ("agrees." if agrees else "is more than was found."),
        )  # fmt: skip
