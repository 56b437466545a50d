"""Modules that are called more than once, and calls of them that do nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.checks import ablation_check, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import measured_effects, measurement
from zsei.analyzers.words import listed, number, percent
from zsei.records import Finding
from zsei.subject.types import Site
from zsei.trace.ablation import Target


@final
@dataclass(frozen=True, kw_only=True)
class SharedModule:
    """Calls of a shared module that bring nothing beside its other calls.

    Measures: a module called k times is k parts, `#1` to `#k`, each ablated by itself: the weights
    are the same, what they are given is not.

    Formula: call_share = effect of replacing one call's value (by its mean; a block by what enters
    it) / the largest such effect among the calls of that module. Found when call_share <=
    max_share. Severity: share of the module's calls that bring nothing.

    Reading it: the call can be left out and saves its operations; the weights stay, since another
    call needs them. That the weights of two calls are equal is no redundancy.

    Misleads when: an ablated call is backed up by the next one (blocks that are run until nothing
    changes), or other data gives the call something to do.

    References: Dehghani et al., "Universal transformers", ICLR 2019 (one block, many calls); Lan et
    al., "ALBERT: a lite BERT for self-supervised learning of language representations", ICLR 2020.
    """

    code: ClassVar[str] = "shared-module"
    clock: ClassVar[bool] = False

    max_share: float = 0.01
    """Effect of a call, relative to the module's most effective one, up to which it is nothing."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per module that has idle calls, outermost modules only."""
        told: list[str] = []
        for base, sites in _shared(analysis).items():
            if base.startswith(tuple(told)):
                continue
            effects = measured_effects(analysis, [Target(site=s, units=(0,)) for s in sites])
            means = [float(effect.mean()) for effect in effects]
            largest = max(means)
            idle = [i for i, m in enumerate(means) if m <= self.max_share * largest]
            if largest <= 0 or not idle:
                continue
            names = tuple(sites[i].component for i in idle)
            told += [f"{base}/", f"{base}."]
            share = max(means[i] for i in idle) / largest
            finding = Finding.make(
                code=self.code,
                components=names,
                severity=len(idle) / len(sites),
                evidence=tuple(
                    measurement(analysis, "ablation_effect", effect, note=site.component)
                    for site, effect in zip(sites, effects, strict=True)
                ),
                message=f"{base} is called {len(sites)} times with the same weights; "
                f"{listed(names)} {'brings' if len(idle) == 1 else 'bring'} at most "
                f"{percent(share)} of the effect of its best call ({number(largest)}).",
            )
            check = ablation_check(
                analysis,
                names,
                at_most=self.max_share * largest * len(idle),
                claim="these calls can be left out",
            )
            yield with_checks(finding, check)


def _shared(analysis: Analysis) -> dict[str, list[Site]]:
    """Module -> the sites of its calls, where it has several; layers before their branches."""
    found: dict[tuple[str, str], list[Site]] = {}
    for kind in ("layer", "branch"):
        for site in analysis.subject.anatomy.sites:
            head, mark, tail = site.component.rpartition("#")
            number_, slash, rest = tail.partition("/")
            if site.kind == kind and mark and number_.isdigit():
                found.setdefault((f"{head}{slash}{rest}", kind), []).append(site)
    return {base: sites for (base, _), sites in found.items() if len(sites) > 1}
