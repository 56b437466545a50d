"""What the probes say of each data group, and of each class, alone."""

from collections.abc import Iterable, Mapping

from zsei.records import Matrix, Measurement
from zsei.subject.objective import Objective, predicted_divergence
from zsei.subject.types import Site
from zsei.trace.evidence import Evidence, Moments
from zsei.trace.responses import prediction_spread


def group_sensitivity(
    objective: Objective, sites: Iterable[Site], evidence: Evidence
) -> dict[str, dict[str, tuple[Measurement, ...]]]:
    """Data group -> component -> its `sensitivity` on that group; empty with one group only.

    Heads, branches and layers are components of their own; neurons and channels are left out.
    """
    found: dict[str, dict[str, tuple[Measurement, ...]]] = {}
    for site, groups in _parts(sites, evidence):
        for group, moments in sorted(groups.items()):
            values = predicted_divergence(objective, moments.mean())
            spread = None
            if moments.n > 1:
                spread = prediction_spread(objective, moments.mean(), moments.std())
            for index, unit in enumerate(site.unit_ids):
                measured = Measurement(
                    name="sensitivity",
                    value=float(values[index]),
                    unit="predicted divergence",
                    std=None if spread is None else float(spread[index]),
                    n=moments.n,
                    note="n counts samples times probes",
                )
                found.setdefault(group, {})[unit] = (measured,)
    return found if len(found) > 1 else {}


def class_sensitivity(
    objective: Objective, sites: Iterable[Site], evidence: Evidence
) -> Matrix | None:
    """Components x classes: sensitivity on the samples of one class; None without classes."""
    rows: dict[str, dict[int, float]] = {}
    counts: dict[int, int] = {}
    for site in sites:
        kept = evidence.sites.get((site.component, site.kind))
        if kept is None or not kept.labelled or site.kind in ("neuron", "channel"):
            continue
        for label, moments in kept.labelled.items():
            counts[label] = moments.n
            values = predicted_divergence(objective, moments.mean())
            for index, unit in enumerate(site.unit_ids):
                rows.setdefault(unit, {})[label] = float(values[index])
    labels = sorted(counts)
    if not rows or len(labels) < 2:
        return None
    return Matrix(
        name="class_sensitivity",
        title="Sensitivity of the output by class of the sample",
        rows=tuple(rows),
        columns=tuple(f"class {label}" for label in labels),
        values=tuple(tuple(row.get(label) for label in labels) for row in rows.values()),
        unit="predicted divergence",
        n=sum(counts.values()),
        note="n counts samples times probes",
    )


def _parts(
    sites: Iterable[Site], evidence: Evidence
) -> Iterable[tuple[Site, Mapping[str, Moments]]]:
    for site in sites:
        kept = evidence.sites.get((site.component, site.kind))
        if kept is not None and site.kind not in ("neuron", "channel"):
            yield site, kept.grouped
