"""Runs measures one after the other; one that breaks becomes a failure in the record."""

from collections.abc import Sequence
from dataclasses import replace

from zsei.records import Failure
from zsei.subject.streamed import release
from zsei.trace.summary import Trace
from zsei.trace.view import Measure, Measured, View


def run_measures(trace: Trace, view: View, measures: Sequence[Measure]) -> Trace:
    """The trace with what the measures add to it.

    Args:
        trace: What was measured so far.
        view: What the measures look at.
        measures: In order; each sees only what the pass kept, not what others found.
    """
    for measure in measures:
        try:
            trace = _joined(trace, measure.measure(view))
        except Exception as error:
            failure = Failure(
                stage="trace",
                what=f"the measure {measure.name} stopped, so its numbers are missing",
                why=f"{type(error).__name__}: {error}",
                fix="the other numbers stand; report this with the model's class",
            )
            trace = replace(trace, failures=(*trace.failures, failure))
        release(view.subject.model)
    return trace


def _joined(trace: Trace, found: Measured) -> Trace:
    measurements = {component: dict(named) for component, named in trace.measurements.items()}
    for component, more in found.measurements.items():
        measurements.setdefault(component, {}).update({m.name: m for m in more})
    groups = {group: dict(named) for group, named in trace.groups.items()}
    for group, named in found.groups.items():
        for component, more in named.items():
            here = groups.setdefault(group, {})
            here[component] = (*here.get(component, ()), *more)
    return replace(
        trace,
        measurements=measurements,
        groups=groups,
        matrices=(*trace.matrices, *found.matrices),
        edges=(*trace.edges, *found.edges),
        notes=(*trace.notes, *found.notes),
    )
