"""The shelf of measures: what the one pass kept in, numbers about components out. One file each."""

import inspect

from zsei.errors import UsageError
from zsei.measures.concept_similarity import ConceptSimilarity
from zsei.measures.contribution_alignment import ContributionAlignment
from zsei.measures.head_collaboration import HeadCollaboration
from zsei.measures.head_composition import HeadComposition
from zsei.measures.layer_similarity import LayerSimilarity
from zsei.measures.norm_impact import NormImpact
from zsei.measures.residual_effectiveness import ResidualEffectiveness
from zsei.trace.view import Measure, Measured, View

__all__ = ["MEASURES", "Measure", "Measured", "View", "explain"]

MEASURES: tuple[Measure, ...] = (
    # phase 2: forward flow
    # phase 3: gradient flow
    # phase 4: integration
    LayerSimilarity(),
    HeadComposition(),
    HeadCollaboration(),
    ContributionAlignment(),
    ConceptSimilarity(),
    ResidualEffectiveness(),
    NormImpact(),
)
"""Every measure, in the order of the phases."""


def explain(name: str) -> str:
    """The documentation of a measure: what it measures, how, and when it misleads.

    Raises:
        UsageError: There is no such measure.
    """
    for measure in MEASURES:
        if measure.name == name:
            return inspect.getdoc(type(measure)) or ""
    known = ", ".join(sorted(measure.name for measure in MEASURES))
    raise UsageError(f"A measure is one of {known}, but got {name!r}.")
