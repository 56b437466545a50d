"""Scores for removal: what taking a unit out physically is predicted to cost."""

from zsei.importance.ranking import Importance
from zsei.strategies.strategy import Scores
from zsei.subject.types import Subject
from zsei.surgery.fold import foldable
from zsei.trace.summary import Trace


def removal_scores(subject: Subject, trace: Trace, importance: Importance) -> Scores:
    """Estimated mean divergence per unit when it is cut out of the model.

    Where the units' mean can be folded into a bias behind them, cutting is mean ablation and the
    importance scores hold. Elsewhere zero takes their place, which has scores of its own: a unit
    with a large mean may be unimportant and yet not be cut for free.
    """
    if subject.program is None:
        return importance.scores
    found = dict(importance.scores)
    for (component, kind), units in trace.units.items():
        cut = kind in ("head", "neuron", "channel")
        if cut and not foldable(subject.program, units.site):
            found[component, kind] = tuple(float(v) for v in units.zeroing)
    return found
