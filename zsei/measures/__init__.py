"""The shelf of measures: what the one pass kept in, numbers about components out. One file each."""

import inspect

from zsei.errors import UsageError
from zsei.measures.activations import ActivationProfile
from zsei.measures.attention_consistency import AttentionConsistency
from zsei.measures.attention_memory import AttentionMemory
from zsei.measures.attention_to_mlp import AttentionToMlp
from zsei.measures.component_similarity import ComponentSimilarity
from zsei.measures.concept_similarity import ConceptSimilarity
from zsei.measures.context_length import ContextLength
from zsei.measures.contribution_alignment import ContributionAlignment
from zsei.measures.data_groups import DataGroups
from zsei.measures.edge_attribution import EdgeAttribution
from zsei.measures.flow_routes import FlowRoutes
from zsei.measures.gradient_noise import GradientNoise
from zsei.measures.gradient_paths import GradientPaths
from zsei.measures.gradient_profile import GradientProfile
from zsei.measures.head_collaboration import HeadCollaboration
from zsei.measures.head_composition import HeadComposition
from zsei.measures.head_kinds import HeadKinds
from zsei.measures.horizon import Horizon
from zsei.measures.layer_decisions import LayerDecisions
from zsei.measures.layer_similarity import LayerSimilarity
from zsei.measures.learning_efficiency import LearningEfficiency
from zsei.measures.look_back import LookBack
from zsei.measures.neuron_activity import NeuronActivity
from zsei.measures.norm_impact import NormImpact
from zsei.measures.receptive_field import ReceptiveField
from zsei.measures.residual_effectiveness import ResidualEffectiveness
from zsei.measures.resolution import Resolution
from zsei.measures.saturation import Saturation
from zsei.measures.series_flow import SeriesFlow
from zsei.measures.spatial_flow import SpatialFlow
from zsei.measures.token_flow import TokenFlow
from zsei.measures.vocabulary import Vocabulary
from zsei.trace.view import Measure, Measured, View

__all__ = ["MEASURES", "Measure", "Measured", "View", "explain"]

MEASURES: tuple[Measure, ...] = (
    # phase 2: forward flow
    ActivationProfile(),
    DataGroups(),
    Saturation(),
    HeadKinds(),
    AttentionConsistency(),
    NeuronActivity(),
    ComponentSimilarity(),
    # phase 3: gradient flow
    GradientProfile(),
    GradientNoise(),
    GradientPaths(),
    LearningEfficiency(),
    # phase 4: integration
    LayerSimilarity(),
    HeadComposition(),
    HeadCollaboration(),
    ContributionAlignment(),
    ConceptSimilarity(),
    ResidualEffectiveness(),
    AttentionToMlp(),
    FlowRoutes(),
    EdgeAttribution(),
    NormImpact(),
    # texts
    TokenFlow(),
    ContextLength(),
    AttentionMemory(),
    LayerDecisions(),
    Vocabulary(),
    # images
    SpatialFlow(),
    ReceptiveField(),
    Resolution(),
    # series
    SeriesFlow(),
    LookBack(),
    Horizon(),
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
