"""Are critical paths critical? They are removed, and so are random paths of equal length."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import beta, spearmanr
from torch import Tensor

from zsei.analyzers.checks import Outcome, inconclusive
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import measurement
from zsei.analyzers.path_parts import part_effects, path_share, removable_parts
from zsei.analyzers.shares import additive
from zsei.analyzers.words import number, percent
from zsei.errors import ExportError
from zsei.graph.routes import random_routes
from zsei.records import Check, Finding, Measurement
from zsei.subject.program import export
from zsei.subject.streamed import mapped_weights
from zsei.subject.types import Batch, Subject
from zsei.trace.ablation import Target
from zsei.trace.engine import Engine
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.sets import ablate_sets

NAME = "random-paths"
CODES = ("critical-path-information", "critical-path-effect")
"""Findings whose components are a path that is said to matter."""
SAMPLES = 4
"""Samples on which paths are removed: all paths on the same ones."""
ABOVE = 0.95
"""Share of the random paths that a critical one must exceed."""
FEWEST_PATHS = 19
"""Random paths below which a place above 95 % of them could be chance: 1 / (19 + 1) = 5 %."""
FEWEST_RANKED = 6
"""Random paths below which no rank correlation is given."""


@dataclass(frozen=True, kw_only=True)
class _Rivals:
    """Random paths through as many parts, and what removing each does."""

    paths: tuple[tuple[str, ...], ...]
    effects: tuple[float, ...]
    every: bool
    """Whether they are all there are, so that no draw is left to chance."""


def path_checks(
    analysis: Analysis, findings: Iterable[Finding], *, out_of_time: Callable[[], bool]
) -> dict[str, Check]:
    """Finding id -> its test against random paths, for the findings that are paths.

    Formula: the parts on the path (heads, MLPs and the like that not every path crosses) are
    removed together, means standing in, and so are those of `settings.random_paths` paths drawn
    uniformly among all that cross as many parts. path_percentile = share of the random paths with a
    smaller effect, equal ones counted half; it agrees from 95 %, and is inconclusive where another
    draw of paths could lead above. path_rank_agreement = Spearman
    over the random paths between what the finding ranks paths by and their effect.

    Args:
        analysis: What was measured, and the engine.
        findings: All findings; others than paths are passed over.
        out_of_time: Asked before the paths of each length; if so, the rest is inconclusive.
    """
    wanted = [finding for finding in findings if finding.code in CODES]
    count = analysis.settings.random_paths
    if not wanted or not count:
        return {f.id: inconclusive(NAME, SWITCHED_OFF) for f in wanted}
    parts = removable_parts(analysis)
    lengths: dict[int, list[Finding]] = {}
    for finding in wanted:
        lengths.setdefault(sum(n in parts for n in finding.components), []).append(finding)
    found: dict[str, Check] = {}
    runner: _Runner | None = None
    for length, members in sorted(lengths.items()):
        if length == 0:
            found |= {f.id: inconclusive(NAME, NOTHING) for f in members}
        elif out_of_time():
            found |= {f.id: inconclusive(NAME, NO_TIME) for f in members}
        else:
            runner = runner or _Runner.make(analysis)
            found |= _compare(analysis, runner, parts, length, members)
    return found


SWITCHED_OFF = (
    "Not tested against random paths: the setting random_paths is 0; it takes at least "
    f"{FEWEST_PATHS}."
)
NO_TIME = (
    "Not tested against random paths: half of the time budget was spent; a larger budget tells."
)
NOTHING = (
    "Nothing on this path can be removed by itself: it is what every path shares, or skips that "
    "only hand on; random paths cannot test it."
)


def _compare(
    analysis: Analysis, runner: "_Runner", parts: Mapping[str, Target], length: int,
    members: Sequence[Finding],
) -> dict[str, Check]:  # fmt: skip
    """The checks of the findings that cross `length` parts, on one set of random paths."""
    settings = analysis.settings
    # One more for each path that may be drawn itself.
    drawn = random_routes(
        analysis.flow, length, settings.random_paths + len(members), counted=parts.keys(),
        seed=settings.seed,
    )  # fmt: skip
    paths = [tuple(finding.components) for finding in members]
    sets = dict.fromkeys(_crossed(path, parts) for path in (*paths, *drawn))
    effects = runner.effects(analysis, [[parts[n] for n in crossed] for crossed in sets])
    known = dict(zip(sets, effects, strict=True))
    single = part_effects(analysis, parts)
    found: dict[str, Check] = {}
    for finding, path in zip(members, paths, strict=True):
        own = _crossed(path, parts)
        others = [p for p in drawn if _crossed(p, parts) != own][: settings.random_paths]
        rivals = _Rivals(
            paths=tuple(others),
            effects=tuple(float(known[_crossed(p, parts)].mean()) for p in others),
            every=len(drawn) < settings.random_paths + len(members),
        )
        ranked_by = (
            [path_share(analysis.flow, p) for p in others]
            if finding.code == "critical-path-information"
            else [sum(single.get(n, 0.0) for n in p) for p in others]
        )
        found[finding.id] = _judge(analysis, known[own], length, rivals, ranked_by)
    return found


def _crossed(path: Sequence[str], parts: Mapping[str, Target]) -> tuple[str, ...]:
    return tuple(node for node in path if node in parts)


def _judge(
    analysis: Analysis, effect: Tensor, length: int, rivals: _Rivals, ranked_by: Sequence[float]
) -> Check:
    count, own = len(rivals.paths), float(effect.mean())
    what = "part" if length == 1 else f"{length} parts"
    as_many = "another single part" if length == 1 else "as many"
    told = measurement(analysis, "path_effect", effect)
    if count < FEWEST_PATHS:
        why = (
            f"Other paths that cross {as_many}: {count}; with fewer than {FEWEST_PATHS} a place "
            f"above 95 % of them could be chance."
        )
        return inconclusive(NAME, why).model_copy(update={"evidence": (told,)})
    others = np.array(rivals.effects)
    percentile = float((others < own).mean() + (others == own).mean() / 2)
    median = float(np.median(others))
    above = "any" if percentile == 1 else "none" if percentile == 0 else percent(percentile)
    ends = f"more than {above} of {count} random paths through {as_many} (median {number(median)})"
    outcome = _outcome(percentile, rivals)
    said = {
        "agrees": "",
        "disagrees": f": it is no more critical than a random one; {percent(ABOVE)} is asked",
        "inconclusive": f"; {percent(ABOVE)} is asked, and more random paths would tell",
    }[outcome]
    return Check(
        name=NAME,
        outcome=outcome,
        evidence=(
            told,
            Measurement(name="random_path_effect", value=median, unit=told.unit, n=told.n,
                        note="median over the random paths"),
            Measurement(name="path_percentile", value=percentile, unit="share", n=count,
                        note="n counts random paths"),
            _rank_agreement(ranked_by, rivals.effects),
        ),
        message=f"Removing the {what} on this path moves the output by {number(own)} in "
        f"{told.unit}, {ends}{said}.",
    )  # fmt: skip


def _outcome(percentile: float, rivals: _Rivals) -> Outcome:
    """Above 95 % agrees; below it disagrees, unless drawing other paths could have led above it.

    Formula: upper end of the exact binomial interval (95 %, one-sided) of the share that lies
    below. References: Clopper and Pearson, Biometrika 26, 1934.
    """
    if percentile >= ABOVE:
        return "agrees"
    count = len(rivals.paths)
    below = percentile * count
    highest = percentile if rivals.every else float(beta.ppf(0.95, below + 1, count - below))
    return "disagrees" if highest < ABOVE else "inconclusive"


def _rank_agreement(ranked_by: Sequence[float], effects: Sequence[float]) -> Measurement:
    """Spearman between what paths are ranked by and what removing them does."""
    flat = np.ptp(ranked_by) == 0 or np.ptp(effects) == 0
    if len(effects) < FEWEST_RANKED or flat:
        return Measurement(
            name="path_rank_agreement", value=None, unit="Spearman", n=len(effects),
            state="could not tell", note="all paths rank alike or do the same",
        )  # fmt: skip
    value = float(np.asarray(spearmanr(ranked_by, effects)[0]))
    return Measurement(
        name="path_rank_agreement", value=value, unit="Spearman", n=len(effects),
        note="over the random paths",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """An engine that runs few samples at a time."""

    engine: Engine
    batch: Batch

    @staticmethod
    def make(analysis: Analysis) -> "_Runner":
        subject, engine = analysis.subject, analysis.engine
        first = subject.calibration[0]
        small = _first_samples(first, SAMPLES)
        if type(engine) is ProgramEngine and small.size < first.size:
            engine = _smaller(subject, small) or engine
            batch = small if engine is not analysis.engine else first
            return _Runner(engine=engine, batch=batch)
        return _Runner(engine=engine, batch=first)

    def effects(self, analysis: Analysis, sets: Sequence[Sequence[Target]]) -> list[Tensor]:
        """Additive effect per sample [n] of each set."""
        found = ablate_sets(
            self.engine, analysis.subject.objective, self.batch, sets, means=analysis.trace.means,
            replacement=analysis.settings.replacement, seed=analysis.settings.seed,
        )  # fmt: skip
        objective = analysis.subject.objective
        return [torch.as_tensor(additive(objective, f[:SAMPLES].double())) for f in found]


def _first_samples(batch: Batch, count: int) -> Batch:
    count = min(count, batch.size)
    return replace(
        batch,
        inputs=tuple(tensor[:count] for tensor in batch.inputs),
        labels=None if batch.labels is None else batch.labels[:count],
        mask=None if batch.mask is None else batch.mask[:count],
        groups=batch.groups[:count],
    )


def _smaller(subject: Subject, batch: Batch) -> ProgramEngine | None:
    """The subject's program exported again for fewer samples; None where its calls are others.

    A program holds its sizes as plain numbers. The same calls under the same names make the sites
    of one the sites of the other.
    """
    if subject.program is None or mapped_weights(subject.model) is not None:
        return None
    try:
        program = export(subject.model, subject.input_names, batch.inputs)
    except ExportError:
        return None
    before, after = (
        [(node.name, str(node.target)) for node in p.graph_module.graph.nodes]
        for p in (subject.program, program)
    )
    return ProgramEngine(program) if before == after else None
