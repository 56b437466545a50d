"""Whole layers: which may go, and what may stand in their place."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from zsei.errors import SurgeryRefused
from zsei.gate.together import merge
from zsei.pruning.cut import make_cut
from zsei.pruning.measure import merit_of
from zsei.pruning.task import Found, Task, measured
from zsei.subject.types import Batch, Site
from zsei.surgery.calibration import passed_over
from zsei.surgery.edits import BypassLayer, Edit, ReplaceLayer
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.rows import real_rows


def layer_options(task: Task, edits: Sequence[Edit]) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    """One more layer gone: (what is done, all edits); nothing when no layer may go.

    The layer is the one whose bypass, unrepaired, measures best. It goes without a trace, or one
    fitted linear map stands in its place.
    """
    if "layers" not in task.kinds:
        return
    total = sum(component.kind == "layer" for component in task.subject.anatomy.components)
    if len(_gone(edits)) + 1 > task.settings.max_layer_share * total + 1e-9:
        return
    ranked = _by_bypass(task, edits)
    if ranked:
        yield from _forms(ranked[0], edits)


def without_layers(task: Task, count: int) -> Found | None:
    """The best model found with so many layers fewer, whatever share of them that is.

    Layers go one by one, each time the one whose bypass measures best on what is left; beside this
    order stands that of block influence (1 - cos of what enters and leaves, on the original). Of
    both, removed or replaced by fitted maps, the one that measures best is taken.
    """
    best: list[Found] = []
    greedy: tuple[Edit, ...] = ()
    for _ in range(count):
        ranked = _by_bypass(task, greedy)
        if not ranked:
            return None
        greedy = merge((*greedy, BypassLayer(site=ranked[0])))
    orders = {"measured": [edit.site for edit in greedy], "block influence": _influence(task)}
    for name, sites in orders.items():
        for form in ("removed", "linear", "convolution"):
            edits = tuple(
                BypassLayer(site=site) if form == "removed" else ReplaceLayer(site=site, form=form)  # type: ignore[arg-type]
                for site in sites[:count]
            )
            found = measured(
                task, edits, number=count, variant=f"layers by {name}, {form}", predicted=0.0
            )
            best += [] if found is None else [found]
    return min(best, key=lambda one: one.point.loss, default=None)


def _gone(edits: Sequence[Edit]) -> set[str]:
    whole = (BypassLayer, ReplaceLayer)
    return {edit.site.component for edit in edits if isinstance(edit, whole)}


def _forms(site: Site, edits: Sequence[Edit]) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    yield f"without {site.component}", merge((*edits, BypassLayer(site=site)))
    for form in ("linear", "convolution"):
        whole = merge((*edits, ReplaceLayer(site=site, form=form)))
        yield f"a {form} map for {site.component}", whole


def _by_bypass(task: Task, edits: Sequence[Edit]) -> list[Site]:
    """Layers that could go, the least harmful first, by their measured bypass."""
    gone = _gone(edits) | task.spared
    losses = []
    for site in task.subject.anatomy.sites:
        if site.kind != "layer" or site.component in gone:
            continue
        try:
            cut = make_cut(task.original, merge((*edits, BypassLayer(site=site))), (), "none")
        except SurgeryRefused:
            continue
        loss = merit_of(cut.program, task.subject, task.choose).loss
        losses.append((loss, site.component, site))
    return [site for _, _, site in sorted(losses, key=lambda one: one[:2])]


def _influence(task: Task) -> list[Site]:
    """Layers by how little they turn their input: ShortGPT's block influence, least first."""
    sites = [s for s in task.subject.anatomy.sites if s.kind == "layer" and s.source is not None]
    sums = dict.fromkeys((site.component for site in sites), 0.0)

    def see(values: Mapping[str, Tensor], batch: Batch) -> None:
        for site in sites:
            before, after = (
                real_rows(values[name].flatten(0, -2), batch.mask)
                for name in (str(site.source), site.node)
            )
            turned = 1 - torch.cosine_similarity(before, after, dim=-1)
            sums[site.component] += float(turned.sum())

    names = (name for site in sites for name in (str(site.source), site.node))
    passed_over(ProgramEngine(task.original), task.fit, names, see)
    return sorted(sites, key=lambda site: (sums[site.component], site.component))
