"""Which parts tell the groups of the data apart, and which do so alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Matrix, Measurement
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ConceptSimilarity:
    """How far two heads or branches draw the same line between the groups of the data.

    Measures: whether a part knows which group a sample is of, and whether another part knows it in
    the same way: sample by sample, not only on average.

    Formula: x_u[n] the mean over a sample's kept rows of what part u writes (a head: z). Samples
    are halved within every group; with the group means m_g and the mean m of one half,
    every sample of the other half gets the scores s_u[n, g] = (x_u[n] - m) · (m_g - m).
    concept_separation = share of the scores' variance that lies between groups (η²), on samples
    that did not make the direction. concept_similarity(u, v) = correlation of s_u and s_v over
    samples and groups, where both parts separate.

    Reading it: 0 separation is chance, 1 a part that knows the group for certain. Two parts of high
    similarity read the same concept off the input; whether one can go is for joint ablation to say.

    Misleads when: the groups differ in something trivial (length, alphabet) that every part
    sees; groups are the user's names, hence no concept the model need have; or samples are few.

    References: Alain and Bengio, "Understanding intermediate layers using linear classifier
    probes", 2016; Fisher, "The use of multiple measurements in taxonomic problems", 1936.
    """

    name: ClassVar[str] = "concept-similarity"

    fewest_samples: int = 8
    """Samples of a group below which it is not looked at."""
    least_separation: float = 0.5
    """Share of variance between groups from which a part counts as separating."""
    most_parts: int = 256
    """Parts up to which the matrix is kept."""

    def measure(self, view: View) -> Measured:
        """Separation of every head and branch, and one matrix of those that separate."""
        groups = view.sample_groups
        kept = {g for g in groups if groups.count(g) >= self.fewest_samples}
        if len(set(groups)) < 2:
            return Measured()
        if len(kept) < 2:
            return Measured(notes=(
                f"concepts: could not tell; two groups of {self.fewest_samples} samples are needed",
            ))  # fmt: skip
        names, scores, found = [], [], {}
        for name, samples in _sample_means(view):
            here = torch.tensor([g in kept for g in groups])
            given = [g for g in groups if g in kept]
            if not bool(samples.isfinite().all()):
                continue
            score = _scores(samples[here], given)
            separation = _separation(score, given)
            if separation is None:
                continue
            found[name] = (
                Measurement(name="concept_separation", value=separation, unit="share",
                            n=len(given), note="between " + ", ".join(sorted(kept))),
            )  # fmt: skip
            if separation >= self.least_separation:
                names.append(name)
                scores.append(score.flatten())
        if not 2 <= len(names) <= self.most_parts:
            return Measured(measurements=found)
        values = torch.corrcoef(torch.stack(scores)).clamp(-1, 1).tolist()
        matrix = Matrix(
            name="concept_similarity",
            title="Parts that tell the groups of the data apart alike",
            rows=tuple(names), columns=tuple(names),
            values=tuple(tuple(round(v, 5) for v in row) for row in values),
            unit="correlation", n=len(scores[0]) // len(kept), note=" against ".join(sorted(kept)),
        )  # fmt: skip
        return Measured(measurements=found, matrices=(matrix,))


def _sample_means(view: View) -> Iterator[tuple[str, Tensor]]:
    """(head or branch, mean over its kept rows of every sample [N, c]; NaN where none was kept)."""
    total = len(view.sample_groups)
    for site in view.subject.anatomy.sites:
        rows = view.rows.get(site.node)
        if site.kind not in ("head", "branch") or rows is None or rows.shape[1] % site.units:
            continue
        samples = view.row_samples[site.node]
        sums = torch.zeros(total, rows.shape[1]).index_add_(0, samples, rows.float())
        counts = torch.bincount(samples, minlength=total)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), torch.nan)
        for name, part in zip(site.unit_ids, means.chunk(site.units, 1), strict=True):
            yield name, part.double()


def _scores(samples: Tensor, groups: list[str]) -> Tensor:
    """Scores [N, G] of every sample along directions that the other half of the samples gave."""
    names = sorted(set(groups))
    half, seen = [], dict.fromkeys(names, 0)
    for group in groups:
        half.append(seen[group] % 2)
        seen[group] += 1
    halves, members = torch.tensor(half), torch.tensor([names.index(g) for g in groups])
    found = torch.zeros(len(groups), len(names), dtype=torch.float64)
    for one in (0, 1):
        fitted = samples[halves == one]
        centre = fitted.mean(0)
        means = torch.stack(
            [samples[(halves == one) & (members == g)].mean(0) for g in range(len(names))]
        )
        other = halves != one
        found[other] = (samples[other] - centre) @ (means - centre).T
    return found


def _separation(scores: Tensor, groups: list[str]) -> float | None:
    """η² of scores [N, G]: share of their variance between groups; None where nothing varies."""
    centred = scores - scores.mean(0)
    total = float(centred.square().sum())
    if total <= 1e-20:
        return None
    between = 0.0
    for group in sorted(set(groups)):
        mine = torch.tensor([g == group for g in groups])
        between += int(mine.sum()) * float(centred[mine].mean(0).square().sum())
    return between / total
